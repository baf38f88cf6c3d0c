// "iq4_nl", "iq4_xs", "mxfp4", "gguf_nvfp4": GGUF's blocks whose 4-bit codes index a fixed table.
//
//   iq4_nl       18 bytes for 32: f16 d, 16 bytes of nibbles           d·table[q]
//   iq4_xs      136 bytes for 256: f16 d, 8 scales s, 8 times nibbles  d·s·table[q], s −32…31
//   mxfp4        17 bytes for 32: u8 exponent e, 16 bytes of nibbles   2^(e−128)·table[q]
//   gguf_nvfp4   36 bytes for 64: 4 scales s, 4 times 8 nibble bytes   s/2·table[q], s of 8 bits
// The table of the last two is twice E2M1. A scale of NVFP4 is E4M3 without a sign; where a model
// has a factor for the whole matrix beside it, that is another tensor, which is not read. MXFP4 and
// NVFP4 encode to ggml's bytes and ignore importances; the IQ4 types search their scales by
// weighted least squares.
#include <limits>

#include "encodings/gguf_block.h"

namespace hone {
namespace {

constexpr int kTableBlock = 32;  // weights of a block, or of a sub-block of iq4_xs

constexpr float kIq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                            1,    13,   25,  38,  53,  69,  89,  113};
constexpr float kE2m1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

float extreme_of(const float* x, int n) {
  float extreme = x[0];
  for (int i = 1; i < n; ++i)
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  return extreme;
}

struct TableBlock {
  static constexpr int kBits = 4, kOffset = 0;
  static constexpr bool kMins = false;
};

// --- IQ4: the table of unequal steps ----------------------------------------------------------

uint8_t nearest_iq4(float x) {
  int q = 0;
  for (int i = 0; i < 15; ++i) q += x > (kIq4[i] + kIq4[i + 1]) / 2 ? 1 : 0;
  return static_cast<uint8_t>(q);
}

/// The importances of 32 weights as parts of `heaviest`; all alike where nobody weighs them.
void load_weights(const float* importance, float heaviest, float* w) {
  bool any = false;
  for (int i = 0; i < kTableBlock; ++i) {
    w[i] = heaviest > 0 ? importance[i] / heaviest : 1.0f;
    any |= w[i] > 0;
  }
  if (!any) std::fill(w, w + kTableBlock, 1.0f);
}

float heaviest_of(const float* importance, int n) {
  return importance != nullptr ? *std::max_element(importance, importance + n) : 0.0f;
}

/// Codes of 32 weights under a scale, and Σ w·x·v and Σ w·v² over the table's values v.
struct Iq4Fit {
  uint8_t q[kTableBlock];
  float xv = 0, vv = 0;

  Iq4Fit(const float* x, const float* w, float inverse) {
    for (int i = 0; i < kTableBlock; ++i) {
      q[i] = nearest_iq4(x[i] * inverse);
      float v = kIq4[q[i]];
      xv += w[i] * x[i] * v;
      vv += w[i] * v * v;
    }
  }
  /// Σ w·(x − scale·v)², without the part Σ w·x² that no scale changes.
  float error(float scale) const { return scale * (scale * vv - 2 * xv); }
};

/// Places the largest magnitude at either end of the table or somewhat beyond or below it, and
/// keeps the scale that is optimal for the codes which explain most of Σ w·x².
float best_scale(const float* x, const float* w) {
  float extreme = extreme_of(x, kTableBlock), best = 0, most = -1;
  if (extreme == 0) return 0;
  for (float end : {kIq4[0], kIq4[15]})
    for (float step = -8; step <= 8; step += 2) {
      Iq4Fit fit(x, w, end * (1 + 0.015f * step) / extreme);
      if (fit.vv > 0 && fit.xv * (fit.xv / fit.vv) > most) {
        most = fit.xv * (fit.xv / fit.vv);
        best = fit.xv / fit.vv;
      }
    }
  return most >= 0 ? best : extreme / kIq4[0];
}

struct Iq4Nl : TableBlock {
  static constexpr std::string_view kId = "iq4_nl";
  static constexpr std::string_view kDescription =
      "GGUF IQ4_NL: codes into 16 unequal steps, blocks of 32 with a scale";
  static constexpr int kElements = kTableBlock, kGroup = kTableBlock, kBytes = 18;
  static constexpr bool kF16 = true;
  static constexpr const float* kTable = kIq4;

  static void unpack(const uint8_t* b, int8_t* q, float* scales, float*) {
    scales[0] = load_f16(b);
    unpack_nibbles(b + 2, q);
  }

