// The pre-tokenizer names of GGUF (tokenizer.ggml.pre) and the expressions they stand for.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace hone {

/// What a name of tokenizer.ggml.pre says about a byte-level BPE.
struct PreTokenizerFamily {
  const char* name;                   // of the expression, for people
  std::vector<const char*> patterns;  // each splits the pieces of the one before ("isolated")
  bool ignore_merges = false;
  bool add_bos = false;            // where the file does not say
  bool nfc = false;                // the text is put in normal form C first
  std::vector<const char*> names;  // of tokenizer.ggml.pre; the first is the one to write
};

/// The family of a name; "" (no such key) and "default" are GPT-2's. Raises unsupported on an
/// unknown name.
const PreTokenizerFamily& pretokenizer_family(std::string_view name, const std::string& source);

/// `pattern` with line ends as "\r" and "\n": some files hold the characters, some the escapes.
std::string without_line_ends(std::string_view pattern);

/// The name that stands for these patterns and flags, to write into a GGUF; none where there is
/// none.
std::optional<std::string> pretokenizer_name(const std::vector<std::string>& patterns,
                                             bool ignore_merges, bool nfc);

/// The expression of GPT-2, which tokenizer.json's ByteLevel stands for.
extern const char* const kGpt2Pattern;

}  // namespace hone
