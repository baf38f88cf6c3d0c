// The tokenizer files that are no tokenizer.json. The first byte says which file the rest is
// (modulo the list below), and in files that come in twos a NUL byte ends the first: an Error, or
// ids that decode again.
#include <algorithm>

#include "base/error.h"
#include "text/tokenizer_directory.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hone;
  static constexpr const char* kFiles[] = {"tokenizer.model", "qwen.tiktoken",
                                           "rwkv_vocab_v20230424.txt", "vocab.txt", "vocab.json"};
  if (size == 0) return 0;
  const std::string file = kFiles[data[0] % std::size(kFiles)];
  std::string first(data + 1, data + size), second;
  if (file == "vocab.json") {
    const size_t cut = std::min(first.find('\0'), first.size());
    second = first.substr(std::min(cut + 1, first.size()));
    first.resize(cut);
  }
  const auto text = [&](const std::string& name) -> std::optional<std::string> {
    if (name == file) return first;
    if (name == "merges.txt" && file == "vocab.json") return second;
    return std::nullopt;
  };
  try {
    auto tokenizer = tokenizer_from_directory(text, "fuzz");
    if (!tokenizer) return 0;
    std::vector<int32_t> ids = tokenizer->encode("Hello  w\xC3\xB6rld\n\t123 \xF0\x9F\x98\x80");
    tokenizer->decode(ids);
    tokenizer_files_from_spec(tokenizer->spec());
  } catch (const Error&) {
  }
  return 0;
}
