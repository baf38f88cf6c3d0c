// Streams of small integers, as GPTQ packs them into words.
#pragma once

#include <cstdint>

namespace hone {

/// Number i of a little-endian stream of `bits`-bit numbers (1 to 8), least significant bit first.
/// Reads only bytes that hold it.
inline uint8_t stream_get(const uint8_t* stream, int64_t i, int bits) {
  int64_t at = i * bits;
  int shift = static_cast<int>(at % 8);
  unsigned value = stream[at / 8];
  if (shift + bits > 8) value |= static_cast<unsigned>(stream[at / 8 + 1]) << 8;
  return static_cast<uint8_t>((value >> shift) & ((1u << bits) - 1));
}

/// Sets number i; its bits must be 0 before.
inline void stream_set(uint8_t* stream, int64_t i, int bits, uint8_t value) {
  int64_t at = i * bits;
  int shift = static_cast<int>(at % 8);
  unsigned spread = static_cast<unsigned>(value) << shift;
  stream[at / 8] = static_cast<uint8_t>(stream[at / 8] | spread);
  if (shift + bits > 8) stream[at / 8 + 1] = static_cast<uint8_t>(stream[at / 8 + 1] | spread >> 8);
}

}  // namespace hone
