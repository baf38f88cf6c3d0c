// Streaming detokenisation: ids in one by one, text out as soon as it is whole characters.
#pragma once

#include <cstdint>
#include <string>

#include "text/tokenizer.h"

namespace hone {

/// The pieces push() and finish() return, put together, are decode() of the ids pushed. No piece
/// ends inside a character: the bytes of an unfinished one wait for the next token.
class StreamDecoder {
 public:
  /// `tokenizer` must outlive the decoder. `continues_text`: the ids go on where a prompt ended, so
  /// that the space before a first word is kept; pass false for ids that begin a text.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true,
                         bool continues_text = true);

  /// The text that is certain after this token, possibly empty. Raises as decode() does.
  std::string push(int32_t id);
  /// What is left: an unfinished character comes out as U+FFFD. The decoder then begins anew.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  bool continues_text_;
  bool at_start_;
  std::string pending_;  // the bytes of a character that is not finished
};

}  // namespace hone
