// "iq4_nl", "mxfp4": GGUF's blocks of 32 weights whose 4-bit codes index a fixed table.
//
//   iq4_nl  18 bytes: f16 d, 16 bytes of nibbles           d·table[q]
//   mxfp4   17 bytes: u8 exponent e, 16 bytes of nibbles   2^(e−128)·table[q], twice E2M1
// MXFP4 encodes to ggml's bytes and ignores importances; IQ4_NL searches the scale by weighted
// least squares.
#include "encodings/gguf_block.h"

namespace hone {
namespace {

constexpr int kN = 32;

constexpr float kIq4Nl[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                              1,    13,   25,  38,  53,  69,  89,  113};
constexpr float kMxfp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

float extreme_of(const float* x) {
  float extreme = x[0];
  for (int i = 1; i < kN; ++i)
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  return extreme;
}

struct TableBlock {
  static constexpr int kElements = kN, kGroup = kN, kBits = 4, kOffset = 0;
  static constexpr bool kMins = false;
};

struct Iq4Nl : TableBlock {
  static constexpr std::string_view kId = "iq4_nl";
  static constexpr std::string_view kDescription =
      "GGUF IQ4_NL: codes into 16 unequal steps, blocks of 32 with a scale";
  static constexpr int kBytes = 18;
  static constexpr bool kF16 = true;
  static constexpr const float* kTable = kIq4Nl;

  static void unpack(const uint8_t* b, int8_t* q, float* scales, float*) {
    scales[0] = load_f16(b);
    unpack_nibbles(b + 2, q);
  }

  static void pack(const float* x, const float* importance, uint8_t* b) {
    float w[kN], heaviest = 0;
    if (importance != nullptr) heaviest = *std::max_element(importance, importance + kN);
    for (int i = 0; i < kN; ++i) w[i] = heaviest > 0 ? importance[i] / heaviest : 1.0f;
    float scale = to_f32(to_f16(std::clamp(best_scale(x, w), -65504.0f, 65504.0f)));
    float inverse = scale != 0 ? 1.0f / scale : 0.0f;
    uint8_t q[kN];
    for (int i = 0; i < kN; ++i) q[i] = nearest(x[i] * inverse);
    store_f16(scale, b);
    pack_nibbles(q, b + 2);
  }

 private:
  static uint8_t nearest(float x) {
    int q = 0;
    for (int i = 0; i < 15; ++i) q += x > (kIq4Nl[i] + kIq4Nl[i + 1]) / 2 ? 1 : 0;
    return static_cast<uint8_t>(q);
  }

  /// Places the largest magnitude at either end of the table or somewhat beyond or below it, and
  /// keeps the scale that is optimal for the codes which explain most of Σ w·x².
  static float best_scale(const float* x, const float* w) {
    float extreme = extreme_of(x), best = 0, most = -1;
    if (extreme == 0) return 0;
    for (float end : {kIq4Nl[0], kIq4Nl[15]})
      for (float step = -8; step <= 8; step += 2) {
        float inverse = (end * (1 + 0.015f * step)) / extreme;
        float xv = 0, vv = 0;
        for (int i = 0; i < kN; ++i) {
          float v = kIq4Nl[nearest(x[i] * inverse)];
          xv += w[i] * x[i] * v;
          vv += w[i] * v * v;
        }
        if (vv > 0 && xv * (xv / vv) > most) {
          most = xv * (xv / vv);
          best = xv / vv;
        }
      }
    return most >= 0 ? best : extreme / kIq4Nl[0];
  }
};

struct Mxfp4 : TableBlock {
  static constexpr std::string_view kId = "mxfp4";
  static constexpr std::string_view kDescription =
      "OCP MXFP4 as in GGUF: 4-bit floats, blocks of 32 with a power-of-two scale";
  static constexpr int kBytes = 17;
  static constexpr bool kF16 = false;
  static constexpr const float* kTable = kMxfp4;

  static void unpack(const uint8_t* b, int8_t* q, float* scales, float*) {
    scales[0] = std::ldexp(1.0f, b[0] - 128);
    unpack_nibbles(b + 1, q);
  }

  static void pack(const float* x, const float*, uint8_t* b) {
    float absmax = std::fabs(extreme_of(x));
    // The largest E2M1 value is 6, in the binade of 4 = 2^2.
    float exponent = absmax > 0 ? std::floor(std::log2(absmax)) - 2 + 127 : 0;
    b[0] = static_cast<uint8_t>(std::clamp(exponent, 0.0f, 254.0f));
    float scale = std::ldexp(1.0f, b[0] - 128);
    uint8_t q[kN];
    for (int i = 0; i < kN; ++i) q[i] = nearest(x[i], scale);
    pack_nibbles(q, b + 1);
  }

 private:
  /// The lowest of the codes whose value is nearest to x.
  static uint8_t nearest(float x, float scale) {
    int best = 0;
    for (int code = 1; code < 16; ++code)
      if (std::fabs(scale * kMxfp4[code] - x) < std::fabs(scale * kMxfp4[best] - x)) best = code;
    return static_cast<uint8_t>(best);
  }
};

}  // namespace

namespace encoding_entry {

const Encoding& iq4_nl() {
  static const BlockEncoding<Iq4Nl> e;
  return e;
}
const Encoding& mxfp4() {
  static const BlockEncoding<Mxfp4> e;
  return e;
}

}  // namespace encoding_entry
}  // namespace hone
