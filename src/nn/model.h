// A decoder-only transformer: what every family builds, and what passes, evaluation and generation
// work on.
//
// A Model is an embedding, a stack of Blocks, a final norm and a head. A Block is
// x + post(mixer(pre(x))), then x + post(feed_forward(pre(x))), with the post norms and the second
// half optional, or with a parallel residual both halves of one x. Families differ in the parts
// they put in, never in this file.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "encodings/linear_loss.h"
#include "nn/memory_tokens.h"
#include "nn/mixer.h"
#include "nn/mlp.h"
#include "nn/streaming.h"

namespace hone {

class SoftmaxAttention : public Mixer {
 public:
  AttentionSpec spec;
  Linear q, k, v, o;
  Linear gate;                     ///< the result is multiplied by its σ; undefined = none
  Norm q_norm, k_norm;             ///< over each head or all, before the rotation; undefined = none
  Rope rope;                       ///< undefined = none
  std::shared_ptr<Prefix> prefix;  ///< in front of every sequence; null = none
  std::shared_ptr<const StreamingAttention> streaming;  ///< null = none

  Mixed mix(const LinearInput& x, const Batch& batch, MixerState& state) override;
  std::vector<Linear*> inputs() override {
    if (gate.defined()) return {&q, &k, &v, &gate};
    return {&q, &k, &v};
  }
  Linear& output() override { return o; }
  std::vector<Norm*> norms() override { return {&q_norm, &k_norm}; }
  KvShape kv_shape() const override {
    return {spec.kv_heads, spec.k_dim, spec.v_dim, spec.pattern.horizon()};
  }
  std::string describe() const override;
  /// The norms over heads, and the rotation, of products with q and k.
  void normalise(Tensor& q, Tensor& k) const;
  void rotate(Tensor& q, Tensor& k, const Batch& batch) const;

 protected:
  /// What the heads give for products with q, k and v, which may be overwritten.
  virtual Tensor attended(Tensor& q, Tensor& k, Tensor& v, const Batch& batch, MixerState& state);
};

/// Where a batch stands inside a block.
struct BlockState {
  Tensor residual;                ///< [T, D]
  Tensor x;                       ///< [T, K]: what the linears of the next stage multiply
  Tensor entered;                 ///< what the mixer or the feed-forward got, for adapters
  std::function<Tensor()> again;  ///< makes x anew; empty where it is kept
  std::vector<int64_t> rows;      ///< of Mixed, as what combines them is
  std::function<Tensor(const Tensor&)> combine;
  Tensor shared;  ///< of MixerState; goes from block to block
  /// Of the mixer and of the feed-forward, [spans]: what the block got, then what it leaves. Empty
  /// where all sequences begin.
  std::array<std::vector<RecurrentState>, 2> recurrent;
};

/// A block runs in four stages; the linears of one stage share their input, or are asked for each
/// one's: the mixer's inputs, its output projection, the feed-forward's inputs (gate and up), its
/// output (down) or the outputs of its experts.
struct Block {
  static constexpr int kStages = 4;
  Norm mixer_norm, post_mixer_norm;  ///< undefined = none
  Norm mlp_norm, post_mlp_norm;
  float residual_scale = 1;  ///< of what each half adds to the residual stream
  /// Both halves read the block's input: x + mixer(pre(x)) + feed_forward(pre(x)) (Wang &
  /// Komatsuzaki 2021). Without an mlp_norm they share mixer_norm.
  bool parallel = false;
  std::unique_ptr<Mixer> mixer;
  std::unique_ptr<Mixer> feed_forward;  ///< null = none: the last two stages do nothing
  /// In the order in which they work.
  std::vector<std::shared_ptr<BlockAdapter>> adapters;

