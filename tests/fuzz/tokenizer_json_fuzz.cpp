// A tokenizer.json up to the first NUL byte, then text: an Error, or ids that decode again.
#include <algorithm>

#include "base/error.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hone;
  const uint8_t* nul = std::find(data, data + size, uint8_t{0});
  std::string json(data, nul);
  std::string text(std::min(nul + 1, data + size), data + size);
  if (text.empty()) text = "Hello  w\xC3\xB6rld\n\t123 \xF0\x9F\x98\x80";
  try {
    auto tokenizer = tokenizer_from_json(json, "", "fuzz");
    for (bool special : {false, true}) {
      std::vector<int32_t> ids = tokenizer->encode(text, special, special);
      tokenizer->decode(ids, special);
    }
    tokenizer_json_from_spec(tokenizer->spec());
  } catch (const Error&) {
  }
  return 0;
}
