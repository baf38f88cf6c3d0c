// The frame of files that hone makes for itself and maps again: caches of tokens, of a teacher.
//
//   bytes 0 ... 7    the kind, 8 characters
//         8 ... 11   version, u32
//        12 ... 15   width, u32: bytes of an id in the body
//   body
//   description      JSON: counts, and whose it is
//   last 24 bytes    length of the description, u64; checksum of all that is in front of it, u64;
//                    the kind again
//
// Little-endian. The description stands at the end because counts are known then: a body streams
// through the writer.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include "base/files.h"
#include "base/json.h"

namespace hone {

struct FrameKind {
  std::string_view magic;  ///< 8 characters
  uint32_t version;
  const char* name;  ///< "token cache", for messages
};

/// A framed file, mapped.
class FramedFile {
 public:
  static constexpr int64_t kFront = 16, kAlign = 8;

  /// Checks the frame but for the checksum. Raises io, or corrupt.
  FramedFile(std::shared_ptr<const MappedFile> file, const FrameKind& kind);
  /// Raises corrupt where the checksum is wrong. Reads all of it; only what is used afterwards
  /// counts as memory.
  void check_sum() const;

  const std::string& name() const { return name_; }
  std::string_view bytes() const { return bytes_; }
  uint32_t width() const { return read<uint32_t>(12); }
  /// Where the body ends.
  int64_t end() const { return end_; }
  /// The value at a byte, which the caller knows to be inside.
  template <typename T>
  T read(int64_t at) const {
    T value;
    std::memcpy(&value, bytes_.data() + at, sizeof(T));
    return value;
  }
  /// Gives pages back.
  void release(int64_t begin, int64_t size) const;

  /// A member of the description; raises corrupt where it is missing, or no whole number in
  /// [least, most].
  const Json& member(const char* key) const;
  int64_t count(const char* key, int64_t least, int64_t most) const;

 private:
  std::shared_ptr<const MappedFile> file_;
  FrameKind kind_;
  std::string name_;
  std::string_view bytes_;
  int64_t end_ = 0;
  Json description_;
};

/// Writes one; the file appears when finish() returns, whole.
class FramedWriter {
 public:
  FramedWriter(const fs::path& path, const FrameKind& kind, uint32_t width);

  void put(const void* data, size_t size);
  /// Zeros up to the next multiple of FramedFile::kAlign.
  void pad();
  void finish(const Json& description);

 private:
  void write_chunks(bool all);

  AtomicFile file_;
  FrameKind kind_;
  std::string pending_;  // not yet hashed and written
  int64_t position_ = 0;
  uint64_t sum_ = 0;
};

/// The checksum that the last bytes hold of those in front, for tests that spoil files.
uint64_t frame_checksum(std::string_view bytes);

}  // namespace hone
