// "tq1_0", "tq2_0", "q2_0", "q1_0": GGUF's types of one to two bits, a scale d to a block.
//
//   tq1_0  54 bytes for 256: 48 bytes of five base-3 digits, 4 bytes of four, f16 d   d·(q − 1)
//   tq2_0  66 bytes for 256: 64 bytes of four 2-bit codes, f16 d                      d·(q − 1)
//   q2_0   18 bytes for 64: f16 d, 16 bytes of four 2-bit codes                       d·(q − 1)
//   q1_0   18 bytes for 128: f16 d, 16 bytes of eight bits                            ±d
// A byte of five digits holds ⌈v·256/243⌉ for v = Σ digit·3^(4−n), so that multiplying by 3 pushes
// the next digit, the first one first, out of the top of the byte. Digit n of byte j is weight
// 32n + j in bytes 0…31, 160 + 16n + (j − 32) in 32…47, 240 + 4n + (j − 48) in the last four, whose
// fifth digit is 0. Code n of byte j of tq2_0 is weight 128⌊j/32⌋ + 32n + j mod 32. Bits and codes
// of the other two stand in the order of the weights, lowest bits first. Encoding gives ggml's
// bytes and ignores importances; ternary codes suit weights that were trained to be ternary.
#include "encodings/gguf_block.h"

namespace hone {
namespace {

float largest_magnitude(const float* x, int n) {
  float largest = 0;
  for (int i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
  return largest;
}

/// Codes 0, 1, 2 for −d, 0, d with d the largest magnitude, which is returned.
float encode_ternary(const float* x, int n, uint8_t* q) {
  const float d = largest_magnitude(x, n);
  const float inverse = d > 0 ? 1.0f / d : 0.0f;
  for (int i = 0; i < n; ++i) {
    // A subnormal d has an infinite inverse, and 0 times that is no number: it becomes 0.
    const float step = std::round(x[i] * inverse);
    q[i] = static_cast<uint8_t>(step >= 1 ? 2 : step <= -1 ? 0 : 1);
  }
  return d;
}

struct Ternary {
  static constexpr int kBits = 4, kOffset = 1;
  static constexpr bool kMins = false, kF16 = true;
  static constexpr const float* kTable = nullptr;
};

struct Tq1_0 : Ternary {
  static constexpr std::string_view kId = "tq1_0";
  static constexpr std::string_view kDescription =
      "GGUF TQ1_0: -1, 0 and 1, five to a byte, blocks of 256 with a scale";
  static constexpr int kElements = 256, kGroup = 256, kBytes = 54, kScaleAt = 52;

  static void unpack(const uint8_t* b, int8_t* q, float* scales, float*) {
    scales[0] = load_f16(b + kScaleAt);
    each_run([&](int first, int bytes, int digits, int weight) {
      for (int j = 0; j < bytes; ++j) {
        uint8_t rest = b[first + j];
        for (int n = 0; n < digits; ++n) {
          q[weight + n * bytes + j] = static_cast<int8_t>((rest * 3 >> 8) - 1);
          rest = static_cast<uint8_t>(rest * 3);
        }
      }
    });
  }

  static void pack(const float* x, const float*, uint8_t* b) {
    uint8_t q[kElements];
    store_f16(encode_ternary(x, kElements, q), b + kScaleAt);
    each_run([&](int first, int bytes, int digits, int weight) {
      for (int j = 0; j < bytes; ++j) {
        int value = 0;
        for (int n = 0; n < 5; ++n)
          value = 3 * value + (n < digits ? q[weight + n * bytes + j] : 0);
        b[first + j] = static_cast<uint8_t>((value * 256 + 242) / 243);
      }
    });
  }

 private:
  /// Calls f(first byte, bytes, digits of each, first weight) for the three runs of bytes.
  template <typename F>
  static void each_run(F f) {
    f(0, 32, 5, 0);
    f(32, 16, 5, 160);
    f(48, 4, 4, 240);
  }
};

struct Tq2_0 : Ternary {
  static constexpr std::string_view kId = "tq2_0";
  static constexpr std::string_view kDescription =
      "GGUF TQ2_0: -1, 0 and 1 in 2 bits, blocks of 256 with a scale";
  static constexpr int kElements = 256, kGroup = 256, kBytes = 66, kScaleAt = 64;

  static void unpack(const uint8_t* b, int8_t* q, float* scales, float*) {
    scales[0] = load_f16(b + kScaleAt);
    for (int i = 0; i < kElements; ++i)
      q[i] = static_cast<int8_t>((b[byte_of(i)] >> shift_of(i) & 3) - 1);
  }
  static void pack(const float* x, const float*, uint8_t* b) {
    uint8_t q[kElements];
    store_f16(encode_ternary(x, kElements, q), b + kScaleAt);
    std::memset(b, 0, kScaleAt);
    for (int i = 0; i < kElements; ++i) b[byte_of(i)] |= static_cast<uint8_t>(q[i] << shift_of(i));
  }

 private:
  static constexpr int byte_of(int i) { return i / 128 * 32 + i % 32; }
  static constexpr int shift_of(int i) { return i % 128 / 32 * 2; }
};

struct Q2_0 : Ternary {
  static constexpr std::string_view kId = "q2_0";
  static constexpr std::string_view kDescription =
      "GGUF Q2_0: -1, 0, 1 and 2 in 2 bits, blocks of 64 with a scale";
  static constexpr int kElements = 64, kGroup = 64, kBytes = 18;

  static void unpack(const uint8_t* b, int8_t* q, float* scales, float*) {
    scales[0] = load_f16(b);
    for (int i = 0; i < kElements; ++i)
      q[i] = static_cast<int8_t>((b[2 + i / 4] >> (i % 4 * 2) & 3) - 1);
  }
  static void pack(const float* x, const float*, uint8_t* b) {
    uint8_t q[kElements];
    std::memset(b, 0, kBytes);
    store_f16(encode_ternary(x, kElements, q), b);
    for (int i = 0; i < kElements; ++i) b[2 + i / 4] |= static_cast<uint8_t>(q[i] << (i % 4 * 2));
  }
};

struct Q1_0 : Ternary {
  static constexpr std::string_view kId = "q1_0";
  static constexpr std::string_view kDescription =
      "GGUF Q1_0: signs alone, blocks of 128 with a scale";
  static constexpr int kElements = 128, kGroup = 128, kBytes = 18;

  static void unpack(const uint8_t* b, int8_t* q, float* scales, float*) {
    scales[0] = load_f16(b);
    for (int i = 0; i < kElements; ++i) q[i] = (b[2 + i / 8] >> (i % 8) & 1) != 0 ? 1 : -1;
  }
  /// The mean magnitude is the least-squares scale of the signs.
  static void pack(const float* x, const float*, uint8_t* b) {
    float sum = 0;
    for (int i = 0; i < kElements; ++i) sum += std::fabs(x[i]);
    std::memset(b, 0, kBytes);
    store_f16(sum / kElements, b);
    for (int i = 0; i < kElements; ++i)
      if (x[i] >= 0) b[2 + i / 8] |= static_cast<uint8_t>(1 << (i % 8));
  }
};

}  // namespace

namespace encoding_entry {

const Encoding& tq1_0() {
  static const BlockEncoding<Tq1_0> e;
  return e;
}
const Encoding& tq2_0() {
  static const BlockEncoding<Tq2_0> e;
  return e;
}
const Encoding& q2_0() {
  static const BlockEncoding<Q2_0> e;
  return e;
}
const Encoding& q1_0() {
  static const BlockEncoding<Q1_0> e;
  return e;
}

}  // namespace encoding_entry
}  // namespace hone
