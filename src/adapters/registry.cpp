#include <algorithm>
#include <array>

#include "adapters/adapter.h"

namespace hone {

extern const AdapterMethod kLoraMethod, kDoraMethod, kIa3Method, kPrefixMethod, kPromptMethod,
    kHoulsbyMethod, kPfeifferMethod, kParallelMethod;

std::span<const AdapterMethod> adapter_methods() {
  static const std::array kAll{kLoraMethod,   kDoraMethod,    kIa3Method,      kPrefixMethod,
                               kPromptMethod, kHoulsbyMethod, kPfeifferMethod, kParallelMethod};
  return kAll;
}

}  // namespace hone
