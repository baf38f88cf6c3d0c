// Linear attention: one recurrence, diagonal plus low rank, of which every variant is a setting.
//
//   S_t = Diag(e^{g_t})·S_{t−1} + b_t·(a_tᵀ·S_{t−1}) + β_t·k_t·v_tᵀ        S [k_dim, v_dim] a head
//   o_t = scale·S_tᵀ·q_t
//
// A spec says which terms there are; what kernels see is the spec, never a variant's name. The
// functions at the end give the settings of published ones.
//
// Two forms compute it. The recurrent form takes the tokens one by one: its bits do not depend on
// how a sequence is cut into spans, so that prefill, chunks and decode agree bit for bit. The
// chunked form takes the tokens of a span in chunks of kLinearChunk, from the span's first on, by
// matrix products, and rounds otherwise: two ways of cutting a sequence agree bit for bit where
// both cut at multiples of kLinearChunk. In neither do bits depend on the threads or on the batch.
// The state is all that a sequence needs, whatever its length.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/tensor.h"

namespace hone {

constexpr int64_t kLinearChunk = 16;

enum class Decay {
  none,
  head,    ///< one e^g a head
  channel  ///< one for each of a head's k_dim rows of the state
};
enum class LowRank {
  none,
  delta,  ///< decay, then the delta rule: S̄ = Diag(e^g)·S, S ← S̄ + β·k·(v − S̄ᵀ·k)ᵀ
  general  ///< a and b are given
};
enum class LinearForm { recurrent, chunked };

struct LinearAttentionSpec {
  int64_t heads = 0;     ///< of v, the state and the result
  int64_t qk_heads = 0;  ///< divides heads; head h reads q and k of head h / (heads/qk_heads)
  int64_t k_dim = 0;     ///< per head
  int64_t v_dim = 0;
  float scale = 1;
  Decay decay = Decay::none;
  LowRank low_rank = LowRank::none;
  /// The result reads S_{t−1}, and its own token by the bonus u:
  /// o_t = scale·(S_{t−1}ᵀ·q_t + β_t·(q_t·(u∘k_t))·v_t).
  bool reads_previous = false;
  /// The result is divided by scale·q_tᵀ·z_t + eps, z being the state's sum of keys: what S would
  /// be with v = 1. It is one more column of the state.
  bool normalised = false;
  float eps = 1e-10f;

  int64_t state_columns() const { return v_dim + (normalised ? 1 : 0); }
  /// Of one sequence: [heads, k_dim, state_columns()].
  Shape state_shape() const { return {heads, k_dim, state_columns()}; }
};

/// The inputs of T tokens, all f32; what the spec has no use for must be an empty handle.
struct LinearAttentionInputs {
  Tensor q;  ///< [T, qk_heads·k_dim]
  Tensor k;  ///< likewise
  Tensor v;  ///< [T, heads·v_dim]
  Tensor g;  ///< log of the decay, ≤ 0: [T, heads] or [T, heads·k_dim]; one row serves all tokens
  Tensor beta;  ///< [T, heads]; may be empty: 1
  Tensor a, b;  ///< [T, heads·k_dim]
  Tensor u;     ///< [heads·k_dim]; may be empty: 0
};

/// Rows [begin, end) of the inputs are the next tokens of one sequence.
struct LinearSpan {
  int64_t begin = 0;
  int64_t end = 0;
  Tensor state;  ///< behind the tokens before, state_shape(); an empty handle is zeros
};

/// Runs the tokens and leaves each span's state, which may be no empty handle, as it is behind
/// them: [T, heads·v_dim]. Rows that no span has are zeros. Nothing is recorded.
Tensor linear_attend(const LinearAttentionSpec& spec, const LinearAttentionInputs& in,
                     std::vector<LinearSpan>& spans, LinearForm form = LinearForm::recurrent);

struct LinearAttentionResult {
  Tensor o;                    ///< [T, heads·v_dim]
  std::vector<Tensor> states;  ///< of each span, behind its tokens; new tensors
};
/// The same, with the states left as they are. Recorded: gradients flow from the result and the new
/// states to every input and the states before, in memory linear in T.
LinearAttentionResult linear_attention(const LinearAttentionSpec& spec,
                                       const LinearAttentionInputs& in,
                                       const std::vector<LinearSpan>& spans,
                                       LinearForm form = LinearForm::recurrent);

// Settings of published variants. What is not said is a model's own: feature maps, norms, gates.

/// Katharopoulos et al. 2020, "Transformers are RNNs": q and k are feature maps, nothing decays.
LinearAttentionSpec katharopoulos(int64_t heads, int64_t k_dim, int64_t v_dim, bool normalised);
/// Sun et al. 2023, "Retentive Network": g is retnet_decay(heads); scale k_dim^−½.
LinearAttentionSpec retnet(int64_t heads, int64_t k_dim, int64_t v_dim);
/// [1, heads]: log(1 − 2^(−5−h)).
Tensor retnet_decay(int64_t heads);
/// Dao & Gu 2024, "Transformers are SSMs": q = C, k = B, v = x, β = Δt, g = Δt·A; `groups` heads of
/// B and C.
LinearAttentionSpec mamba2(int64_t heads, int64_t groups, int64_t state_size, int64_t head_size);
/// Yang et al. 2024, "Gated Linear Attention": scale k_dim^−½.
LinearAttentionSpec gla(int64_t heads, int64_t k_dim, int64_t v_dim);
/// Schlag et al. 2021; Yang et al. 2024, "Parallelizing Linear Transformers with the Delta Rule":
/// scale k_dim^−½.
LinearAttentionSpec delta_net(int64_t heads, int64_t k_dim, int64_t v_dim);
/// Yang et al. 2025, "Gated Delta Networks": scale k_dim^−½.
LinearAttentionSpec gated_delta_net(int64_t heads, int64_t qk_heads, int64_t k_dim, int64_t v_dim);
/// Peng et al. 2024, "Eagle and Finch": q = r, g = log w, a row of it (RWKV-5) or T (RWKV-6), u.
LinearAttentionSpec rwkv6(int64_t heads, int64_t head_size);
/// Peng et al. 2025, "RWKV-7 Goose": q = r, g = log w, a = −κ̂, b = κ̂∘(its rate a).
LinearAttentionSpec rwkv7(int64_t heads, int64_t head_size);

}  // namespace hone