  /// The whole block, for s.residual, s.shared and s.recurrent, which become what it leaves.
  void forward(BlockState& s, const Batch& batch, KvCache& cache, int64_t layer);
  /// The state in front of stage 0, for hidden states s.residual [T, D].
  void enter(BlockState& s, Checkpointing checkpointing = Checkpointing::none) const;
  /// Runs one stage; behind the last, `x` is empty and `residual` the block's output.
  void advance(BlockState& state, int stage, const Batch& batch, KvCache& cache, int64_t layer);
  /// The linears of each stage, in order.
  std::vector<std::vector<Linear*>> stages();
  /// Whether the linears of a stage share their input; else each one's is input_of().
  bool shares_input(int stage) const;
  /// What linear i of a stage multiplies, for a state in front of it.
  Tensor input_of(int stage, size_t i, BlockState& state, const Batch& batch);
  std::vector<Norm*> norms();
  /// In front of the feed-forward.
  const Norm& feed_forward_norm() const { return mlp_norm.defined() ? mlp_norm : mixer_norm; }
  /// Its halves: one or two.
  std::vector<Mixer*> mixers() const;
  /// The feed-forward, if it is an MLP, else null.
  Mlp* mlp() const { return dynamic_cast<Mlp*>(feed_forward.get()); }
};

class ParameterStack;

class Model {
 public:
  std::string family;
  int64_t context = 0;  ///< positions it was trained for
  Embedding embedding;
  Norm embedding_norm;  ///< undefined = none
  float embedding_scale = 1;
  Tensor position_table;        ///< [offset + context, D] learned positions, or an empty handle
  int64_t position_offset = 0;  ///< the row of position 0
  std::string position_name;
  std::vector<Block> blocks;
  Norm final_norm;
  Linear head;
  bool tied_head = false;  ///< head and embedding are one parameter
  float logit_softcap = 0;
  float logit_scale = 1;
  std::shared_ptr<Prefix> prefix;  ///< of all layers (set_prefix); null = none
  /// Rows [p, D] in front of every sequence, for tokens −1 … −p (Lester et al. 2021); an empty
  /// handle = none.
  Tensor prompt;
  MemoryTokens memory;                 ///< undefined = none
  std::optional<Streaming> streaming;  ///< set_streaming(): sequences have no end
  /// What adapters hold of it as a whole (adapters/parameters.h); null = nothing.
  std::shared_ptr<ParameterStack> parameter_stack;

  int64_t vocabulary() const { return head.out_features(); }
  int64_t width() const { return embedding.weight().cols(); }
  std::vector<KvShape> kv_shapes() const;
  /// Bytes of the recurrent state of one sequence, whatever its length.
  int64_t state_bytes() const;
  /// Every Linear that passes may change: the blocks' in order, then the head.
  std::vector<Linear*> linears();
  /// The small ones inside mixers, which passes leave as they are.
  std::vector<Linear*> side_linears();
  /// Parameters, a tied head counted once.
  int64_t parameter_count();
  /// What products with activations of precision `a` use: "int8", "bf16", "f32", or several of
  /// them, "int8 and f32", where weights differ.
  std::string activations_used(Activations a);

  /// Token (and position) embeddings of a batch: [T, D]. Raises invalid_argument past the learned
  /// positions.
  Tensor embed(const Batch& batch) const;
  /// What the head multiplies, of hidden rows [R, D]: their final norm, scaled.
  Tensor head_input(const Tensor& hidden) const;
  /// Final norm and head on hidden rows [R, D]: [R, V].
  Tensor logits(const Tensor& hidden, Activations a);
  void set_prefix(std::shared_ptr<Prefix> p);
  /// Positions that a prefix and a prompt take in front of every sequence.
  int64_t virtual_tokens() const;
  /// Puts prefix and prompt into a sequence that holds nothing yet.
  void begin(KvCache& cache, KvSequence& sequence, Activations a);
  /// A loss of those logits, `gradient` times whose derivative flows back under a tape.
  LinearLoss loss(const Tensor& hidden, LogitLoss& loss, float gradient, Activations a);
  /// Sequences that begin from now on have up to so many tokens (Rope::set_reach); 0 = few.
  void set_reach(int64_t tokens);
  /// The whole stack: hidden states [T, D] before the final norm. Keys and values are appended to
  /// the spans' sequences, whose lengths grow.
  Tensor forward(const Batch& batch, KvCache& cache);
  /// The same for sequences without a cache, which a tape may record: of all that a sequence of
  /// training holds, the prompt's tokens included. The recurrent state of a span that carries one
  /// goes on from there; gradients flow back into the segment that left it, while its tape lives,
  /// unless it was cut (cut_states) or checkpointing is by blocks, which cuts it.
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
  // The blocks on embedded rows [T, D]: with a cache, and without.
  Tensor stack(const Tensor& x, const Batch& batch, KvCache& cache);
  Tensor stack(const Tensor& x, const Batch& batch);
  Tensor put_prompt(const Tensor& x, const std::vector<int32_t>& tokens) const;
};

/// Ends what a tape records at these states: truncated backpropagation through time.
void cut_states(std::vector<RecurrentState>& states);

}  // namespace hone
