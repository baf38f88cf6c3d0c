#include "text/vocabulary.h"

#include <bit>
#include <cstring>

#include "base/error.h"

namespace hone {

uint32_t hash_bytes(std::string_view text) {
  uint64_t h = 0x9E3779B97F4A7C15u ^ text.size();
  const auto mix = [&](uint64_t v) {
    h = (h ^ v) * 0xD6E8FEB86659FD93u;
    h ^= h >> 32;
  };
  size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    uint64_t v;
    std::memcpy(&v, text.data() + i, 8);
    mix(v);
  }
  uint64_t tail = 0;
  std::memcpy(&tail, text.data() + i, text.size() - i);
  mix(tail);
  return static_cast<uint32_t>(h);
}

void check_probes(int probes) {
  HONE_CHECK(probes < 4096, corrupt, "tokenizer: too many tokens or merges with one hash");
}

Vocabulary::Vocabulary(int32_t size)
    : begin_(size), length_(size), slots_(std::bit_ceil(size_t{16} + size_t(size) * 2), {0, -1}) {}

bool Vocabulary::add(std::string_view text, int32_t id) {
  HONE_ASSERT(id >= 0 && id < size());
  const uint32_t hash = hash_bytes(text);
  size_t at = hash & (slots_.size() - 1);
  for (int probes = 0; slots_[at].id >= 0; at = (at + 1) & (slots_.size() - 1)) {
    if (slots_[at].hash == hash && this->text(slots_[at].id) == text) return false;
    check_probes(++probes);
  }
  HONE_CHECK(arena_.size() + text.size() < UINT32_MAX, corrupt,
             "tokenizer: the tokens' texts are 4 GiB or more");
  slots_[at] = {hash, id};
  begin_[id] = static_cast<uint32_t>(arena_.size());
  length_[id] = static_cast<uint32_t>(text.size());
  arena_ += text;
  return true;
}

int32_t Vocabulary::find(std::string_view text) const {
  const uint32_t hash = hash_bytes(text);
  for (size_t at = hash & (slots_.size() - 1); slots_[at].id >= 0;
       at = (at + 1) & (slots_.size() - 1)) {
    if (slots_[at].hash == hash && this->text(slots_[at].id) == text) return slots_[at].id;
  }
  return -1;
}

}  // namespace hone
