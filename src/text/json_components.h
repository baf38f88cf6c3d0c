// The components of a tokenizer.json, each built from its JSON object {"type": NAME, ...}: what
// Hugging Face tokenizers serialises as normalizer, pre_tokenizer, post_processor and decoder.
// One table per kind of component maps NAME to the function that builds it.
#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

#include "base/json.h"
#include "text/pipeline.h"

namespace hone {

/// Fills the parts of a tokenizer, component by component, and notes what a GGUF could say of them.
class JsonComponents {
 public:
  explicit JsonComponents(TokenizerParts& parts) : parts_(parts) {}

  // Each takes the component's object, or null for none. They raise unsupported on a name or a
  // combination that is not implemented; a missing or mistyped field raises a Json exception.
  void add_normalizer(const Json& component);
  void add_pretokenizer(const Json& component);
  /// Prefix and suffix of the ids, as the template for a single text gives them.
  void add_post_processor(const Json& component);
  void add_decoder(const Json& component);

  /// The pre-tokenizer has a ByteLevel part, so that the model's symbols are bytes.
  bool byte_level() const { return byte_level_; }
  /// Spells the words in the byte alphabet, for models whose symbols are its letters.
  void spell_last() {
    if (spell_next_) parts_.pretokenizer.add(spell_bytes());
    spell_next_ = false;
  }

  // What tokenizer.ggml.pre or add_space_prefix would have to express.
  const std::vector<std::string>& patterns() const { return patterns_; }
  /// Normalizers and pre-tokenizers that GGUF has no word for, by name.
  const std::vector<std::string>& inexpressible() const { return inexpressible_; }
  bool nfc() const { return nfc_; }
  bool puts_space_first() const { return puts_space_first_; }
  bool spaces_to_metaspace() const { return spaces_to_metaspace_; }

 private:
  using Builder = void (JsonComponents::*)(const Json&);
  struct Named {
    const char* name;
    Builder build;
  };
  void dispatch(const char* kind, std::initializer_list<Named> table, const Json& component);
  void each(const Json& list, Builder build);
  [[noreturn]] void refuse(const std::string& what) const;

  void normalizer_sequence(const Json& c);
  void normalizer_prepend(const Json& c);
  void normalizer_replace(const Json& c);
  void normalizer_form(const Json& c);
  void normalizer_lowercase(const Json& c);
  void normalizer_strip(const Json& c);
  void normalizer_strip_accents(const Json& c);
  void normalizer_bert(const Json& c);
  void normalizer_nmt(const Json& c);
  void normalizer_precompiled(const Json& c);
  void normalizer_byte_level(const Json& c);

  void add_step(PreTokenizer::Step step);
  void add_split(const std::string& pattern, SplitBehavior behavior, bool invert);
  void pretokenizer_sequence(const Json& c);
  void pretokenizer_byte_level(const Json& c);
  void pretokenizer_split(const Json& c);
  void pretokenizer_digits(const Json& c);
  void pretokenizer_metaspace(const Json& c);
  void pretokenizer_whitespace(const Json& c);
  void pretokenizer_whitespace_split(const Json& c);
  void pretokenizer_punctuation(const Json& c);
  void pretokenizer_bert(const Json& c);
  void pretokenizer_delimiter(const Json& c);

  void surround(std::vector<int32_t> prefix, const std::vector<int32_t>& suffix);
  void post_sequence(const Json& c);
  void post_template(const Json& c);
  void post_pair(const Json& c);
  void post_nothing(const Json& c);

  void decoder_sequence(const Json& c);
  void decoder_byte_level(const Json& c);
  void decoder_byte_fallback(const Json& c);
  void decoder_fuse(const Json& c);
  void decoder_metaspace(const Json& c);
  void decoder_replace(const Json& c);
  void decoder_strip(const Json& c);
  void decoder_wordpiece(const Json& c);

  int32_t checked_id(const Json& id) const;

  TokenizerParts& parts_;
  int components_ = 0;  // built so far
  bool byte_level_ = false;
  bool spell_next_ = false;  // a step that follows sees the piece spelled in the byte alphabet
  bool fused_ = false;       // the decoder has put the tokens together
  std::vector<std::string> patterns_, inexpressible_;
  bool nfc_ = false, puts_space_first_ = false, spaces_to_metaspace_ = false;
};

}  // namespace hone
