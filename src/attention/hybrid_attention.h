// Softmax attention in a sliding window and linear attention behind it, in one sum (Zhang et al.
// 2024, "LoLCATs: On Low-Rank Linearizing of Large Language Models").
//
// With w the window, a_tj = exp(scale·q_t·k_j − m_t), m_t the largest scale·q_t·k_j in the window,
// γ = σ(factor) of the head and φ(x) = [softmax(xW), softmax(−xW)], W a head's own for queries and
// for keys:
//
//         γ·Σ_{t−w < j ≤ t} a_tj·v_j + Σ_{j ≤ t−w} φ(q_t)·φ(k_j)·v_j
//   o_t = ——————————————————————————————————————————————————————————
//         γ·Σ_{t−w < j ≤ t} a_tj     + Σ_{j ≤ t−w} φ(q_t)·φ(k_j)
//
// The window slides key by key, as in the paper; its published kernels have blocks. Of a sequence
// all that is kept is the last w keys and values and, for each head, S = Σ φ(k)·[v, 1]ᵀ over the
// keys that have left the window. Up to w tokens are softmax attention exactly.
//
// The window is attention() with its log sums and largest scores, the rest linear_attention() on
// keys that come w tokens late; a tape keeps what these keep, memory linear in T. Bits depend
// neither on how a sequence is cut into spans nor on the batch or the threads.
// Limits: f32; no soft cap, ALiBi, bias or dropout.
#pragma once

#include <vector>

#include "attention/attention.h"

namespace hone {

struct HybridAttentionSpec {
  int64_t heads = 0;
  int64_t kv_heads = 0;  ///< divides heads; query head h reads kv head h / (heads/kv_heads)
  int64_t k_dim = 0;     ///< per head
  int64_t v_dim = 0;
  float scale = 1;
  int64_t window = 64;   ///< keys that a query sees by softmax, itself among them
  int64_t features = 0;  ///< columns of W: φ has twice as many

  /// Of one sequence: the window's keys and values, oldest first, behind zeros where there are
  /// fewer; S; and how many tokens there were, as n / 2^20 and n mod 2^20.
  std::vector<Shape> state_shapes() const {
    return {{window, kv_heads * k_dim},
            {window, kv_heads * v_dim},
            {heads, 2 * features, v_dim + 1},
            {2}};
  }
};

struct HybridAttentionInputs {
  Tensor q;             ///< [T, heads·k_dim]
  Tensor k;             ///< [T, kv_heads·k_dim]
  Tensor v;             ///< [T, kv_heads·v_dim]
  Tensor q_map, k_map;  ///< W: [heads, k_dim, features]
  Tensor factor;        ///< [heads]
};

/// Rows [begin, end) of the inputs are the next tokens of one sequence, whose state is of
/// state_shapes(), zeros at its beginning.
struct HybridSpan {
  int64_t begin = 0;
  int64_t end = 0;
  RecurrentState state;
};

/// [T, heads·v_dim]; rows that no span has are 0. Each span's state becomes what it is behind the
/// tokens. Recorded: gradients flow from the result and the new states to every input and the
/// states before. Where nothing is recorded and `in_place`, the old S may be written to.
/// Raises invalid_argument where shapes do not fit.
Tensor hybrid_attention(const HybridAttentionSpec& spec, const HybridAttentionInputs& in,
                        std::vector<HybridSpan>& spans, bool in_place = false);

}  // namespace hone
