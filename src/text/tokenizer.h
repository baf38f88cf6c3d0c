// Text to token ids and back: byte-level BPE (GPT-2, Llama 3, Qwen, ...), SentencePiece-style BPE
// with byte fallback (Llama 2, Mistral, Gemma, ...), Unigram (T5, XLM-R), WordPiece (BERT) and the
// greedy longest match of RWKV "world"; from Hugging Face's tokenizer.json, from GGUF metadata, or
// from the older files that a directory may have instead (tokenizer_directory.h).
//
// The ids are those of the file's home library: Hugging Face tokenizers for tokenizer.json,
// llama.cpp for GGUF. Where the two disagree on one model, it is because the files say different
// things (a GGUF has no normalizer, and merges SentencePiece vocabularies by score, not by rank).
//
// Text is UTF-8. Ill-formed input is read as U+FFFD, one per maximal ill-formed part (what Python's
// errors="replace" does), and so is ill-formed output of decode(); token_bytes() is exact.
//
// text/ knows no file formats: whoever reads a GGUF fills a TokenizerSpec from its keys.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/strings.h"

namespace hone {

/// The number a GGUF file gives each token in tokenizer.ggml.token_type.
enum class TokenType : int32_t {
  normal = 1,
  unknown = 2,
  control = 3,       // special: never printed, only parsed where the caller allows it
  user_defined = 4,  // matched in the text before the merges, but ordinary text otherwise
  unused = 5,
  byte = 6,  // <0xNN>
};

/// A tokenizer as GGUF metadata says it. Beside each field is the key it stands for, less the
/// "tokenizer.ggml." in front; an empty vector or optional is an absent key.
struct TokenizerSpec {
  // model: "gpt2" (byte-level BPE), "llama" (SentencePiece's BPE), "t5" (Unigram), "bert"
  // (WordPiece) or "rwkv" (greedy longest match)
  std::string model;
  std::string pre;                       // pre: name of the pre-tokenizer expression
  Strings tokens;                        // tokens: the token text of each id
  std::vector<float> scores;             // scores: needed for "llama" and "t5"
  std::vector<int32_t> token_types;      // token_type: values of TokenType
  Strings merges;                        // merges: "left right", in order of rank; for "gpt2"
  std::optional<int32_t> bos;            // bos_token_id
  std::optional<int32_t> eos;            // eos_token_id
  std::optional<int32_t> unk;            // unknown_token_id
  std::optional<int32_t> pad;            // padding_token_id
  std::optional<int32_t> sep;            // seperator_token_id (sic): ends a text of "bert"
  std::optional<int32_t> eot;            // eot_token_id
  std::optional<int32_t> eom;            // eom_token_id
  std::optional<bool> add_bos;           // add_bos_token
  std::optional<bool> add_eos;           // add_eos_token
  std::optional<bool> add_space_prefix;  // add_space_prefix
  std::optional<bool> remove_extra_whitespaces;  // remove_extra_whitespaces: of "t5"
  std::string precompiled_charsmap;              // precompiled_charsmap: of "t5" (charsmap.h)
  std::string chat_template;  // tokenizer.chat_template (no "ggml."); empty: none
  std::string source;         // the file's name, for error messages

  // Filled by tokenizer_from_json only: the texts it was built from, to write them back unchanged,
  // and, where GGUF metadata cannot say what they say, the reason; empty where it can.
  std::string tokenizer_json;
  std::string tokenizer_config_json;
  std::string gguf_obstacle;
};

/// An immutable tokenizer; every const method may be called from several threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// The ids of `text`. `add_special` adds what the file says surrounds a text (bos, eos);
  /// `parse_special` reads the text of a special token as that token, as a chat template needs;
  /// without it such text is ordinary text (pass false for text that users typed).
  /// Raises invalid_argument where the file's own expression takes too long on this text.
  virtual std::vector<int32_t> encode(std::string_view text, bool add_special = true,
                                      bool parse_special = true) const = 0;

  /// The text of `ids`, always well-formed UTF-8. Raises invalid_argument on an id out of range.
  virtual std::string decode(std::span<const int32_t> ids, bool skip_special = false) const = 0;

  /// What the token adds to a text, perhaps not whole characters; decode() is these in a row.
  /// `at_start`: the first of a text, where SentencePiece vocabularies drop the space in front.
  virtual std::string token_bytes(int32_t id, bool at_start = false) const = 0;
  /// The token as the file spells it ("Ġthe", "▁the", "<0x0A>"); empty for an id with no token.
  virtual std::string_view token_text(int32_t id) const = 0;

  /// One more than the largest id.
  virtual int32_t vocab_size() const = 0;
  virtual std::optional<int32_t> token_id(std::string_view token_text) const = 0;
  virtual std::optional<int32_t> bos() const = 0;
  virtual std::optional<int32_t> eos() const = 0;
  virtual std::optional<int32_t> unk() const = 0;
  virtual std::optional<int32_t> pad() const = 0;
  /// Special: control and unknown tokens, which decode(skip_special) leaves out.
  virtual bool is_special(int32_t id) const = 0;
  /// Every id that ends a generation: eos, eot, eom, and tokens known to end a turn by their text
  /// (<|im_end|>, <end_of_turn>, ...). Ascending. A generation_config.json may name more.
  virtual const std::vector<int32_t>& end_of_generation() const = 0;
  /// The Jinja text of the file's (default) chat template.
  virtual const std::optional<std::string>& chat_template() const = 0;

  /// The neutral form, to write GGUF metadata (unless gguf_obstacle says why not) or a HF
  /// directory.
  virtual const TokenizerSpec& spec() const = 0;
};

/// From the text of a tokenizer.json and, where there is one, of the tokenizer_config.json beside
/// it (else empty). `source` names the file in errors. Raises corrupt on a malformed file,
/// unsupported on a component that is not implemented, by name.
std::unique_ptr<Tokenizer> tokenizer_from_json(std::string_view tokenizer_json,
                                               std::string_view tokenizer_config_json,
                                               const std::string& source);

/// From GGUF metadata. Raises corrupt on inconsistent lists, unsupported on an unknown model or
/// pre-tokenizer name.
std::unique_ptr<Tokenizer> tokenizer_from_spec(TokenizerSpec spec);

/// The tokenizer.json and tokenizer_config.json that give the ids this spec gives: the stored texts
/// if it came from a HF directory, else ones made from the fields.
std::string tokenizer_json_from_spec(const TokenizerSpec& spec);
std::string tokenizer_config_json_from_spec(const TokenizerSpec& spec);
/// The files by which a Hugging Face directory holds the tokenizer: the two above, or what its
/// kind has in the place of tokenizer.json. Raises unsupported where there is no such file.
std::vector<std::pair<std::string, std::string>> tokenizer_files_from_spec(
    const TokenizerSpec& spec);

}  // namespace hone
