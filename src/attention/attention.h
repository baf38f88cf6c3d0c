// Softmax attention (FlashAttention, Dao et al. 2022, 2023): over a paged KV cache, and without
// one, with gradients. Plans tiles from the pattern and runs the kernels on them, so that neither
// time nor memory is spent on what nobody sees.
//
// A score is scale·q·k; then ALiBi or the soft cap in the spec's order, the additive bias, the
// pattern. A row that sees nothing gives 0, and −∞ as log Σ exp.
#pragma once

#include "attention/kv_cache.h"
#include "attention/pattern.h"
#include "tensor/tensor.h"

namespace hone {

/// ALiBi (Press et al. 2022): scores grow by −slope·|query − key|, or, signed, slope·(key − query),
/// which differs for keys behind the query.
struct Alibi {
  std::vector<float> slopes;  ///< [heads]; empty = none
  bool is_signed = false;
  bool before_cap = false;  ///< added before the soft cap, else behind it
};
/// The paper's slopes: 2^(−most·i/n) for n heads, a power of two; else those of the power below and
/// every second one of the power above.
std::vector<float> alibi_slopes(int64_t heads, double most = 8);

struct AttentionSpec {
  int64_t heads = 0;
  int64_t kv_heads = 0;  ///< divides heads; query head h reads kv head h / (heads/kv_heads)
  int64_t k_dim = 0;     ///< per head
  int64_t v_dim = 0;
  float scale = 1;
  float softcap = 0;  ///< 0 = none; scores become cap·tanh(s/cap) before the mask
  Pattern pattern = Pattern::causal();
  Alibi alibi;
  /// attention(): of queries that are not as many as keys, the first stands at the first key, else
  /// the last at the last.
  bool top_left = false;
};

/// What one call brings beside q, k and v.
struct AttentionTerms {
  /// [heads or 1, T, W], W at least the keys of each sequence: added to the score of q's row and
  /// the key at that position. −∞ hides the key.
  Tensor bias;
  Tensor sinks;       ///< [heads]: e^sink counts in the sum of exponentials, and brings no value
  float dropout = 0;  ///< of probabilities, in steps of 2^−16
  /// Which ones is a function of it, the span's index, the head and both positions.
  uint64_t dropout_seed = 0;
};

/// The tokens of one sequence inside a batch: rows [begin, end) of the activations are its
/// positions start, start+1, …
struct SequenceSpan {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t start = 0;
  KvSequence* kv = nullptr;
  int64_t keys = -1;  ///< that rows may see; −1: up to the span's end
  /// Where the layers' recurrent state is found and left, as KvSequence::recurrent; null = it
  /// begins with zeros and is forgotten.
  std::vector<RecurrentState>* recurrent = nullptr;
};

/// How attend() works off a batch that holds both prefill chunks, bound by arithmetic, and decodes,
/// bound by memory (POD-Attention, Kamath et al. 2024). The bits are the same.
enum class HybridOrder {
  sequential,   ///< the prefills, then the decodes
  one_list,     ///< one loop over these and those
  interleaved,  ///< each core multiplies a prefill's tiles while it fetches a decode's
};
struct AttendOptions {
  HybridOrder order = HybridOrder::interleaved;
};

/// q [T, heads·k_dim] against the keys and values of each span's sequence in `cache`, which must
/// already hold positions up to the span's own: [T, heads·v_dim]. A row may see every key up to its
/// span's end, as far as the pattern shows it. Memory does not grow with the number of keys; a
/// row's result does not depend on the batch or the threads, nor, where the pattern is causal, on
/// how the sequence is cut into spans.
/// With `log_sum` it becomes log Σ exp of each row's scores and sink, [T, heads]; −∞ where none is
/// seen; `top` becomes each row's largest score, of its sink too, likewise. Raises invalid_argument
/// where shapes do not fit.
Tensor attend(const AttentionSpec& spec, const Tensor& q, KvCache& cache, int64_t layer,
              const std::vector<SequenceSpan>& spans, Tensor* log_sum = nullptr,
              const AttentionTerms& terms = {}, Tensor* top = nullptr,
              const AttendOptions& options = {});

/// One sequence of a batch without a cache: rows [q_begin, q_end) of the queries against rows
/// [k_begin, k_end) of the keys, which hold positions 0, 1, …; the queries are the last of these,
/// or with top_left the first. More queries than keys reach over the other end.
struct AttentionSpan {
  int64_t q_begin = 0, q_end = 0;
  int64_t k_begin = 0, k_end = 0;
  /// The keys stand at first, first + 1, …: those before are gone, and the pattern, which must be
  /// one of distances, hides them.
  int64_t first = 0;
};
/// q [T, heads·k_dim], k [S, kv_heads·k_dim], v [S, kv_heads·v_dim]: [T, heads·v_dim], as attend()
/// with a f32 cache gives it. Recorded: gradients flow from the result and the log sums to q, k, v,
/// the bias and the sinks, from the scores made anew tile by tile (Dao 2023, FlashAttention-2), so
/// that nothing of T·S elements is kept. Rows that no span holds are 0. Raises invalid_argument
/// where shapes do not fit.
Tensor attention(const AttentionSpec& spec, const Tensor& q, const Tensor& k, const Tensor& v,
                 const std::vector<AttentionSpan>& spans, const AttentionTerms& terms = {},
                 Tensor* log_sum = nullptr, Tensor* top = nullptr);

/// `o` [T, heads·v_dim] and `log_sum` [T, heads] over some keys become what they are over these and
/// those of `more_o` and `more_log_sum`; a sink must be in one of them only. Not recorded.
void merge_attention(Tensor& o, Tensor& log_sum, const Tensor& more_o, const Tensor& more_log_sum);

}  // namespace hone
