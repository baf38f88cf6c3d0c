// Products with bf16 panels by matrix tiles (tiles.h); without tiles gemm.cpp has them.
//
// An f32 activation is the sum of three bf16 numbers, exactly: three times eight bits of its
// significand. Each part has a sum of its own, 32 columns at a time, and the three are added at the
// end, so that no product waits for another and nothing of the activation is lost but what lies
// below 1e-38. Tiles add in another order than vectors do; therefore one token takes the same steps
// as many. Limits: three tile products per 16 tokens × 16 rows × 32 columns, a third of the bf16
// peak; for few tokens the weight bytes.
#include "kernels/cpu/tiles.h"

#ifdef HONE_TILES
namespace hone::kernels::HONE_ISA {
namespace {

constexpr int kParts = 3;
constexpr int kStep = 32;           // columns of one tile product
constexpr int64_t kBlock = 512;     // columns of activations that are split at once
constexpr int kPanels = 8;          // that read them
constexpr int64_t kNear = 1 << 20;  // bytes of panels that the second-level cache keeps

struct Parts {
  alignas(64) uint16_t of[kParts][kBlock / kStep][kTileRows][kStep];
};
struct PartSums {
  alignas(64) float of[kParts][kTileRows][kPanel];
};

// Cut off, not rounded: no part is beyond the largest number. An infinity is its first part, and a
// NaN stays one.
HONE_INLINE void split(float x, uint16_t& high, uint16_t& middle, uint16_t& low) {
  uint32_t bits, top, rest_bits;
  memcpy(&bits, &x, 4);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  top = bits & 0xffff0000u;
  float first, rest, second;
  memcpy(&first, &top, 4);
  rest = finite ? x - first : 0.0f;
  memcpy(&rest_bits, &rest, 4);
  rest_bits &= 0xffff0000u;
  memcpy(&second, &rest_bits, 4);
  rest -= second;
  const uint32_t quiet = !finite && (bits & 0x007fffffu) != 0 ? 0x40u : 0u;
  high = (uint16_t)(top >> 16 | quiet);
  middle = (uint16_t)(rest_bits >> 16);
  memcpy(&rest_bits, &rest, 4);
  low = (uint16_t)(rest_bits >> 16);
}

// The columns [k0, k1) of `rows` tokens; what is missing of the last step becomes zeros.
static void split_block(const GemmArgs* g, int64_t t0, int64_t rows, int64_t k0, int64_t k1,
                        Parts& parts) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t k = k0, s = 0; k < k1; k += kStep, ++s) {
      const int64_t have = k1 - k < kStep ? k1 - k : kStep;
      float x[kStep] = {};
      memcpy(x, g->x + (t0 + r) * g->ldx + k, (size_t)have * 4);
      for (int i = 0; i < kStep; ++i)
        split(x[i], parts.of[0][s][r][i], parts.of[1][s][r][i], parts.of[2][s][r][i]);
    }
}

// Adds the columns [k0, k1) of one panel to its sums.
static void panel_block(const uint16_t* panel, int64_t k0, int64_t k1, const Parts& parts,
                        PartSums& sums) {
  if (k0 == 0) {
    zero_tile<0>();
    zero_tile<1>();
    zero_tile<2>();
  } else {
    load_tile<0>(sums.of[0], 64);
    load_tile<1>(sums.of[1], 64);
    load_tile<2>(sums.of[2], 64);
  }
  alignas(64) uint16_t pairs[kStep * kPanel];
  for (int64_t k = k0, s = 0; k < k1; k += kStep, ++s) {
    pair_rows(panel + k * kPanel, k1 - k, pairs);
    load_tile<3>(pairs, 64);
    load_tile<4>(parts.of[0][s], 64);
    multiply_bf16<0, 4, 3>();
    load_tile<5>(parts.of[1][s], 64);
    multiply_bf16<1, 5, 3>();
    load_tile<6>(parts.of[2][s], 64);
    multiply_bf16<2, 6, 3>();
  }
  store_tile<0>(sums.of[0], 64);
  store_tile<1>(sums.of[1], 64);
  store_tile<2>(sums.of[2], 64);
}

HONE_INLINE void configure(int64_t tokens) {
  TileShapes shapes;
  for (int part = 0; part < kParts; ++part) {
    set_shape(shapes, part, tokens, 4 * kPanel);
    set_shape(shapes, 4 + part, tokens, 2 * kStep);
  }
  set_shape(shapes, 3, kStep / 2, 4 * kPanel);
  configure_tiles(shapes);
}

// The panels [p0, p1), at most kPanels, of up to sixteen tokens.
static void token_tile(const GemmArgs* g, int64_t p0, int64_t p1, int64_t t0, int64_t tokens) {
  Parts parts;
  PartSums sums[kPanels];
  configure(tokens);
  for (int64_t k0 = 0; k0 < g->k; k0 += kBlock) {
    const int64_t k1 = k0 + kBlock < g->k ? k0 + kBlock : g->k;
    split_block(g, t0, tokens, k0, k1, parts);
    for (int64_t p = p0; p < p1; ++p)
      panel_block((const uint16_t*)g->panels + (p - g->p0) * g->k * kPanel, k0, k1, parts,
                  sums[p - p0]);
  }
  for (int64_t p = p0; p < p1; ++p) {
    const int64_t col = p * kPanel, valid = g->n - col;
    const vf bias = g->bias ? load_y(g->bias + col, valid) : zero_f();
    for (int64_t t = 0; t < tokens; ++t) {
      const PartSums& s = sums[p - p0];
      vf y = add(load_f(s.of[0][t]), add(load_f(s.of[1][t]), load_f(s.of[2][t])));
      store_y(g->y + (t0 + t) * g->ldy + col, add(y, bias), valid);
    }
  }
}

}  // namespace

void gemm_bf16(const GemmArgs* g) {
  int64_t wide = kNear / (g->k * kPanel * 2 + 1);
  wide = wide < 1 ? 1 : wide > kPanels ? kPanels : wide;
  for (int64_t p = g->p0; p < g->p1; p += wide)
    for (int64_t t = 0; t < g->t; t += kTileRows) {
      const int64_t p1 = p + wide < g->p1 ? p + wide : g->p1;
      token_tile(g, p, p1, t, g->t - t < kTileRows ? g->t - t : kTileRows);
    }
  release_tiles();
}

}  // namespace hone::kernels::HONE_ISA
#endif
