// What the kernels of linear attention take: one head of one sequence (attention/linear_attention.h
// says what they compute). Plain data only, as kernel_table.h.
#pragma once

#include <stdint.h>

namespace hone::kernels {

// Tokens of one chunk: as many as a vector has lanes.
constexpr int kLinearTokens = 16;

enum LinearDecay { kNoDecay, kHeadDecay, kChannelDecay };
enum LinearRank { kNoRank, kDeltaRank, kGeneralRank };

// Matrices of tokens have rows `…_ld` apart; 0 repeats one row.
struct LinearArgs {
  const float *q, *k;  // [tokens][k_dim]
  int64_t qk_ld;
  const float* v;  // [tokens][columns]
  int64_t v_ld;
  const float* g;  // [tokens][1 or k_dim], ≤ 0
  int64_t g_ld;
  const float* beta;  // [tokens][1], null = 1
  int64_t beta_ld;
  const float *a, *b;  // kGeneralRank: [tokens][k_dim]
  int64_t ab_ld;
  const float* u;  // [k_dim], null = 0
  float* o;        // [tokens][columns]
  int64_t o_ld;
  float* state;  // [k_dim][columns], rows state_ld apart: in front of the tokens, then behind them
  int64_t state_ld;
  int64_t tokens, k_dim, columns;
  float scale;
  LinearDecay decay;
  LinearRank rank;
  int reads_previous;
  // Beginning with a cache line, with K' and V' the sizes padded to an odd number of vectors of 16:
  // forward K'·V' + 16·(16·K' + 5·V' + 256) floats, backward 6·K'·V' + 16·(24·K' + 12·V' + 512).
  float* scratch;
};

// Up to kLinearSegment tokens backward: `of` as it was in front of them; its o is not read.
constexpr int kLinearSegment = 64;
struct LinearGradients {
  LinearArgs of;
  const float* d_o;     // [tokens][columns], rows o_ld apart
  float* dstate;        // [k_dim][columns], dense: behind the tokens, then in front of them
  float *dq, *dk, *du;  // added to, in the layouts of q, k, u; du may be null
  // Written, in the layouts of their inputs; but for dv null where there is no such input or no
  // gradient is wanted.
  float *dv, *dbeta, *da, *db;
  float* dg;  // likewise, rows dg_ld apart
  int64_t dg_ld;
};

}  // namespace hone::kernels
