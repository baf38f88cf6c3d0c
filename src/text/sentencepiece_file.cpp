// SentencePiece's own file (tokenizer.model, spiece.model): a protocol buffer, of which this reads
// the pieces with scores and types, the kind of model, the special ids and the rewrites.
//
// A message is a row of fields, each a varint (number << 3 | wire type) and its value: a varint
// (0), 8 bytes (1), a length and that many bytes (2), or 4 bytes (5). Unknown fields are skipped.
#include <cstring>

#include "base/error.h"
#include "text/pipeline.h"
#include "text/tokenizer_directory.h"
#include "text/unicode.h"

namespace hone {
namespace {

class Message {
 public:
  Message(std::string_view bytes, const std::string& source) : bytes_(bytes), source_(source) {}

  /// Moves to the next field; false at the end.
  bool next() {
    if (at_ == bytes_.size()) return false;
    const uint64_t key = varint();
    number = static_cast<int>(std::min<uint64_t>(key >> 3, INT32_MAX));
    value = 0;
    text = {};
    switch (key & 7) {
      case 0:
        value = varint();
        break;
      case 1:
        text = take(8);
        break;
      case 2:
        text = take(varint());
        break;
      case 5:
        text = take(4);
        break;
      default:
        fail(ErrorKind::corrupt, "{}: not a SentencePiece model: wire type {} at byte {}", source_,
             key & 7, at_);
    }
    return true;
  }
  float as_float() const {
    HONE_CHECK(text.size() == 4, corrupt, "{}: not a SentencePiece model: a score of {} bytes",
               source_, text.size());
    float f;
    std::memcpy(&f, text.data(), 4);
    return f;
  }
  int32_t as_int() const { return static_cast<int32_t>(value); }

  int number = 0;
  uint64_t value = 0;
  std::string_view text;

 private:
  uint64_t varint() {
    uint64_t v = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<uint8_t>(take(1)[0]);
      v |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return v;
    }
    fail(ErrorKind::corrupt, "{}: not a SentencePiece model: an endless number at byte {}", source_,
         at_);
  }
  std::string_view take(uint64_t n) {
    HONE_CHECK(n <= bytes_.size() - at_, corrupt,
               "{}: not a SentencePiece model: a field of {} bytes at byte {} of {}", source_, n,
               at_, bytes_.size());
    at_ += n;
    return bytes_.substr(at_ - n, n);
  }

  std::string_view bytes_;
  const std::string& source_;
  size_t at_ = 0;
};

void read_piece(Message piece, TokenizerSpec& spec) {
  std::string_view text;
  float score = 0;
  auto type = static_cast<int32_t>(TokenType::normal);
  while (piece.next()) {
    if (piece.number == 1) text = piece.text;
    if (piece.number == 2) score = piece.as_float();
    if (piece.number == 3) type = piece.as_int();  // the numbers are those of GGUF
  }
  spec.tokens.push_back(text);
  spec.scores.push_back(score);
  spec.token_types.push_back(type);
}

void read_trainer(Message trainer, TokenizerSpec& spec, const std::string& source) {
  int32_t model = 1, unk = 0, bos = 1, eos = 2, pad = -1;
  while (trainer.next()) {
    if (trainer.number == 3) model = trainer.as_int();
    if (trainer.number == 40) unk = trainer.as_int();
    if (trainer.number == 41) bos = trainer.as_int();
    if (trainer.number == 42) eos = trainer.as_int();
    if (trainer.number == 43) pad = trainer.as_int();
    HONE_CHECK(trainer.number != 24 || trainer.value == 0, unsupported,
               "{}: a SentencePiece model that puts spaces behind words", source);
  }
  HONE_CHECK(model == 1 || model == 2, unsupported,
             "{}: a SentencePiece model of kind {}; expected 1 (Unigram) or 2 (BPE)", source,
             model);
  spec.model = model == 1 ? "t5" : "llama";
  const auto id = [](int32_t v) { return v < 0 ? std::nullopt : std::optional(v); };
  spec.unk = id(unk);
  spec.bos = id(bos);
  spec.eos = id(eos);
  spec.pad = id(pad);
}

}  // namespace

TokenizerSpec spec_from_sentencepiece(std::string_view proto, const std::string& source) {
  TokenizerSpec spec;
  spec.source = source;
  bool trainer = false;
  spec.add_space_prefix = spec.remove_extra_whitespaces = true;
  for (Message m(proto, source); m.next();) {
    const Message inner(m.text, source);
    if (m.number == 1) {
      HONE_CHECK(std::ssize(spec.tokens) < kMaxVocabulary, corrupt, "{}: more than {} tokens",
                 source, kMaxVocabulary);
      read_piece(inner, spec);
    } else if (m.number == 2) {
      read_trainer(inner, spec, source);
      trainer = true;
    } else if (m.number == 3) {
      Message n = inner;
      while (n.next()) {
        if (n.number == 2) spec.precompiled_charsmap = n.text;
        if (n.number == 3) spec.add_space_prefix = n.value != 0;
        if (n.number == 4) spec.remove_extra_whitespaces = n.value != 0;
        HONE_CHECK(n.number != 5 || n.value != 0, unsupported,
                   "{}: a SentencePiece model that keeps spaces as they are", source);
      }
    }
  }
  HONE_CHECK(trainer && !spec.tokens.empty(), corrupt,
             "{}: not a SentencePiece model: it has {} tokens and {} description", source,
             spec.tokens.size(), trainer ? "a" : "no");
  return spec;
}

}  // namespace hone
