#include "text/data_file.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"
#include "text/unicode.h"

namespace hone {
namespace {

constexpr std::string_view kSpace = " \t\r\n";
constexpr size_t npos = std::string_view::npos;

bool is_blank(std::string_view text) { return text.find_first_not_of(kSpace) == npos; }

bool is_ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// Where to cut `text` so that its tokens stay what they were: at the last space between letters, or
// else between characters.
size_t last_cut(std::string_view text, std::string_view all) {
  for (size_t i = text.size(); i-- > 1;)
    if (text[i] == ' ' && is_ascii_letter(text[i - 1]) && i + 1 < all.size() &&
        is_ascii_letter(all[i + 1]))
      return i;
  size_t end = text.size();
  for (int i = 0; i < 3 && end > 1 && (static_cast<unsigned char>(all[end]) & 0xC0) == 0x80; ++i)
    --end;
  return end;
}

}  // namespace

bool DataFile::has_json_name(const fs::path& path) {
  const std::string ext = path.extension().string();
  return ext == ".json" || ext == ".jsonl" || ext == ".ndjson";
}

DataFile::DataFile(const fs::path& path, bool plain, std::vector<std::string> separators,
                   size_t piece_bytes)
    : file_(MappedFile::open(path)),
      all_(reinterpret_cast<const char*>(file_->bytes().data()), file_->bytes().size()),
      form_(plain ? Form::plain : Form::lines),
      separators_(std::move(separators)),
      piece_bytes_(piece_bytes) {
  HONE_ASSERT(piece_bytes_ >= 8);
  if (all_.starts_with("\xEF\xBB\xBF")) at_ = 3;
  HONE_CHECK(at_ < all_.size(), corrupt, "{}: the file is empty", path.string());
  const size_t first = all_.find_first_not_of(kSpace, at_);
  if (!plain && first != npos && all_[first] == '[') form_ = Form::list;
}

std::string DataFile::where(const DataPiece& piece) const {
  return form_ == Form::plain ? fmt::format("{}: byte {}", file_->path().string(), piece.byte)
                              : fmt::format("{}:{}", file_->path().string(), piece.line);
}

void DataFile::bad(const char* what) const {
  fail(ErrorKind::corrupt, "{}:{}: {}", file_->path().string(), line_, what);
}

bool DataFile::next(DataPiece& piece) {
  piece = {};
  read_file_ahead(file_->bytes().data() + at_);
  switch (form_) {
    case Form::lines:
      return next_line(piece);
    case Form::list:
      return next_element(piece);
    case Form::plain:
      return next_plain(piece);
  }
  return false;
}

void DataFile::release() {
  file_->release(file_->bytes().data() + released_, at_ - released_);
  released_ = at_;
}

bool DataFile::next_line(DataPiece& piece) {
  while (at_ < all_.size()) {
    const size_t end = std::min(all_.find('\n', at_), all_.size());
    if (end - at_ > kMaxRecord) bad("the line is longer than 64 MiB");
    piece.text = all_.substr(at_, end - at_);
    piece.byte = static_cast<int64_t>(at_);
    piece.line = line_++;
    at_ = std::min(end + 1, all_.size());
    if (!is_blank(piece.text)) return true;
  }
  return false;
}

void DataFile::skip_space() {
  for (; at_ < all_.size() && kSpace.find(all_[at_]) != npos; ++at_) line_ += all_[at_] == '\n';
}

bool DataFile::next_element(DataPiece& piece) {
  if (list_done_) return false;
  skip_space();
  if (!list_begun_) {
    ++at_;  // the bracket
    list_begun_ = true;
    skip_space();
    list_done_ = at_ < all_.size() && all_[at_] == ']';
  }
  if (!list_done_) {
    // Nothing is checked here but where the record ends; the parser checks the rest.
    const size_t begin = at_;
    piece.byte = static_cast<int64_t>(at_);
    piece.line = line_;
    int64_t depth = 0;
    bool quoted = false;
    for (; at_ < all_.size(); ++at_) {
      const char c = all_[at_];
      if (at_ - begin > kMaxRecord) bad("a record is longer than 64 MiB");
      line_ += c == '\n';
      if (quoted) {
        if (c == '\\') ++at_;
        quoted = c != '"';
      } else if (c == '"') {
        quoted = true;
      } else if (depth == 0 && (c == ',' || c == ']')) {
        break;
      } else {
        depth += (c == '{' || c == '[') - (c == '}' || c == ']');
      }
    }
    if (at_ >= all_.size()) {
      at_ = all_.size();
      bad("the file ends within its list");
    }
    piece.text = all_.substr(begin, at_ - begin);
    list_done_ = all_[at_] == ']';
    if (!list_done_) {
      ++at_;
      return true;
    }
  }
  ++at_;
  skip_space();
  if (at_ < all_.size()) bad("text behind the end of the list");
  return piece.line > 0;
}

size_t DataFile::separator_end(size_t at) const {
  for (const std::string& s : separators_) {
    if (s.empty() || all_.substr(at, s.size()) != s) continue;
    const size_t rest = std::min(all_.find_first_not_of(" \t\r", at + s.size()), all_.size());
    if (rest == all_.size()) return rest;
    if (all_[rest] == '\n') return rest + 1;
  }
  return npos;
}

bool DataFile::next_plain(DataPiece& piece) {
  while (at_ < all_.size()) {
    const size_t begin = at_, window = std::min(piece_bytes_, all_.size() - begin);
    const bool continues = within_;
    size_t end = begin + window, after = end;
    const std::string_view seen = all_.substr(0, begin + window);
    // The beginning of the next line in the window.
    auto line_behind = [&](size_t at) {
      const size_t newline = seen.find('\n', at);
      return newline == npos ? npos : newline + 1;
    };
    bool separated = false;
    for (size_t line = line_begins_ ? begin : line_behind(begin); line < begin + window;
         line = line_behind(line)) {
      const size_t stop = separator_end(line);
      if (stop == npos) continue;
      separated = true;
      end = line > begin ? line - 1 : line;
      after = stop;
      break;
    }
    if (!separated && end < all_.size())
      after = end = begin + last_cut(all_.substr(begin, window), all_.substr(begin));
    at_ = after;
    within_ = !separated && at_ < all_.size();
    line_begins_ = separated || all_[at_ - 1] == '\n';
    piece.text = all_.substr(begin, end - begin);
    piece.byte = static_cast<int64_t>(begin);
    piece.begins = !continues;
    piece.ends = !within_;
    HONE_CHECK(is_valid_utf8(piece.text), corrupt, "{}: not UTF-8 text", where(piece));
    // A part of nothing but space may still have to close its document.
    if (!is_blank(piece.text) || !piece.begins || !piece.ends) return true;
  }
  return false;
}

}  // namespace hone
