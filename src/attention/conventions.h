// The arguments of other libraries' attention as an AttentionSpec. What they call alike differs:
//
//                      Hugging Face    flash-attn ≥ 2.1   flashinfer        ggml (llama.cpp)
//   window W sees      W keys          W + 1 keys         W + 1 keys        W keys
//   unequal lengths    the last query stands at the last key, in all four; torch's is_causal aligns
//                      the first ones
//   ALiBi              –               −s·|i − j|,        s·(j − i),        −s·|i − j| out of the
//   mask,
//                                      behind the cap     before the cap    behind the cap
//   log Σ exp          –               natural            base 2            –
//
// Each function raises invalid_argument where its library would.
#pragma once

#include "attention/attention.h"

namespace hone {

struct HeadShape {
  int64_t heads = 0, kv_heads = 0;
  int64_t k_dim = 0, v_dim = 0;
};

/// flash_attn_func and flash_attn_varlen_func of Dao-AILab/flash-attention, from 2.1 on.
struct FaArguments {
  double softmax_scale = 0;  ///< 0 = 1/√k_dim
  bool causal = false;
  int64_t window_left = -1, window_right = -1;  ///< keys beside the query's own; −1 = no limit
  float softcap = 0;
  std::vector<float> alibi_slopes = {};
};
AttentionSpec from_fa(const HeadShape& shape, const FaArguments& a);

/// The attention functions of transformers, with the config's fields.
struct HfArguments {
  double scaling = 0;  ///< 0 = 1/√k_dim
  bool is_causal = true;
  int64_t sliding_window = 0;        ///< keys, the query's own among them; 0 = none
  int64_t attention_chunk_size = 0;  ///< Llama 4; 0 = none
  float softcap = 0;                 ///< Gemma 2's attn_logit_softcapping
};
AttentionSpec from_hf(const HeadShape& shape, const HfArguments& a);

/// torch.nn.functional.scaled_dot_product_attention; its attn_mask is AttentionTerms::bias.
struct TorchArguments {
  double scale = 0;  ///< 0 = 1/√k_dim
  bool is_causal = false;
};
AttentionSpec from_torch(const HeadShape& shape, const TorchArguments& a);

/// single_prefill_with_kv_cache and the batch wrappers of flashinfer.
struct FlashinferArguments {
  double sm_scale = 0;  ///< 0 = 1/√k_dim
  bool causal = false;
  int64_t window_left = -1;  ///< keys in front of the query's own; −1 = no limit
  float logits_soft_cap = 0;
  bool alibi = false;  ///< pos_encoding_mode="ALIBI": the standard slopes
};
AttentionSpec from_flashinfer(const HeadShape& shape, const FlashinferArguments& a);
/// flashinfer's log Σ exp is in base 2.
void from_base_two(Tensor& log_sum);
void to_base_two(Tensor& log_sum);

/// ggml_flash_attn_ext with the mask that llama.cpp gives it.
enum class GgmlWindow { standard, chunked, symmetric };
struct GgmlArguments {
  float scale = 0;     ///< 0 = 1/√k_dim
  float max_bias = 0;  ///< of ALiBi; 0 = none
  float logit_softcap = 0;
  bool causal = true;
  int64_t n_swa = 0;  ///< standard: keys, the query's own among them; chunked: the chunk;
                      ///< symmetric: half of it to each side; 0 = none
  GgmlWindow window = GgmlWindow::standard;
};
AttentionSpec from_ggml(const HeadShape& shape, const GgmlArguments& a);

}  // namespace hone
