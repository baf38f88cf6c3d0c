// "q4_0", "q4_1", "q5_0", "q5_1", "q8_0": GGUF's blocks of 32 weights with one f16 scale d, and in
// the _1 types an f16 minimum m.
//
//   q4_0  18 bytes: d, 16 bytes of nibbles                 d·(q − 8)
//   q4_1  20 bytes: d, m, nibbles                          d·q + m
//   q5_0  22 bytes: d, 4 bytes of fifth bits, nibbles      d·(q − 16)
//   q5_1  24 bytes: d, m, fifth bits, nibbles              d·q + m
//   q8_0  34 bytes: d, 32 signed bytes                     d·q
// Byte j of the nibbles holds weight j (low) and weight j+16 (high); bit j of the fifth bits
// belongs to weight j. Encoding gives ggml's reference bytes, rounding included: it ignores
// importances.
#include "encodings/gguf_block.h"

namespace hone {
namespace {

constexpr int kBlock = 32;

void unpack_fifth_bits(const uint8_t* bytes, int8_t* q) {
  for (int j = 0; j < kBlock; ++j)
    q[j] = static_cast<int8_t>(q[j] | (bytes[j / 8] >> (j % 8) & 1) << 4);
}

void pack_fifth_bits(const uint8_t* q, uint8_t* bytes) {
  std::memset(bytes, 0, kBlock / 8);
  for (int j = 0; j < kBlock; ++j) bytes[j / 8] |= static_cast<uint8_t>((q[j] >> 4 & 1) << (j % 8));
}

/// Truncates to 0…top. The order of the comparisons sends a NaN (from a subnormal scale) to 0.
uint8_t clamp_code(float x, float top) {
  return static_cast<uint8_t>(x > 0 ? (x < top ? x : top) : 0.0f);
}

/// Codes around an offset of half the range; the weight of largest magnitude gets code 0. Returns
/// the scale.
float encode_centred(const float* x, int half, uint8_t* q) {
  float extreme = x[0];
  for (int i = 1; i < kBlock; ++i)
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  float d = extreme / static_cast<float>(-half);
  float inverse = reciprocal(d);
  float centre = static_cast<float>(half) + 0.5f;
  for (int i = 0; i < kBlock; ++i)
    q[i] = clamp_code(x[i] * inverse + centre, static_cast<float>(2 * half - 1));
  return d;
}

struct ScaleMin {
  float scale;
  float min;
};

/// Codes 0…top from the smallest to the largest weight.
ScaleMin encode_range(const float* x, int top, uint8_t* q) {
  float low = x[0], high = x[0];
  for (int i = 1; i < kBlock; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  float d = (high - low) / static_cast<float>(top);
  float inverse = reciprocal(d);
  for (int i = 0; i < kBlock; ++i)
    q[i] = clamp_code((x[i] - low) * inverse + 0.5f, static_cast<float>(top));
  return {d, low};
}

struct Legacy {
  static constexpr int kElements = kBlock, kGroup = kBlock;
  static constexpr bool kF16 = true;
  static constexpr const float* kTable = nullptr;
};

struct Q4_0 : Legacy {
  static constexpr std::string_view kId = "q4_0";
  static constexpr std::string_view kDescription =
      "GGUF Q4_0: 4-bit codes, blocks of 32 with a scale";
  static constexpr int kBytes = 18, kBits = 4, kOffset = 8;
  static constexpr bool kMins = false;
  static void unpack(const uint8_t* b, int8_t* q, float* scales, float*) {
    scales[0] = load_f16(b);
    unpack_nibbles(b + 2, q);
    for (int i = 0; i < kBlock; ++i) q[i] = static_cast<int8_t>(q[i] - kOffset);
  }
  static void pack(const float* x, const float*, uint8_t* b) {
    uint8_t q[kBlock];
    store_f16(encode_centred(x, 8, q), b);
    pack_nibbles(q, b + 2);
  }
};

struct Q4_1 : Legacy {
  static constexpr std::string_view kId = "q4_1";
  static constexpr std::string_view kDescription =
      "GGUF Q4_1: 4-bit codes, blocks of 32 with a scale and a minimum";
  static constexpr int kBytes = 20, kBits = 4, kOffset = 0;
  static constexpr bool kMins = true;
  static void unpack(const uint8_t* b, int8_t* q, float* scales, float* mins) {
    scales[0] = load_f16(b);
    mins[0] = load_f16(b + 2);
    unpack_nibbles(b + 4, q);
  }
  static void pack(const float* x, const float*, uint8_t* b) {
    uint8_t q[kBlock];
    auto [d, m] = encode_range(x, 15, q);
    store_f16(d, b);
    store_f16(m, b + 2);
    pack_nibbles(q, b + 4);
  }
};

struct Q5_0 : Legacy {
  static constexpr std::string_view kId = "q5_0";
  static constexpr std::string_view kDescription =
      "GGUF Q5_0: 5-bit codes, blocks of 32 with a scale";
  static constexpr int kBytes = 22, kBits = 8, kOffset = 0;
  static constexpr bool kMins = false;
  static void unpack(const uint8_t* b, int8_t* q, float* scales, float*) {
    scales[0] = load_f16(b);
    unpack_nibbles(b + 6, q);
    unpack_fifth_bits(b + 2, q);
    for (int i = 0; i < kBlock; ++i) q[i] = static_cast<int8_t>(q[i] - 16);
  }
  static void pack(const float* x, const float*, uint8_t* b) {
    uint8_t q[kBlock];
    store_f16(encode_centred(x, 16, q), b);
    pack_fifth_bits(q, b + 2);
    pack_nibbles(q, b + 6);
  }
};

struct Q5_1 : Legacy {
  static constexpr std::string_view kId = "q5_1";
  static constexpr std::string_view kDescription =
      "GGUF Q5_1: 5-bit codes, blocks of 32 with a scale and a minimum";
  static constexpr int kBytes = 24, kBits = 8, kOffset = 0;
  static constexpr bool kMins = true;
  static void unpack(const uint8_t* b, int8_t* q, float* scales, float* mins) {
    scales[0] = load_f16(b);
    mins[0] = load_f16(b + 2);
    unpack_nibbles(b + 8, q);
    unpack_fifth_bits(b + 4, q);
  }
  static void pack(const float* x, const float*, uint8_t* b) {
    uint8_t q[kBlock];
    auto [d, m] = encode_range(x, 31, q);
    store_f16(d, b);
    store_f16(m, b + 2);
    pack_fifth_bits(q, b + 4);
    pack_nibbles(q, b + 8);
  }
};

struct Q8_0 : Legacy {
  static constexpr std::string_view kId = "q8_0";
  static constexpr std::string_view kDescription =
      "GGUF Q8_0: 8-bit codes, blocks of 32 with a scale";
  static constexpr int kBytes = 34, kBits = 8, kOffset = 0;
  static constexpr bool kMins = false;
  static void unpack(const uint8_t* b, int8_t* q, float* scales, float*) {
    scales[0] = load_f16(b);
    std::memcpy(q, b + 2, kBlock);
  }
  static void pack(const float* x, const float*, uint8_t* b) {
    float absmax = 0;
    for (int i = 0; i < kBlock; ++i) absmax = std::max(absmax, std::fabs(x[i]));
    float d = absmax / 127.0f;
    float inverse = reciprocal(d);
    store_f16(d, b);
    for (int i = 0; i < kBlock; ++i) {
      float code = std::round(x[i] * inverse);
      code = code > -128.0f ? (code < 127.0f ? code : 127.0f) : -128.0f;
      b[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(code));
    }
  }
};

}  // namespace

namespace encoding_entry {

const Encoding& q4_0() {
  static const BlockEncoding<Q4_0> e;
  return e;
}
const Encoding& q4_1() {
  static const BlockEncoding<Q4_1> e;
  return e;
}
const Encoding& q5_0() {
  static const BlockEncoding<Q5_0> e;
  return e;
}
const Encoding& q5_1() {
  static const BlockEncoding<Q5_1> e;
  return e;
}
const Encoding& q8_0() {
  static const BlockEncoding<Q8_0> e;
  return e;
}

}  // namespace encoding_entry
}  // namespace hone
