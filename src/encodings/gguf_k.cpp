// "q2_k", "q3_k", "q4_k", "q5_k", "q6_k": GGUF's blocks of 256 weights. Sub-blocks of 16 or 32 have
// small integer scales s (and minima m) of their own, in units of f16 scales d (and e) of the
// block.
//
//   q2_k   84 bytes  16 of 16   d·s·q − e·m   q 2 bits, s and m 4 bits
//   q3_k  110 bytes  16 of 16   d·s·(q − 4)   q 3 bits, s 6 bits signed
//   q4_k  144 bytes   8 of 32   d·s·q − e·m   q 4 bits, s and m 6 bits
//   q5_k  176 bytes   8 of 32   d·s·q − e·m   q 5 bits, s and m 6 bits
//   q6_k  210 bytes  16 of 16   d·s·(q − 32)  q 6 bits, s 8 bits signed
//
// Encoding searches scales by weighted least squares (gguf_k_fit.h) and honours importances.
#include "encodings/gguf_block.h"
#include "encodings/gguf_k_fit.h"

namespace hone {
namespace {

constexpr int kSuper = 256;

// --- bit planes ------------------------------------------------------------------------------
// Every format keeps its codes as planes of `bits` bits: the plane is cut into runs of
// `bytes` bytes; bits [bits·p, bits·(p+1)) of byte j of run r belong to weight
// r·(bytes·8/bits) + p·bytes + j.

/// Ors the plane's bits, shifted left by `shift`, into the codes.
template <int kBits, int kBytes>
void unpack_plane(const uint8_t* plane, int shift, int8_t* q) {
  constexpr int kParts = 8 / kBits;
  for (int run = 0; run < kSuper / (kBytes * kParts); ++run)
    for (int part = 0; part < kParts; ++part, q += kBytes)
      for (int j = 0; j < kBytes; ++j) {
        int bits = plane[run * kBytes + j] >> (kBits * part) & ((1 << kBits) - 1);
        q[j] = static_cast<int8_t>(q[j] | bits << shift);
      }
}

template <int kBits, int kBytes>
void pack_plane(const uint8_t* q, int shift, uint8_t* plane) {
  constexpr int kParts = 8 / kBits;
  std::memset(plane, 0, kSuper * kBits / 8);
  for (int run = 0; run < kSuper / (kBytes * kParts); ++run)
    for (int part = 0; part < kParts; ++part, q += kBytes)
      for (int j = 0; j < kBytes; ++j) {
        int bits = q[j] >> shift & ((1 << kBits) - 1);
        plane[run * kBytes + j] |= static_cast<uint8_t>(bits << (kBits * part));
      }
}

// --- 6-bit scales ----------------------------------------------------------------------------

/// q4_k and q5_k: 12 bytes for 8 scales and 8 minima. The first four of each are the low 6 bits of
/// bytes 0–3 and 4–7; of the last four, the low nibbles share bytes 8–11 and the upper two bits
/// are the upper bits of bytes 0–7.
void unpack_scales_mins(const uint8_t* b, uint8_t* s, uint8_t* m) {
  for (int j = 0; j < 4; ++j) {
    s[j] = b[j] & 63;
    m[j] = b[j + 4] & 63;
    s[j + 4] = static_cast<uint8_t>((b[j + 8] & 15) | b[j] >> 6 << 4);
    m[j + 4] = static_cast<uint8_t>(b[j + 8] >> 4 | b[j + 4] >> 6 << 4);
  }
}

void pack_scales_mins(const uint8_t* s, const uint8_t* m, uint8_t* b) {
  for (int j = 0; j < 4; ++j) {
    b[j] = static_cast<uint8_t>(s[j] | s[j + 4] >> 4 << 6);
    b[j + 4] = static_cast<uint8_t>(m[j] | m[j + 4] >> 4 << 6);
    b[j + 8] = static_cast<uint8_t>((s[j + 4] & 15) | (m[j + 4] & 15) << 4);
  }
}

/// q3_k: 12 bytes for 16 scales offset by 32: nibbles in bytes 0–7 (low: 0–7, high: 8–15), and the
/// upper two bits in bytes 8–11, scale j at bit 2·(j / 4) of byte 8 + j % 4.
void unpack_signed_scales(const uint8_t* b, int8_t* s) {
  for (int j = 0; j < 16; ++j) {
    int low = j < 8 ? b[j] & 15 : b[j - 8] >> 4;
    int high = b[8 + j % 4] >> (2 * (j / 4)) & 3;
    s[j] = static_cast<int8_t>((low | high << 4) - 32);
  }
}

void pack_signed_scales(const int8_t* s, uint8_t* b) {
  std::memset(b, 0, 12);
  for (int j = 0; j < 16; ++j) {
    int u = s[j] + 32;
    b[j % 8] |= static_cast<uint8_t>((u & 15) << (j < 8 ? 0 : 4));
    b[8 + j % 4] |= static_cast<uint8_t>(u >> 4 << (2 * (j / 4)));
  }
}

// --- formats ---------------------------------------------------------------------------------

struct KQuant {
  static constexpr int kElements = kSuper;
  static constexpr bool kF16 = false;  // d·s needs up to 19 bits
  static constexpr const float* kTable = nullptr;
};

/// Offset codes and products of the signed formats.
template <int kOffset>
void finish_signed(float d, const int8_t* s, int8_t* q, float* scales) {
  for (int i = 0; i < kSuper; ++i) q[i] = static_cast<int8_t>(q[i] - kOffset);
  for (int j = 0; j < 16; ++j) scales[j] = d * static_cast<float>(s[j]);
}

struct Q2K : KQuant {
  static constexpr std::string_view kId = "q2_k";
  static constexpr std::string_view kDescription =
      "GGUF Q2_K: 2-bit codes, 4-bit scales and minima of 16, blocks of 256";
  static constexpr int kBytes = 84, kGroup = 16, kBits = 4, kOffset = 0;
  static constexpr bool kMins = true;
  static void unpack(const uint8_t* b, int8_t* q, float* scales, float* mins) {
    float d = load_f16(b + 80), e = load_f16(b + 82);
    for (int j = 0; j < 16; ++j) {
      scales[j] = d * static_cast<float>(b[j] & 15);
      mins[j] = -(e * static_cast<float>(b[j] >> 4));
    }
    std::memset(q, 0, kSuper);
    unpack_plane<2, 32>(b + 16, 0, q);
  }
  static void pack(const float* x, const float* importance, uint8_t* b) {
    AffineFit fit = fit_affine(x, importance, {.group = 16, .top = 3, .scale_top = 15});
    for (int j = 0; j < 16; ++j) b[j] = static_cast<uint8_t>(fit.scales[j] | fit.mins[j] << 4);
    pack_plane<2, 32>(fit.codes, 0, b + 16);
    store_f16(fit.d, b + 80);
    store_f16(fit.e, b + 82);
  }
};

struct Q3K : KQuant {
  static constexpr std::string_view kId = "q3_k";
  static constexpr std::string_view kDescription =
      "GGUF Q3_K: 3-bit codes, 6-bit scales of 16, blocks of 256";
  static constexpr int kBytes = 110, kGroup = 16, kBits = 4, kOffset = 4;
  static constexpr bool kMins = false;
  static void unpack(const uint8_t* b, int8_t* q, float* scales, float*) {
    int8_t s[16];
    unpack_signed_scales(b + 96, s);
    std::memset(q, 0, kSuper);
    unpack_plane<2, 32>(b + 32, 0, q);
    unpack_plane<1, 32>(b, 2, q);
    finish_signed<4>(load_f16(b + 108), s, q, scales);
  }
  static void pack(const float* x, const float* importance, uint8_t* b) {
    SignedFit fit = fit_signed(x, importance, {.half = 4, .scale_half = 32});
    pack_plane<1, 32>(fit.codes, 2, b);
    pack_plane<2, 32>(fit.codes, 0, b + 32);
    pack_signed_scales(fit.scales, b + 96);
    store_f16(fit.d, b + 108);
  }
};

void unpack_affine_32(const uint8_t* b, const uint8_t* nibbles, int8_t* q, float* scales,
                      float* mins) {
  float d = load_f16(b), e = load_f16(b + 2);
  uint8_t s[8], m[8];
  unpack_scales_mins(b + 4, s, m);
  for (int j = 0; j < 8; ++j) {
    scales[j] = d * static_cast<float>(s[j]);
    mins[j] = -(e * static_cast<float>(m[j]));
  }
  std::memset(q, 0, kSuper);
  unpack_plane<4, 32>(nibbles, 0, q);
}

void pack_affine_32(const AffineFit& fit, uint8_t* b, uint8_t* nibbles) {
  store_f16(fit.d, b);
  store_f16(fit.e, b + 2);
  pack_scales_mins(fit.scales, fit.mins, b + 4);
  pack_plane<4, 32>(fit.codes, 0, nibbles);
}

struct Q4K : KQuant {
  static constexpr std::string_view kId = "q4_k";
  static constexpr std::string_view kDescription =
      "GGUF Q4_K: 4-bit codes, 6-bit scales and minima of 32, blocks of 256";
  static constexpr int kBytes = 144, kGroup = 32, kBits = 4, kOffset = 0;
  static constexpr bool kMins = true;
  static void unpack(const uint8_t* b, int8_t* q, float* scales, float* mins) {
    unpack_affine_32(b, b + 16, q, scales, mins);
  }
  static void pack(const float* x, const float* importance, uint8_t* b) {
    pack_affine_32(fit_affine(x, importance, {.group = 32, .top = 15, .scale_top = 63}), b, b + 16);
  }
};

struct Q5K : KQuant {
  static constexpr std::string_view kId = "q5_k";
  static constexpr std::string_view kDescription =
      "GGUF Q5_K: 5-bit codes, 6-bit scales and minima of 32, blocks of 256";
  static constexpr int kBytes = 176, kGroup = 32, kBits = 8, kOffset = 0;
  static constexpr bool kMins = true;
  static void unpack(const uint8_t* b, int8_t* q, float* scales, float* mins) {
    unpack_affine_32(b, b + 48, q, scales, mins);
    unpack_plane<1, 32>(b + 16, 4, q);
  }
  static void pack(const float* x, const float* importance, uint8_t* b) {
    AffineFit fit = fit_affine(x, importance, {.group = 32, .top = 31, .scale_top = 63});
    pack_affine_32(fit, b, b + 48);
    pack_plane<1, 32>(fit.codes, 4, b + 16);
  }
};

struct Q6K : KQuant {
  static constexpr std::string_view kId = "q6_k";
  static constexpr std::string_view kDescription =
      "GGUF Q6_K: 6-bit codes, 8-bit scales of 16, blocks of 256";
  static constexpr int kBytes = 210, kGroup = 16, kBits = 8, kOffset = 0;
  static constexpr bool kMins = false;
  static void unpack(const uint8_t* b, int8_t* q, float* scales, float*) {
    int8_t s[16];
    std::memcpy(s, b + 192, 16);
    std::memset(q, 0, kSuper);
    unpack_plane<4, 64>(b, 0, q);
    unpack_plane<2, 32>(b + 128, 4, q);
    finish_signed<32>(load_f16(b + 208), s, q, scales);
  }
  static void pack(const float* x, const float* importance, uint8_t* b) {
    SignedFit fit = fit_signed(x, importance, {.half = 32, .scale_half = 128});
    pack_plane<4, 64>(fit.codes, 0, b);
    pack_plane<2, 32>(fit.codes, 4, b + 128);
    std::memcpy(b + 192, fit.scales, 16);
    store_f16(fit.d, b + 208);
  }
};

}  // namespace

namespace encoding_entry {

const Encoding& q2_k() {
  static const BlockEncoding<Q2K> e;
  return e;
}
const Encoding& q3_k() {
  static const BlockEncoding<Q3K> e;
  return e;
}
const Encoding& q4_k() {
  static const BlockEncoding<Q4K> e;
  return e;
}
const Encoding& q5_k() {
  static const BlockEncoding<Q5K> e;
  return e;
}
const Encoding& q6_k() {
  static const BlockEncoding<Q6K> e;
  return e;
}

}  // namespace encoding_entry
}  // namespace hone
