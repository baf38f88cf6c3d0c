#include "models/registry.h"

#include "models/family.h"

namespace hone {

extern const Family kLlamaFamily;
extern const Family kGpt2Family;
extern const Family kGemma3Family;

std::span<const Family* const> family_registry() {
  static const Family* const kFamilies[] = {
      &kLlamaFamily,
      &kGpt2Family,
      &kGemma3Family,
  };
  return kFamilies;
}

}  // namespace hone