  static void pack(const float* x, const float* importance, uint8_t* b) {
    float w[kTableBlock];
    load_weights(importance, heaviest_of(importance, kTableBlock), w);
    float scale = nearest_f16(best_scale(x, w));
    store_f16(scale, b);
    pack_nibbles(Iq4Fit(x, w, reciprocal(scale)).q, b + 2);
  }
};

/// The scale of sub-block j is s − 32 for the 6-bit s whose low nibble is in byte 4 + j / 2 and
/// whose upper two bits are bits 2j of the u16 at byte 2.
struct Iq4Xs : TableBlock {
  static constexpr std::string_view kId = "iq4_xs";
  static constexpr std::string_view kDescription =
      "GGUF IQ4_XS: codes into 16 unequal steps, 6-bit scales of 32, blocks of 256";
  static constexpr int kElements = 256, kGroup = kTableBlock, kBytes = 136,
                       kGroups = kElements / kTableBlock;
  static constexpr bool kF16 = false;  // d·s needs up to 17 bits
  static constexpr const float* kTable = kIq4;

  static void unpack(const uint8_t* b, int8_t* q, float* scales, float*) {
    const float d = load_f16(b);
    const int high = b[2] | b[3] << 8;
    for (int j = 0; j < kGroups; ++j) {
      const int s = (b[4 + j / 2] >> (j % 2 * 4) & 15) | (high >> (2 * j) & 3) << 4;
      scales[j] = d * static_cast<float>(s - 32);
      unpack_nibbles(b + 8 + 16 * j, q + kTableBlock * j);
    }
  }

  static void pack(const float* x, const float* importance, uint8_t* b) {
    float w[kElements], scales[kGroups], widest = 0;
    const float heaviest = heaviest_of(importance, kElements);
    for (int j = 0; j < kGroups; ++j) {
      load_weights(importance + (importance ? kTableBlock * j : 0), heaviest, w + kTableBlock * j);
      scales[j] = best_scale(x + kTableBlock * j, w + kTableBlock * j);
      if (std::fabs(scales[j]) > std::fabs(widest)) widest = scales[j];
    }
    Integers best = around(x, w, nearest_f16(widest / -32), scales);
    for (int round = 0; round < 3; ++round) {
      const float d = nearest_f16(best.vv > 0 ? best.xv / best.vv : 0.0f);
      for (int j = 0; j < kGroups; ++j) scales[j] = d * static_cast<float>(best.s[j]);
      Integers next = around(x, w, d, scales);
      if (!(next.error < best.error)) break;
      best = next;
    }
    write(x, w, best, b);
  }

 private:
  /// Scales of the sub-blocks in units of d, their error, and the sums that make the next d.
  struct Integers {
    float d = 0, error = 0, xv = 0, vv = 0;
    int s[kGroups] = {};
  };

  /// The best integers next to scales[j] / d.
  static Integers around(const float* x, const float* w, float d, const float* scales) {
    Integers all;
    all.d = d;
    for (int j = 0; j < kGroups; ++j) {
      const int centre =
          d != 0 ? static_cast<int>(std::clamp(std::round(scales[j] / d), -32.0f, 31.0f)) : 0;
      float least = std::numeric_limits<float>::infinity(), xv = 0, vv = 0;
      for (int s = std::max(centre - 1, -32); s <= std::min(centre + 1, 31); ++s) {
        const float scale = d * static_cast<float>(s);
        Iq4Fit fit(x + kTableBlock * j, w + kTableBlock * j, reciprocal(scale));
        if (!(fit.error(scale) < least)) continue;
        least = fit.error(scale);
        all.s[j] = s;
        xv = fit.xv * static_cast<float>(s);
        vv = fit.vv * static_cast<float>(s) * static_cast<float>(s);
      }
      all.error += least;
      all.xv += xv;
      all.vv += vv;
    }
    return all;
  }

  static void write(const float* x, const float* w, const Integers& best, uint8_t* b) {
    std::memset(b, 0, 8);
    store_f16(best.d, b);
    for (int j = 0; j < kGroups; ++j) {
      const int s = best.s[j] + 32;
      b[2 + j / 4] |= static_cast<uint8_t>(s >> 4 << (2 * (j % 4)));
      b[4 + j / 2] |= static_cast<uint8_t>((s & 15) << (j % 2 * 4));
      const float scale = best.d * static_cast<float>(best.s[j]);
      pack_nibbles(Iq4Fit(x + kTableBlock * j, w + kTableBlock * j, reciprocal(scale)).q,
                   b + 8 + 16 * j);
    }
  }
};

// --- E2M1: 4-bit floats -----------------------------------------------------------------------

/// The lowest of the codes whose value is nearest to x.
uint8_t nearest_e2m1(float x, float scale) {
  int best = 0;
  for (int code = 1; code < 16; ++code)
    if (std::fabs(scale * kE2m1[code] - x) < std::fabs(scale * kE2m1[best] - x)) best = code;
  return static_cast<uint8_t>(best);
}

struct Mxfp4 : TableBlock {
  static constexpr std::string_view kId = "mxfp4";
  static constexpr std::string_view kDescription =
      "OCP MXFP4 as in GGUF: 4-bit floats, blocks of 32 with a power-of-two scale";
  static constexpr int kElements = kTableBlock, kGroup = kTableBlock, kBytes = 17;
  static constexpr bool kF16 = false;
  static constexpr const float* kTable = kE2m1;

