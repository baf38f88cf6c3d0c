#include "models/registry.h"

#include "models/family.h"

namespace hone {

extern const Family kLlamaFamily;
extern const Family kGpt2Family;
extern const Family kMistralFamily;
extern const Family kQwen2Family, kQwen3Family, kQwen3MoeFamily;
extern const Family kMixtralFamily;
extern const Family kGraniteFamily;
extern const Family kOlmo2Family;
extern const Family kGemma2Family;
extern const Family kGemma3Family;
extern const Family kGptNeoxFamily;
extern const Family kOptFamily;
extern const Family kGptJFamily;
extern const Family kGptBigCodeFamily;
extern const Family kFalconFamily, kFalcon40bFamily, kFalconRwFamily;
extern const Family kBloomFamily;
extern const Family kMptFamily;
extern const Family kPhi3Family;
extern const Family kStableLmFamily;
extern const Family kMamba2Family;
extern const Family kMemoryTransformerFamily;
extern const Family kQwen35Family;
extern const Family kRwkv5Family, kRwkv5CppFamily;
extern const Family kRwkv6Family, kRwkv6CppFamily;
extern const Family kRwkv7Family, kRwkv7CppFamily;

std::span<const Family* const> family_registry() {
  static const Family* const kFamilies[] = {
      &kLlamaFamily,      &kMistralFamily,
      &kQwen2Family,      &kQwen3Family,
      &kGraniteFamily,    &kOlmo2Family,
      &kGpt2Family,       &kGemma2Family,
      &kGemma3Family,     &kGptNeoxFamily,
      &kOptFamily,        &kGptJFamily,
      &kGptBigCodeFamily, &kMamba2Family,
      &kQwen35Family,     &kRwkv5Family,
      &kRwkv5CppFamily,   &kRwkv6Family,
      &kRwkv6CppFamily,   &kRwkv7Family,
      &kRwkv7CppFamily,   &kMemoryTransformerFamily,
      &kFalconFamily,     &kFalcon40bFamily,
      &kBloomFamily,      &kFalconRwFamily,
      &kMptFamily,        &kPhi3Family,
      &kStableLmFamily,   &kMixtralFamily,
      &kQwen3MoeFamily,
  };
  return kFamilies;
}

}  // namespace hone
