// Small helpers on files.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "base/files.h"

namespace hone {

/// As fs::exists, but false where the system gives no answer: opening then says why.
inline bool file_exists(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

/// Writes in pieces, so that AtomicFile's buffer never holds a whole tensor.
inline void write_in_pieces(AtomicFile& file, std::span<const std::byte> bytes) {
  constexpr size_t kPiece = size_t{1} << 20;
  for (size_t at = 0; at < bytes.size(); at += kPiece)
    file.write(bytes.data() + at, std::min(kPiece, bytes.size() - at));
}

}  // namespace hone
