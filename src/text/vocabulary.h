// Strings with ids, in one arena, found by hash.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hone {

/// Ids are dense or nearly so; -1 is "none".
class Vocabulary {
 public:
  /// Room for ids 0 … size-1, none of them present.
  explicit Vocabulary(int32_t size = 0);

  /// Gives `text` the id, which must be below size() and not in use; false where the text already
  /// has one (the first stays).
  bool add(std::string_view text, int32_t id);
  int32_t find(std::string_view text) const;
  std::string_view text(int32_t id) const {
    return std::string_view(arena_).substr(begin_[id], length_[id]);
  }
  int32_t size() const { return static_cast<int32_t>(begin_.size()); }

 private:
  std::string arena_;
  std::vector<uint32_t> begin_, length_;
  struct Slot {
    uint32_t hash;
    int32_t id;
  };
  std::vector<Slot> slots_;
};

uint32_t hash_bytes(std::string_view text);

/// Raises corrupt after more probes than chance explains: tables are at most half full, so that
/// only entries made to collide lie far from their places.
void check_probes(int probes);

}  // namespace hone
