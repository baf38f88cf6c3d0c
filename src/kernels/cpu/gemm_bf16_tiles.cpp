// Products of bf16 panels with activations rounded to bf16, by matrix tiles (tiles.h); without
// tiles gemm_bf16_dot.cpp has them.
//
// A block of up to kPanels panels × kBlock columns is first brought into the order of a tile
// product's right operand, pairs of a panel's rows, and stays in the second-level cache while the
// tokens pass over it, 32 at a time: two tiles of tokens × two panels keep four tiles of sums, so
// that each load serves two products. Sums are parked in y between blocks. Tiles sum over 32
// columns in the same order whatever their number of rows, so that one token gets the bits that it
// gets among many; up to sixteen tokens skip the block and bring the panels into order step by
// step. Limits: 16 cycles a tile product (8,192 multiply-adds); for few tokens the weight bytes.
#include "kernels/cpu/tiles.h"

#ifdef HONE_TILES
namespace hone::kernels::HONE_ISA {
namespace {

constexpr int kStep = 32;         // columns of one tile product
constexpr int64_t kBlock = 1536;  // columns that are brought into order at once
constexpr int kPanels = 8;
constexpr int kWide = 2, kHigh = 2;  // panels and tiles of tokens that run together

// One panel's kStep columns as pairs of rows: [16][16][2].
typedef uint16_t Pairs[kStep * kPanel];
// Sixteen tokens' last columns, zeros behind them.
typedef uint16_t Tail[kTileRows][kStep];

// What a tile of sums belongs to: `rows` tokens from t0 on × panel p.
struct Place {
  const GemmArgs* g;
  int64_t p, t0;
  int rows;
};
HONE_INLINE int64_t valid_columns(const Place& at) { return at.g->n - at.p * kPanel; }
HONE_INLINE float* sums_in_y(const Place& at) {
  return at.g->y + at.t0 * at.g->ldy + at.p * kPanel;
}

template <int kTile>
HONE_INLINE void begin_sums(const Place& at, bool first) {
  if (first && !at.g->accumulate) return zero_tile<kTile>();
  if (valid_columns(at) >= kPanel) return load_tile<kTile>(sums_in_y(at), 4 * at.g->ldy);
  alignas(64) float sums[kTileRows][kPanel];
  for (int r = 0; r < at.rows; ++r)
    store_f(sums[r], load_y(sums_in_y(at) + r * at.g->ldy, valid_columns(at)));
  load_tile<kTile>(sums, 64);
}

template <int kTile>
HONE_INLINE void end_sums(const Place& at, bool last) {
  const bool biased = last && at.g->bias != nullptr;
  if (valid_columns(at) >= kPanel && !biased)
    return store_tile<kTile>(sums_in_y(at), 4 * at.g->ldy);
  alignas(64) float sums[kTileRows][kPanel];
  store_tile<kTile>(sums, 64);
  const vf bias = biased ? load_y(at.g->bias + at.p * kPanel, valid_columns(at)) : zero_f();
  for (int r = 0; r < at.rows; ++r)
    store_y(sums_in_y(at) + r * at.g->ldy, biased ? add(load_f(sums[r]), bias) : load_f(sums[r]),
            valid_columns(at));
}

// Tiles 0 … 3 are sums, 4 and 5 tokens, 6 and 7 panels.
HONE_INLINE void configure(int rows) {
  TileShapes shapes;
  for (int i = 0; i < 4; ++i) set_shape(shapes, i, rows, 4 * kPanel);
  for (int i = 4; i < 6; ++i) set_shape(shapes, i, rows, 2 * kStep);
  for (int i = 6; i < 8; ++i) set_shape(shapes, i, kStep / 2, 4 * kPanel);
  configure_tiles(shapes);
}

HONE_INLINE void copy_tail(const GemmArgs* g, int64_t t0, int rows, int64_t k, Tail& tail) {
  memset(tail, 0, sizeof tail);
  for (int r = 0; r < rows; ++r)
    memcpy(tail[r], g->xb + (t0 + r) * g->ldx + k, (size_t)(g->k - k) * 2);
}

// kTall tiles of `rows` tokens × kBroad panels over the columns [k0, k1). `pairs` holds those
// columns of the first panel, [steps], and `stride` pairs later those of the second.
template <int kTall, int kBroad>
static void multiply_tiles(const GemmArgs* g, const Pairs* pairs, int64_t stride, int64_t p,
                           int64_t t0, int rows, int64_t k0, int64_t k1) {
  const bool first = k0 == 0, last = k1 == g->k;
  const Place at[kHigh][kWide] = {{{g, p, t0, rows}, {g, p + 1, t0, rows}},
                                  {{g, p, t0 + kTileRows, rows}, {g, p + 1, t0 + kTileRows, rows}}};
  begin_sums<0>(at[0][0], first);
  if constexpr (kBroad > 1) begin_sums<1>(at[0][1], first);
  if constexpr (kTall > 1) begin_sums<2>(at[1][0], first);
  if constexpr (kTall > 1 && kBroad > 1) begin_sums<3>(at[1][1], first);
  const uint16_t* x = g->xb + t0 * g->ldx;
  int64_t ldx = g->ldx;
  Tail tail[kTall];
  for (int64_t k = k0; k < k1; k += kStep, ++pairs) {
    const uint16_t* from = x + k;
    if (k1 - k < kStep) {
      for (int i = 0; i < kTall; ++i) copy_tail(g, t0 + i * kTileRows, rows, k, tail[i]);
      from = tail[0][0];
      ldx = kStep;
    }
    load_tile<6>(pairs, 64);
    load_tile<4>(from, 2 * ldx);
    multiply_bf16<0, 4, 6>();
    if constexpr (kBroad > 1) {
      load_tile<7>(pairs + stride, 64);
      multiply_bf16<1, 4, 7>();
    }
    if constexpr (kTall > 1) {
      load_tile<5>(from + kTileRows * ldx, 2 * ldx);
      multiply_bf16<2, 5, 6>();
      if constexpr (kBroad > 1) multiply_bf16<3, 5, 7>();
    }
  }
  end_sums<0>(at[0][0], last);
  if constexpr (kBroad > 1) end_sums<1>(at[0][1], last);
  if constexpr (kTall > 1) end_sums<2>(at[1][0], last);
  if constexpr (kTall > 1 && kBroad > 1) end_sums<3>(at[1][1], last);
}

// The columns [k0, k1) of the panels [p0, p1), brought into order, against all tokens.
static void block_tokens(const GemmArgs* g, const Pairs* pairs, int64_t stride, int64_t p0,
                         int64_t p1, int64_t k0, int64_t k1) {
  auto over_panels = [&](auto tile, auto narrow, int64_t t, int rows) {
    int64_t p = p0;
    for (; p + kWide <= p1; p += kWide)
      tile(g, pairs + (p - p0) * stride, stride, p, t, rows, k0, k1);
    if (p < p1) narrow(g, pairs + (p - p0) * stride, stride, p, t, rows, k0, k1);
  };
  int64_t t = 0;
  configure(kTileRows);
  for (; t + kHigh * kTileRows <= g->t; t += kHigh * kTileRows)
    over_panels(multiply_tiles<2, 2>, multiply_tiles<2, 1>, t, kTileRows);
  for (; t < g->t; t += kTileRows) {
    const int rows = g->t - t < kTileRows ? (int)(g->t - t) : kTileRows;
    if (rows < kTileRows) configure(rows);
    over_panels(multiply_tiles<1, 2>, multiply_tiles<1, 1>, t, rows);
  }
}

// Up to sixteen tokens: each panel once, over all its columns.
static void few_tokens(const GemmArgs* g) {
  alignas(64) Pairs pairs[2];
  configure((int)g->t);
  for (int64_t p = g->p0; p < g->p1; ++p) {
    const uint16_t* panel = (const uint16_t*)g->panels + (p - g->p0) * g->k * kPanel;
    const Place at{g, p, 0, (int)g->t};
    begin_sums<0>(at, true);
    for (int64_t k = 0, i = 0; k < g->k; k += kStep, i ^= 1) {
      pair_rows(panel + k * kPanel, g->k - k, pairs[i]);
      load_tile<6>(pairs[i], 64);
      if (g->k - k < kStep) {
        Tail tail;
        copy_tail(g, 0, (int)g->t, k, tail);
        load_tile<4>(tail, 64);
      } else {
        load_tile<4>(g->xb + k, 2 * g->ldx);
      }
      multiply_bf16<0, 4, 6>();
    }
    end_sums<0>(at, true);
  }
}

}  // namespace

void gemm_bf16_dot(const GemmArgs* g) {
  if (g->t <= kTileRows) {
    few_tokens(g);
    return release_tiles();
  }
  alignas(64) Pairs pairs[kPanels * kBlock / kStep];
  // Blocks of one length, for a short one parks as many sums as a long one.
  const int64_t blocks = (g->k + kBlock - 1) / kBlock;
  const int64_t block = ((g->k + kStep - 1) / kStep + blocks - 1) / blocks * kStep;
  for (int64_t k0 = 0; k0 < g->k; k0 += block) {
    const int64_t k1 = k0 + block < g->k ? k0 + block : g->k;
    const int64_t steps = (k1 - k0 + kStep - 1) / kStep;
    for (int64_t p = g->p0; p < g->p1; p += kPanels) {
      const int64_t p1 = p + kPanels < g->p1 ? p + kPanels : g->p1;
      for (int64_t i = p; i < p1; ++i) {
        const uint16_t* panel = (const uint16_t*)g->panels + (i - g->p0) * g->k * kPanel;
        for (int64_t s = 0; s < steps; ++s) {
          const int64_t k = k0 + s * kStep;
          pair_rows(panel + k * kPanel, k1 - k, pairs[(i - p) * steps + s]);
        }
      }
      block_tokens(g, pairs, steps, p, p1, k0, k1);
    }
  }
  release_tiles();
}

}  // namespace hone::kernels::HONE_ISA
#endif
