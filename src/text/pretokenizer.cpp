#include "text/pretokenizer.h"

#include <functional>

#include "text/newer_characters.h"
#include "text/unicode.h"

namespace hone {
namespace {

// Turns a sequence of delimiters and stretches between them into pieces, as a behaviour says.
class Splitter {
 public:
  Splitter(std::string_view text, SplitBehavior behavior, bool invert, const EmitPiece& emit)
      : text_(text), behavior_(behavior), invert_(invert), emit_(emit) {}

  // text_[end of the last part … end) is a delimiter, or is not.
  void part(size_t end, bool delimiter) {
    delimiter ^= invert_;
    switch (behavior_) {
      case SplitBehavior::removed:
        flush(end_);
        if (delimiter) begin_ = end;
        break;
      case SplitBehavior::isolated:
        flush(end_);
        break;
      case SplitBehavior::contiguous:
        if (delimiter != last_) flush(end_);
        break;
      case SplitBehavior::merged_with_previous:
        if (!delimiter || last_) flush(end_);
        break;
      case SplitBehavior::merged_with_next:
        if (delimiter || !last_) flush(end_);
        break;
    }
    last_ = delimiter;
    end_ = end;
  }
  void finish() { flush(end_); }

 private:
  void flush(size_t end) {
    if (end > begin_) emit_(text_.substr(begin_, end - begin_));
    begin_ = std::max(begin_, end);
  }

  std::string_view text_;
  SplitBehavior behavior_;
  bool invert_;
  const EmitPiece& emit_;
  size_t begin_ = 0, end_ = 0;
  bool last_ = false;
};

}  // namespace

void PreTokenizer::run(size_t step, std::string_view piece, bool at_start,
                       const EmitPiece& emit) const {
  if (piece.empty()) return;
  if (step == steps_.size()) return emit(piece);
  bool first = at_start;
  steps_[step](piece, at_start, [&](std::string_view part) {
    // A part of the piece that leaves out its beginning does not begin the text.
    const std::less<const char*> before;
    const bool inside =
        !before(part.data(), piece.data()) && before(part.data(), piece.data() + piece.size());
    run(step + 1, part, first && (!inside || part.data() == piece.data()), emit);
    first = false;
  });
}

PreTokenizer::Step split_by_regex(std::shared_ptr<const Regex> regex, SplitBehavior behavior,
                                  bool invert) {
  return [=](std::string_view piece, bool, const EmitPiece& emit) {
    Splitter splitter(piece, behavior, invert, emit);
    std::string storage;
    const std::string_view known = with_older_characters(piece, storage);
    size_t done = 0;  // what parts cover
    for (size_t from = 0; from <= piece.size();) {
      const auto match = regex->search(known, from);
      if (!match) break;
      const auto [begin, end] = *match;
      if (begin > done) splitter.part(begin, false);
      if (end > begin) splitter.part(end, true);
      done = end;
      from = end > begin ? end : end == piece.size() ? end + 1 : end + utf8_at(piece, end).size;
    }
    if (done < piece.size()) splitter.part(piece.size(), false);
    splitter.finish();
  };
}

PreTokenizer::Step split_by_class(bool (*delimiter)(char32_t), SplitBehavior behavior) {
  return [=](std::string_view piece, bool, const EmitPiece& emit) {
    Splitter splitter(piece, behavior, false, emit);
    size_t done = 0;
    for (size_t i = 0; i < piece.size();) {
      const Utf8Char c = utf8_at(piece, i);
      if (delimiter(c.code)) {
        if (i > done) splitter.part(i, false);
        splitter.part(done = i + c.size, true);
      }
      i += c.size;
    }
    if (done < piece.size()) splitter.part(piece.size(), false);
    splitter.finish();
  };
}

PreTokenizer::Step add_prefix_space() {
  return [](std::string_view piece, bool, const EmitPiece& emit) {
    if (piece.starts_with(' ')) return emit(piece);
    emit(" " + std::string(piece));
  };
}

PreTokenizer::Step spell_bytes() {
  return [](std::string_view piece, bool, const EmitPiece& emit) { emit(bytes_to_letters(piece)); };
}

PreTokenizer::Step metaspace(std::string replacement, PrependScheme scheme, bool split) {
  return [=](std::string_view piece, bool at_start, const EmitPiece& emit) {
    std::string text = replace_all(piece, " ", replacement);
    const bool prepend =
        scheme == PrependScheme::always || (scheme == PrependScheme::first && at_start);
    if (prepend && !text.starts_with(replacement)) text.insert(0, replacement);
    if (!split) return emit(text);
    Splitter splitter(text, SplitBehavior::merged_with_next, false, emit);
    size_t done = 0;
    for (size_t at; (at = text.find(replacement, done)) != text.npos;
         done = at + replacement.size()) {
      if (at > done) splitter.part(at, false);
      splitter.part(at + replacement.size(), true);
    }
    if (done < text.size()) splitter.part(text.size(), false);
    splitter.finish();
  };
}

}  // namespace hone
