// A decoder-only transformer: what every family builds, and what passes, evaluation and generation
// work on.
//
// A Model is an embedding, a stack of Blocks, a final norm and a head. A Block is
// x + post(mixer(pre(x))), then x + post(mlp(pre(x))), with the post norms optional. Families
// differ in the parts they put in, never in this file.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "attention/attention.h"
#include "nn/layers.h"

namespace hone {

/// Tokens of one or more sequences that run together.
struct Batch {
  std::vector<int32_t> tokens;      ///< [T]
  std::vector<int64_t> positions;   ///< [T]
  std::vector<SequenceSpan> spans;  ///< cover [0, T) in order
  Activations activations = Activations::f32;

  /// Adds `tokens` behind what `sequence` already holds; with null they are a whole sequence that
  /// needs no cache, as in training. Either all sequences of a batch have one or none.
  void append(std::span<const int32_t> more, KvSequence* sequence);
  bool cached() const { return !spans.empty() && spans[0].kv != nullptr; }
  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
};

/// Mixes information across positions: softmax attention, later linear attention and memories.
class Mixer {
 public:
  virtual ~Mixer() = default;
  /// Everything before the output projection: x [T, D] → [T, K], which output() multiplies. State
  /// of layer `layer` is read from and written to `cache`.
  virtual Tensor mix(const Tensor& x, const Batch& batch, KvCache& cache, int64_t layer) = 0;
  /// The linears that multiply mix's input; they share it.
  virtual std::vector<Linear*> inputs() = 0;
  virtual Linear& output() = 0;
  virtual KvShape kv_shape() const = 0;
  /// For `hone info`: "causal & window(512), 8/4 heads of 64".
  virtual std::string describe() const = 0;
};

class SoftmaxAttention : public Mixer {
 public:
  AttentionSpec spec;
  Linear q, k, v, o;
  Norm q_norm, k_norm;  ///< over each head, before the rotation; undefined = none
  Rope rope;            ///< undefined = none

  Tensor mix(const Tensor& x, const Batch& batch, KvCache& cache, int64_t layer) override;
  std::vector<Linear*> inputs() override { return {&q, &k, &v}; }
  Linear& output() override { return o; }
  KvShape kv_shape() const override { return {spec.kv_heads, spec.k_dim, spec.v_dim}; }
  std::string describe() const override;
};

/// Where a batch stands inside a block.
struct BlockState {
  Tensor residual;  ///< [T, D]
  Tensor x;         ///< [T, K]: what the linears of the next stage multiply
};

/// A block runs in four stages; the linears of one stage share their input: the mixer's inputs, its
/// output projection, the MLP's gate and up, its down.
struct Block {
  static constexpr int kStages = 4;
  Norm mixer_norm, post_mixer_norm;  ///< post norms undefined = none
  Norm mlp_norm, post_mlp_norm;
  std::unique_ptr<Mixer> mixer;
  Mlp mlp;

  Tensor forward(const Tensor& x, const Batch& batch, KvCache& cache, int64_t layer);
  /// The state in front of stage 0, for hidden states x [T, D].
  BlockState enter(const Tensor& x) const;
  /// Runs one stage; behind the last, `x` is empty and `residual` the block's output.
  void advance(BlockState& state, int stage, const Batch& batch, KvCache& cache, int64_t layer);
  /// The linears of each stage, in order.
  std::vector<std::vector<Linear*>> stages();
};

class Model {
 public:
  std::string family;
  int64_t context = 0;  ///< positions it was trained for
  Embedding embedding;
  float embedding_scale = 1;
  Tensor position_table;  ///< [context, D] learned positions, or an empty handle
  std::vector<Block> blocks;
  Norm final_norm;
  Linear head;
  bool tied_head = false;  ///< head and embedding are one parameter
  float logit_softcap = 0;

  int64_t vocabulary() const { return head.out_features(); }
  int64_t width() const { return embedding.weight().cols(); }
  std::vector<KvShape> kv_shapes() const;
  /// Every Linear: the blocks' in order, then the head.
  std::vector<Linear*> linears();
  /// Parameters, a tied head counted once.
  int64_t parameter_count();
  /// What products with activations of precision `a` use: "int8", "bf16", "f32", or several of
  /// them, "int8 and f32", where weights differ.
  std::string activations_used(Activations a);

  /// Token (and position) embeddings of a batch: [T, D]. Raises invalid_argument past the learned
  /// positions.
  Tensor embed(const Batch& batch) const;
  /// Final norm and head on hidden rows [R, D]: [R, V].
  Tensor logits(const Tensor& hidden, Activations a);
  /// The whole stack: hidden states [T, D] before the final norm. Keys and values are appended to
  /// the spans' sequences, whose lengths grow.
  Tensor forward(const Batch& batch, KvCache& cache);

  /// Packs every Linear for the kernels; keep == false drops the canonical weights.
  void pack(bool keep);
};

}  // namespace hone
