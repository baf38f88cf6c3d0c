// A file of training data, read piece by piece: JSON records, or plain text.
//
//   lines   one JSON value on each line (JSONL); blank lines are skipped
//   list    one JSON list of records, over as many lines as it likes
//   plain   text as it stands: one document, or several with lines between them that hold a
//           separator and nothing else ("<|endoftext|>"). The newline in front of a separator
//           belongs to it; documents of nothing but white space are skipped.
//
// The file is mapped, and what was read is given back to the system: memory holds the piece at
// hand, however large the file. A document longer than `piece_bytes` comes in parts, cut where a
// space stands between two ASCII letters, at which every tokenizer we know cuts too; the part that
// follows begins with that space.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"

namespace hone {

/// One record, or a part of a plain document. `text` lives as long as the DataFile.
struct DataPiece {
  std::string_view text;
  int64_t line = 0;                 // of its beginning, from 1; plain: 0
  int64_t byte = 0;                 // of its beginning, from 0
  bool begins = true, ends = true;  // its document
};

class DataFile {
 public:
  enum class Form { lines, list, plain };

  /// Largest record.
  static constexpr size_t kMaxRecord = size_t{64} << 20;
  static constexpr size_t kPieceBytes = size_t{1} << 20;

  /// `plain` reads any file as plain text, without it a file is taken for JSON: a list where it
  /// begins with '[', else lines. A byte order mark is passed over. Raises io; corrupt where the
  /// file is empty.
  DataFile(const fs::path& path, bool plain, std::vector<std::string> separators = {},
           size_t piece_bytes = kPieceBytes);

  /// Whether the name is one of JSON's: .json, .jsonl, .ndjson.
  static bool has_json_name(const fs::path& path);

  /// The next piece; false at the end. Raises corrupt, naming the line or the byte, on a list that
  /// is not closed, a record of more than kMaxRecord bytes, and plain text that is not UTF-8.
  bool next(DataPiece& piece);

  Form form() const { return form_; }
  /// "FILE:LINE", or "FILE: byte N" for plain text.
  std::string where(const DataPiece& piece) const;
  int64_t position() const { return static_cast<int64_t>(at_); }
  int64_t size() const { return static_cast<int64_t>(all_.size()); }
  /// Gives back the pages of everything read so far; pieces stay valid, and are read again.
  void release();

 private:
  bool next_line(DataPiece& piece);
  bool next_element(DataPiece& piece);
  bool next_plain(DataPiece& piece);
  /// Where the separator line that begins at `at` ends, or npos.
  size_t separator_end(size_t at) const;
  void skip_space();
  [[noreturn]] void bad(const char* what) const;

  std::shared_ptr<const MappedFile> file_;
  std::string_view all_;
  Form form_;
  std::vector<std::string> separators_;
  size_t piece_bytes_;
  size_t at_ = 0, released_ = 0;
  int64_t line_ = 1;
  bool line_begins_ = true;  // plain: at_ is the beginning of a line
  bool within_ = false;      // plain: inside a document
  bool list_begun_ = false, list_done_ = false;
};

}  // namespace hone
