#include "text/stream_decoder.h"

#include <utility>

#include "text/unicode.h"

namespace hone {

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special, bool continues_text)
    : tokenizer_(tokenizer),
      skip_special_(skip_special),
      continues_text_(continues_text),
      at_start_(!continues_text) {}

std::string StreamDecoder::push(int32_t id) {
  const std::string bytes = tokenizer_.token_bytes(id, at_start_);  // checks the id
  if (skip_special_ && tokenizer_.is_special(id)) return {};
  at_start_ = false;
  pending_ += bytes;
  const size_t whole = pending_.size() - unfinished_tail(pending_);
  std::string out = replace_ill_formed(std::string_view(pending_).substr(0, whole));
  pending_.erase(0, whole);
  return out;
}

std::string StreamDecoder::finish() {
  at_start_ = !continues_text_;
  return replace_ill_formed(std::exchange(pending_, {}));
}

}  // namespace hone
