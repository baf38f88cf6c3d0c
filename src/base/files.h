// Files: read-only maps, whole reads, and writes that are all or nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/temporary.h"

namespace hone {

namespace fs = std::filesystem;

/// Tells the system that the bytes [begin, begin+size) of a MappedFile are not needed for now, so
/// that they stop counting against resident memory, together with their neighbours that came into
/// it by being near; all are read again when touched. Nothing for any other memory.
void release_file_pages(const std::byte* begin, size_t size);

/// Has the system read the bytes of a MappedFile behind `from`, up to 32 MB of them, while the
/// caller works on; what was asked for already is not asked for again. Nothing for any other
/// memory.
void read_file_ahead(const std::byte* from);

/// A file mapped read-only. Pages are read when touched; the map lives as long as the object.
/// Throws Error(io) naming the file. An empty file maps to an empty span.
class MappedFile {
 public:
  static std::shared_ptr<const MappedFile> open(const fs::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const fs::path& path() const { return path_; }
  void release(const std::byte* begin, size_t size) const { release_file_pages(begin, size); }

 private:
  MappedFile(fs::path path, const std::byte* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}
  fs::path path_;
  const std::byte* data_;
  size_t size_;
};

/// The whole file as text; `limit` bytes at most (Error(corrupt) past it), so that a hostile
/// "config.json" cannot fill memory.
std::string read_text_file(const fs::path& path, size_t limit = size_t{256} << 20);

/// A file written under a temporary name beside its target. commit() syncs it and renames it into
/// place; without commit() the destructor removes it, so that an interrupted command leaves either
/// the old file or the new one.
class AtomicFile {
 public:
  explicit AtomicFile(const fs::path& target);

  void write(const void* data, size_t size);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Zero bytes up to the next multiple of `alignment`.
  void pad_to(size_t alignment);
  int64_t position() const { return position_; }
  void commit();

 private:
  void flush();
  Temporary temporary_;
  int64_t position_ = 0;
  std::string buffer_;
};

/// Writes `text` to `path` through an AtomicFile.
void write_text_file(const fs::path& path, std::string_view text);

/// Raises, naming the path, unless output can be put at `path`: nothing is there yet but perhaps an
/// empty directory, and the directory around it exists and may be written.
void check_new_output(const fs::path& path);

}  // namespace hone