  static void unpack(const uint8_t* b, int8_t* q, float* scales, float*) {
    scales[0] = std::ldexp(1.0f, b[0] - 128);
    unpack_nibbles(b + 1, q);
  }

  static void pack(const float* x, const float*, uint8_t* b) {
    float absmax = std::fabs(extreme_of(x, kTableBlock));
    // The largest E2M1 value is 6, in the binade of 4 = 2^2.
    float exponent = absmax > 0 ? std::floor(std::log2(absmax)) - 2 + 127 : 0;
    b[0] = static_cast<uint8_t>(std::clamp(exponent, 0.0f, 254.0f));
    float scale = std::ldexp(1.0f, b[0] - 128);
    uint8_t q[kTableBlock];
    for (int i = 0; i < kTableBlock; ++i) q[i] = nearest_e2m1(x[i], scale);
    pack_nibbles(q, b + 1);
  }
};

struct GgufNvfp4 : TableBlock {
  static constexpr std::string_view kId = "gguf_nvfp4";
  static constexpr std::string_view kDescription =
      "GGUF NVFP4: 4-bit floats, 8-bit float scales of 16, blocks of 64";
  static constexpr int kElements = 64, kGroup = 16, kBytes = 36;
  static constexpr bool kF16 = true;
  static constexpr const float* kTable = kE2m1;

  static void unpack(const uint8_t* b, int8_t* q, float* scales, float*) {
    for (int j = 0; j < 4; ++j) scales[j] = half_scale(b[j]);
    for (int i = 0; i < kElements; ++i)
      q[i] = static_cast<int8_t>(b[4 + i / 16 * 8 + i % 8] >> (i % 16 / 8 * 4) & 15);
  }

  static void pack(const float* x, const float*, uint8_t* b) {
    std::memset(b, 0, kBytes);
    for (int j = 0; j < 4; ++j) b[j] = scale_bits(std::fabs(extreme_of(x + 16 * j, 16)) / 6.0f);
    for (int i = 0; i < kElements; ++i)
      b[4 + i / 16 * 8 + i % 8] |=
          static_cast<uint8_t>(nearest_e2m1(x[i], half_scale(b[i / 16])) << (i % 16 / 8 * 4));
  }

 private:
  /// Half of E4M3 without its sign: exponent bias 7, no infinity; 127 stands for nothing.
  static float half_scale(uint8_t bits) {
    if (bits == 127) return 0;
    const int exponent = bits >> 3 & 15, mantissa = bits & 7;
    return exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -10)
                         : std::ldexp(static_cast<float>(8 + mantissa), exponent - 11);
  }

  /// The nearest scale, halves upwards. As in ggml, the last exponent stands for its second largest
  /// value alone, and so do all above it, and nothing below 2^-6 rounds up to that.
  static uint8_t scale_bits(float scale) {
    if (!(scale > 0)) return 0;
    int exponent;
    const float fraction = std::frexp(scale, &exponent);  // scale = fraction·2^exponent, from 0.5
    if (exponent + 6 <= 0)
      return static_cast<uint8_t>(std::min(std::floor(scale * 512 + 0.5f), 7.0f));
    const int code = (std::min(exponent, 16) + 6) * 8 +
                     static_cast<int>(std::floor((fraction - 0.5f) * 16 + 0.5f));
    return static_cast<uint8_t>(code < 15 * 8 ? code : 126);
  }
};

}  // namespace

namespace encoding_entry {

const Encoding& iq4_nl() {
  static const BlockEncoding<Iq4Nl> e;
  return e;
}
const Encoding& iq4_xs() {
  static const BlockEncoding<Iq4Xs> e;
  return e;
}
const Encoding& mxfp4() {
  static const BlockEncoding<Mxfp4> e;
  return e;
}
const Encoding& gguf_nvfp4() {
  static const BlockEncoding<GgufNvfp4> e;
  return e;
}

}  // namespace encoding_entry
}  // namespace hone
