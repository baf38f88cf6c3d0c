// The vocabulary file of RWKV "world" models: a line for each token, "ID LITERAL SIZE", where
// LITERAL is a Python literal of a text ('...') or of bytes (b'...') and SIZE counts its bytes.
// Id 0, which ends a text, is not in the file.
#pragma once

#include <string>
#include <string_view>

#include "text/tokenizer.h"

namespace hone {

inline constexpr const char* kRwkvVocabularyFile = "rwkv_vocab_v20230424.txt";

/// Raises corrupt, naming `source` and the line, where a line says something else.
TokenizerSpec rwkv_spec_from_vocabulary(std::string_view text, const std::string& source);

/// The file of a spec of the model "rwkv".
std::string rwkv_vocabulary_text(const TokenizerSpec& spec);

}  // namespace hone
