// ModelConfig: what a family's file says about the shape of a model, free of file formats.
//
// One struct for all families: a family file fills it from a Hugging Face config or from GGUF
// metadata, and decoder.cpp builds the Model from it. A field says what the model does, never which
// family it is.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nn/mlp.h"
#include "nn/registry.h"

namespace hone {

struct ModelConfig {
  static constexpr int64_t kMaxLayers = 1 << 16;

  std::string family;
  int64_t vocabulary = 0;
  int64_t width = 0;  ///< hidden size
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t ffn = 0;
  int64_t context = 2048;

  Norm::Kind norm = Norm::Kind::rms;
  float norm_eps = 1e-5f;
  float norm_offset = 0;  ///< of the stored norm weights: 1 where a file stores w and means 1+w
  bool gated_attention = false;    ///< softmax attention's result is multiplied by the σ of a gate
  bool qk_norm = false;            ///< norm over each head of q and k
  bool whole_qk_norm = false;      ///< and it is one over all heads
  bool post_norms = false;         ///< norms after the mixer and after the MLP as well
  bool pre_norms = true;           ///< norms before them
  bool parallel_residual = false;  ///< mixer and MLP both read the block's input
  bool shared_norm = false;        ///< through one norm

  bool rotary = true;
  float alibi = 0;            ///< the most that ALiBi takes off a score a token (8); 0 = none
  bool scaled_alibi = false;  ///< and the attention scale multiplies it too
  bool learned_positions = false;
  int64_t position_offset = 0;  ///< rows of their table in front of position 0's
  float rope_theta = 10000;
  int64_t rope_dim = 0;  ///< 0 = head_dim
  RopeScaling rope_scaling;
  float local_rope_theta = 0;  ///< of windowed layers; 0 = rope_theta, without scaling otherwise

  int64_t window = 0;          ///< keys a windowed layer sees; 0 = none
  std::vector<bool> windowed;  ///< [layers], or empty: none

  /// Layers whose softmax attention was made linear (nn/linearised_attention.h): [layers], or
  /// empty: none.
  std::vector<bool> linearised;
  int64_t linear_window = 0, linear_features = 0;
  /// What each layer with softmax attention shows, [layers]; empty: what `windowed` says. The
  /// rotation of a layer is that of `windowed` all the same.
  std::vector<Pattern> patterns;

  /// Of layers whose mixer is not softmax attention: its name in nn/registry.h; empty = none.
  std::string mixer;
  std::vector<bool> softmax;  ///< [layers]: those with softmax attention all the same; empty = none
  std::string feed_forward = "mlp";  ///< or "none", or a name in nn/registry.h
  /// What both are made of, but for width, hidden size and layer, which are those of the model.
  MixerSpec mixing;
  bool embedding_norm = false;  ///< a norm between the embedding and the first layer

  int64_t memory_tokens = 0;  ///< of a Recurrent Memory Transformer (nn/memory_tokens.h)
  int64_t segment = 0;        ///< tokens between them

  float attention_scale = 0;  ///< 0 = 1/√head_dim
  float attention_softcap = 0;
  float logit_softcap = 0;
  float embedding_scale = 1;
  float residual_scale = 1;  ///< of what each half adds to the residual stream
  float logit_scale = 1;
  bool gated_mlp = true;
  Mlp::Activation activation = Mlp::Activation::silu;
  int64_t experts = 0;  ///< MLPs of a layer, of which each token takes few; 0 = one for all
  int64_t experts_used = 0;
  int64_t expert_ffn = 0;
  bool normalised_experts = true;  ///< the weights of those that a token takes sum to 1
  std::vector<bool> dense;         ///< [layers]: those with one MLP all the same; empty = none
  bool tied_head = false;
  // Biases that the config announces: a file without them is refused. Others are read if present.
  bool attention_bias = false;
  bool qkv_bias = false;  ///< those of q, k and v alone
  bool mlp_bias = false;
  bool norm_bias = false;
  bool head_bias = false;

  /// Whether layer i mixes tokens by `mixer`.
  bool is_recurrent(int64_t i) const { return !mixer.empty() && (softmax.empty() || !softmax[i]); }
  bool has_softmax() const;
  bool has_experts(int64_t i) const { return experts > 0 && (dense.empty() || !dense[i]); }
  bool is_linearised(int64_t i) const { return !linearised.empty() && linearised[i]; }
  Pattern pattern(int64_t layer) const;
  /// The same without `patterns`.
  Pattern family_pattern(int64_t layer) const;
  MixerSpec mixer_spec(int64_t layer) const;

  /// Refuses sizes that cannot be (0, negative, not divisible, beyond 2^31): corrupt, naming
  /// `source`.
  void validate(const std::string& source) const;
};

}  // namespace hone
