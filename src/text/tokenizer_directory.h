// The tokenizer of a Hugging Face directory, from the first of these that is there:
//   tokenizer.json
//   vocab.json and merges.txt      byte-level BPE of GPT-2, OPT, RoBERTa, Qwen 2
//   *.tiktoken, tiktoken.model     byte-level BPE by ranks: a line for each token, base64 and rank
//   tokenizer.model, spiece.model  SentencePiece's own file (BPE or Unigram), or ranks as above
//   rwkv_vocab_v20230424.txt       RWKV "world"
//   vocab.txt                      WordPiece of BERT
// tokenizer_config.json says the rest: special tokens, chat template, class of the tokenizer.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/json.h"
#include "text/tokenizer.h"

namespace hone {

/// The text of a file of the directory, by its name; nothing where there is no such file.
using DirectoryText = std::function<std::optional<std::string>(const std::string&)>;

/// Null where the directory has no tokenizer. `path` names it in errors, which are those of
/// tokenizer_from_json and tokenizer_from_spec; an unknown kind of ranks is unsupported.
std::unique_ptr<Tokenizer> tokenizer_from_directory(const DirectoryText& text,
                                                    const std::string& path);

// The parts of it, for tests.

/// The class that tokenizer_config.json names ("tokenizer_class"), or "".
std::string tokenizer_class(const Json& config);

/// A tokenizer.json for GPT-2's two files.
std::string json_from_merges(const std::string& vocab_json, std::string_view merges_txt,
                             const Json& config, const std::string& source);
/// One for ranks in base64. `file` is the file's name, by which known sets of special tokens and
/// expressions are found where the configuration names neither its class nor a "pat_str".
std::string json_from_ranks(std::string_view ranks, const std::string& file, const Json& config,
                            const std::string& source);
/// One for BERT's list of tokens.
std::string json_from_wordpieces(std::string_view vocab_txt, const Json& config,
                                 const std::string& source);
/// A spec ("llama" or "t5") from SentencePiece's ModelProto.
TokenizerSpec spec_from_sentencepiece(std::string_view proto, const std::string& source);

}  // namespace hone
