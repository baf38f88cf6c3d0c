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
#include "encodings/linear_loss.h"
#include "nn/layers.h"

namespace hone {

/// Tokens of one or more sequences that run together.
/// What a tape keeps of the blocks that it records; the rest is computed again in the backward, to
/// the same bits (Chen et al. 2016).
enum class Checkpointing {
  none,   ///< everything that a gradient needs
  cheap,  ///< not the results of norms and activations
  block,  ///< each block's input
  root,   ///< the input of every √L-th block, and of each block of one such group at a time
};

struct Batch {
  std::vector<int32_t> tokens;      ///< [T]
  std::vector<int64_t> positions;   ///< [T]
  std::vector<SequenceSpan> spans;  ///< cover [0, T) in order
  Activations activations = Activations::f32;
  Checkpointing checkpointing = Checkpointing::none;

  /// Adds `tokens` behind what `sequence` already holds; with null they are a whole sequence that
  /// needs no cache, as in training, at positions from `start` on. Either all sequences of a batch
  /// have one or none.
  void append(std::span<const int32_t> more, KvSequence* sequence, int64_t start = 0);
  bool cached() const { return !spans.empty() && spans[0].kv != nullptr; }
  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
};

/// Mixes information across positions: softmax attention, later linear attention and memories.
class Mixer {
 public:
  virtual ~Mixer() = default;
  /// Everything before the output projection: x [T, D] → [T, K], which output() multiplies. State
  /// of layer `layer` is read from and written to `cache`.
  virtual Tensor mix(const LinearInput& x, const Batch& batch, KvCache& cache, int64_t layer) = 0;
  /// The linears that multiply mix's input; they share it.
  virtual std::vector<Linear*> inputs() = 0;
  virtual Linear& output() = 0;
  virtual std::vector<Norm*> norms() { return {}; }
  virtual KvShape kv_shape() const = 0;
  /// For `hone info`: "causal & window(512), 8/4 heads of 64".
  virtual std::string describe() const = 0;
};

class SoftmaxAttention : public Mixer {
 public:
  AttentionSpec spec;
  Linear q, k, v, o;
  Norm q_norm, k_norm;             ///< over each head, before the rotation; undefined = none
  Rope rope;                       ///< undefined = none
  std::shared_ptr<Prefix> prefix;  ///< in front of every sequence; null = none

  Tensor mix(const LinearInput& x, const Batch& batch, KvCache& cache, int64_t layer) override;
  std::vector<Linear*> inputs() override { return {&q, &k, &v}; }
  Linear& output() override { return o; }
  std::vector<Norm*> norms() override { return {&q_norm, &k_norm}; }
  KvShape kv_shape() const override { return {spec.kv_heads, spec.k_dim, spec.v_dim}; }
  std::string describe() const override;
};

/// Where a batch stands inside a block.
struct BlockState {
  Tensor residual;                ///< [T, D]
  Tensor x;                       ///< [T, K]: what the linears of the next stage multiply
  Tensor entered;                 ///< what the mixer or the MLP got, for adapters
  std::function<Tensor()> again;  ///< makes x anew; empty where it is kept
};

/// A block runs in four stages; the linears of one stage share their input: the mixer's inputs, its
/// output projection, the MLP's gate and up, its down.
struct Block {
  static constexpr int kStages = 4;
  Norm mixer_norm, post_mixer_norm;  ///< post norms undefined = none
  Norm mlp_norm, post_mlp_norm;
  std::unique_ptr<Mixer> mixer;
  Mlp mlp;
  /// In the order in which they work.
  std::vector<std::shared_ptr<BlockAdapter>> adapters;

  Tensor forward(const Tensor& x, const Batch& batch, KvCache& cache, int64_t layer);
  /// The state in front of stage 0, for hidden states x [T, D].
  BlockState enter(const Tensor& x, Checkpointing checkpointing = Checkpointing::none) const;
  /// Runs one stage; behind the last, `x` is empty and `residual` the block's output.
  void advance(BlockState& state, int stage, const Batch& batch, KvCache& cache, int64_t layer);
  /// The linears of each stage, in order.
  std::vector<std::vector<Linear*>> stages();
  std::vector<Norm*> norms();
};

class ParameterStack;

class Model {
 public:
  std::string family;
  int64_t context = 0;  ///< positions it was trained for
  Embedding embedding;
  float embedding_scale = 1;
  Tensor position_table;  ///< [context, D] learned positions, or an empty handle
  std::string position_name;
  std::vector<Block> blocks;
  Norm final_norm;
  Linear head;
  bool tied_head = false;  ///< head and embedding are one parameter
  float logit_softcap = 0;
  std::shared_ptr<Prefix> prefix;  ///< of all layers (set_prefix); null = none
  /// Rows [p, D] in front of every sequence, for tokens −1 … −p (Lester et al. 2021); an empty
  /// handle = none.
  Tensor prompt;
  /// What adapters hold of it as a whole (adapters/parameters.h); null = nothing.
  std::shared_ptr<ParameterStack> parameter_stack;

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
  void set_prefix(std::shared_ptr<Prefix> p);
  /// Positions that a prefix and a prompt take in front of every sequence.
  int64_t virtual_tokens() const;
  /// Puts prefix and prompt into a sequence that holds nothing yet.
  void begin(KvCache& cache, KvSequence& sequence, Activations a);
  /// A loss of those logits, `gradient` times whose derivative flows back under a tape.
  LinearLoss loss(const Tensor& hidden, LogitLoss& loss, float gradient, Activations a);
  /// The whole stack: hidden states [T, D] before the final norm. Keys and values are appended to
  /// the spans' sequences, whose lengths grow.
  Tensor forward(const Batch& batch, KvCache& cache);
  /// The same for sequences without a cache, which a tape may record: of all that a sequence of
  /// training holds, the prompt's tokens included.
  Tensor forward(const Batch& batch);

  /// Makes the weights and vectors that `select` takes by name ("<module>.weight") require
  /// gradients, weights as f32 values, and returns them in model order: embedding, blocks, final
  /// norm, head. A tied head is the embedding, under the embedding's name.
  /// Matrices are stored as `type`, vectors always as f32.
  std::vector<NamedTensor> train(const std::function<bool(const std::string& name)>& select,
                                 DType type = DType::f32);
  /// Mixed precision of what is trained: batches must have the same.
  void set_precision(Activations a);
  /// Trained values were written to: what is made of them is made anew.
  void values_changed();

  /// Packs every Linear for the kernels; keep == false drops the canonical weights.
  void pack(bool keep);

 private:
  Tensor put_prompt(const Tensor& x, const std::vector<int32_t>& tokens) const;
};

}  // namespace hone
