// Softmax attention over a paged KV cache: plans tiles from the pattern and runs the kernel.
#pragma once

#include "attention/kv_cache.h"
#include "attention/pattern.h"
#include "tensor/tensor.h"

namespace hone {

struct AttentionSpec {
  int64_t heads = 0;
  int64_t kv_heads = 0;  ///< divides heads; query head h reads kv head h / (heads/kv_heads)
  int64_t k_dim = 0;     ///< per head
  int64_t v_dim = 0;
  float scale = 1;
  float softcap = 0;  ///< 0 = none; scores become cap·tanh(s/cap) before the mask
  Pattern pattern = Pattern::causal();
};

/// The tokens of one sequence inside a batch: rows [begin, end) of the activations are its
/// positions start, start+1, …
struct SequenceSpan {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t start = 0;
  KvSequence* kv = nullptr;
  /// Where the layers' recurrent state is found and left, as KvSequence::recurrent; null = it
  /// begins with zeros and is forgotten.
  std::vector<RecurrentState>* recurrent = nullptr;
};

/// q [T, heads·k_dim] against the keys and values of each span's sequence in `cache`, which must
/// already hold positions up to the span's own: [T, heads·v_dim]. A row may see every key up to its
/// span's end, as far as the pattern shows it. Memory does not grow with the number of keys; a
/// row's result does not depend on the batch or the threads, nor, where the pattern is causal, on
/// how the sequence is cut into spans.
/// With `log_sum` it becomes log Σ exp of each row's scores, [T, heads]; −∞ where none is seen.
Tensor attend(const AttentionSpec& spec, const Tensor& q, KvCache& cache, int64_t layer,
              const std::vector<SequenceSpan>& spans, Tensor* log_sum = nullptr);

/// One sequence of a batch without a cache: rows [q_begin, q_end) of the queries against rows
/// [k_begin, k_end) of the keys, which hold positions 0, 1, …; the queries are the last of these.
struct AttentionSpan {
  int64_t q_begin = 0, q_end = 0;
  int64_t k_begin = 0, k_end = 0;
};
/// q [T, heads·k_dim], k [S, kv_heads·k_dim], v [S, kv_heads·v_dim]: [T, heads·v_dim], as attend()
/// with a f32 cache gives it. Recorded: gradients flow to q, k and v, from the scores made anew
/// tile by tile (Dao 2023, FlashAttention-2), so that nothing of T·S elements is kept.
Tensor attention(const AttentionSpec& spec, const Tensor& q, const Tensor& k, const Tensor& v,
                 const std::vector<AttentionSpan>& spans);

}  // namespace hone
