// The least time that a model's work can take on a machine (kernels/machine.h), and so the fraction
// of the machine's limits that a measured speed reaches.
//
// A step reads every weight once, the keys and values that its queries see, and recurrent states,
// which it writes as well. Its operations are
// 2 for each weight and token, of the type that its
// activations have; attention's products of visible pairs are f32. The head multiplies one row of
// each sequence. The limit is the longer of the two times.
#pragma once

#include <vector>

#include "kernels/machine.h"
#include "nn/model.h"

namespace hone {

struct Work {
  double weight_bytes = 0;     ///< read once in a step of any number of tokens
  double expert_bytes = 0;     ///< of experts, a part of which a step of few tokens reads
  double expert_share = 0;     ///< the part of one token
  double int8_operations = 0;  ///< of one token's products in the blocks
  double f32_operations = 0, bf16_operations = 0;
  double head_int8 = 0, head_f32 = 0, head_bf16 = 0;  ///< of one row of logits
  struct Attention {
    double pair_operations = 0;  ///< of one (query, key) pair over all heads
    double kv_bytes = 0;         ///< of one position
    int64_t reach = 0;           ///< keys that a query sees at most
  };
  std::vector<Attention> layers;
  double state_bytes = 0;  ///< of one sequence's recurrent states
};
/// `kv` is the type of the KV cache.
Work work_of(Model& model, Activations a, KvType kv = KvType::f32);

/// Least seconds for one token of each of `batch` sequences, behind `depth` others.
double decode_limit(const Work& w, const kernels::Roofs& r, int64_t depth, int64_t batch = 1);
/// Least seconds for `tokens` tokens behind `depth` others, causal, one row of logits.
double prefill_limit(const Work& w, const kernels::Roofs& r, int64_t tokens, int64_t depth);

}  // namespace hone
