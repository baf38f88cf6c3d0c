// Temporary: the name under which output is written until it is complete.
//
// What will be TARGET is written as TARGET.hone-tmp and renamed at the end. The temporary stays
// locked (flock) while its writer lives: a later run thereby tells what a killed one left, which it
// removes, from what another one is still writing, which it refuses.
#pragma once

#include <filesystem>

namespace hone {

class Temporary {
 public:
  enum class Kind { file, directory };

  /// Creates an empty file or directory beside `target`, in place of a dead leftover. Raises io,
  /// naming `target`.
  Temporary(const std::filesystem::path& target, Kind kind);
  /// Removes it, with all it holds, unless commit() has renamed it.
  ~Temporary();
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;

  const std::filesystem::path& target() const { return target_; }
  const std::filesystem::path& path() const { return path_; }
  /// Open for writing where it is a file.
  int descriptor() const { return fd_; }
  /// Syncs it and renames it into place.
  void commit();

 private:
  void remove_leftover() const;
  void create(Kind kind);

  std::filesystem::path target_, path_;
  int fd_ = -1;
};

/// For a process about to end by a signal: removes every temporary that it still has, and lets no
/// other thread begin or commit one from here on.
void remove_temporaries();

}  // namespace hone
