// The small layers of a transformer: Linear, Embedding, Norm, Rope.
//
// A layer owns its parameters and knows its module path (Hugging Face's name without ".weight"),
// which is what recipes and adapters address. Linear's forward names no encoding and no method.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "encodings/product.h"
#include "nn/adapter.h"
#include "ops/dense.h"
#include "tensor/weight.h"

namespace hone {

/// What a Linear multiplies, made of values that are trained in its place: fake quantisation,
/// scales beside frozen codes (train/).
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  /// The weight [N, K] as those values are now: of the same encoding and parameters each time.
  virtual Weight weight() = 0;
  /// Adds to the gradients of the values what dL/dW [N, K], of that weight, makes of them.
  virtual void backward(const Tensor& dw) = 0;
};

class Linear {
 public:
  Linear() = default;
  Linear(std::string name, Weight weight, Tensor bias);

  bool defined() const { return n_ > 0; }
  const std::string& name() const { return name_; }
  int64_t out_features() const { return n_; }
  int64_t in_features() const { return k_; }
  /// The canonical weight; undefined after pack(false).
  const Weight& weight() const { return weight_; }
  const Tensor& bias() const { return bias_; }
  /// Replaces the weight (same shape) and forgets the packed copy and a source.
  void set_weight(Weight w);
  /// Replaces the bias: [out].
  void set_bias(Tensor b);
  /// Makes the weight f32 values that require a gradient, and returns them: [out, in]. Whoever
  /// writes to them calls repack() afterwards. With `shared`, it becomes those values, which
  /// require one already: a head that is tied to an embedding.
  /// `type` is what the values are stored as: f32, or bf16 or f16 without f32 masters.
  Tensor& train_weight(const Tensor* shared = nullptr, DType type = DType::f32);
  /// Mixed precision: f32 values are packed as products of this precision have them. Where a layer
  /// has its packed copy alone, as for inference, that stays so.
  void set_precision(Activations a);
  /// Multiplies what `source` makes, from now on; whoever writes to its values calls repack()
  /// afterwards. With null the weight stays what it was made last, and is trained no more.
  void set_source(std::shared_ptr<WeightSource> source);
  const std::shared_ptr<WeightSource>& source() const { return source_; }
  /// Makes the bias require a gradient; it must have one.
  Tensor& train_bias();

  /// Makes the kernel layout; with keep == false the canonical planes are dropped and their file
  /// pages released. Without it, the first forward packs and keeps both.
  void pack(bool keep = true);
  /// Forgets the packed copy.
  void unpack() { packed_ = {}; }
  /// Packs the trained values anew, or what a source makes of them, into the memory of the last
  /// copy.
  void repack();
  /// Bytes that one product reads: of the kernel layout, made already or not.
  int64_t resident_bytes() const;
  /// From which magnitude on LLM.int8() leaves an activation as it is, above 0; 6 where not set.
  void set_outlier_threshold(float threshold);
  /// As PackedWeight::activations.
  std::string_view activations(Activations a);

  /// x·Wᵀ + b, and what adapters make of it: [T, out].
  Tensor forward(const LinearInput& x, Activations a);
  /// Packed, without adapters, for products that several Linears share.
  Product product();

  /// In the order in which they work.
  std::vector<std::shared_ptr<LinearAdapter>> adapters;

 private:
  std::string name_;
  Weight weight_;
  Tensor bias_;
  PackedWeight packed_;
  Weight packable() const;
  float outlier_threshold_ = 6;
  bool trained_ = false;  // the weight is plain values that require a gradient
  Activations precision_ = Activations::f32;
  std::shared_ptr<WeightSource> source_;
  Tensor made_;  // stands for the source's weight on the tape
  int64_t n_ = 0, k_ = 0;
};

/// Linears that multiply one input: what depends on the input is made once, and their products and
/// those of their adapters run in one parallel loop. Returns [T, out] of each.
std::vector<Tensor> forward_all(std::span<Linear* const> linears, const LinearInput& x,
                                Activations a);

class Embedding {
 public:
  Embedding() = default;
  Embedding(std::string name, Weight table) : name_(std::move(name)), table_(std::move(table)) {}
  bool defined() const { return table_.defined(); }
  const std::string& name() const { return name_; }
  const Weight& weight() const { return table_; }
  void set_weight(Weight w) { table_ = std::move(w); }
  /// Rows ids[i] as f32, and what adapters make of them: [T, D]; ids must be valid (checked:
  /// invalid_argument).
  Tensor forward(std::span<const int32_t> ids) const;
  /// Makes the table values that require a gradient, and returns them: [V, D].
  Tensor& train(DType type = DType::f32);

  /// In the order in which they work.
  std::vector<std::shared_ptr<EmbeddingAdapter>> adapters;

 private:
  Tensor rows(std::span<const int32_t> ids) const;

  std::string name_;
  Weight table_;
  bool trained_ = false;
};

struct Norm {
  enum class Kind { rms, layer };
  std::string name;
  Kind kind = Kind::rms;
  Tensor weight;  ///< [D] f32; undefined = no norm
  Tensor bias;    ///< [D] f32 or an empty handle
  float eps = 1e-5f;
  float offset = 0;  ///< added to weight (Gemma: 1)

  bool defined() const { return !weight.empty_handle(); }
  Tensor forward(const Tensor& x) const;
  /// a + b and its norm, in one pass.
  ops::SumAndNorm forward_sum(const Tensor& a, const Tensor& b) const;
};

/// How rotary frequencies are stretched for longer contexts.
struct RopeScaling {
  enum class Kind { none, linear, llama3, longrope };
  Kind kind = Kind::none;
  float factor = 1;
  float low_freq_factor = 1;      // llama3
  float high_freq_factor = 4;     // llama3
  float original_context = 8192;  // llama3, longrope
  // longrope (Ding et al. 2024): divisors of the frequencies, [dim/2], of sequences up to the
  // original context and of longer ones; and what cosines and sines are multiplied by.
  std::vector<float> short_factors, long_factors;
  float attention_factor = 1;
  bool operator==(const RopeScaling&) const = default;
};

/// Rotary position embedding (Su et al. 2021) in the rotate-half convention: the first `dim` values
/// of a head, pairs (i, i + dim/2).
class Rope {
 public:
  Rope() = default;
  Rope(int64_t dim, float theta, const RopeScaling& scaling);
  /// Explicit frequencies (GGUF's rope_freqs are divisors of the plain ones).
  void divide_frequencies(std::span<const float> divisors);
  bool defined() const { return dim_ > 0; }
  /// Sequences will have up to so many tokens: longrope then takes the factors for short or for
  /// long ones, in all copies too. A key stays rotated as it was, so this is for sequences that
  /// hold nothing yet.
  void set_reach(int64_t tokens) const;
  /// The same for positions without end: with angles in double, for f32 holds those of positions
  /// far beyond a model's context badly. It shares nothing with this one.
  Rope unbounded() const;
  /// Radians per position of each pair, longrope's of short sequences: [dim/2].
  std::span<const float> frequencies() const { return frequencies_; }
  /// Rotates x [T, heads·head_dim] in place; positions has T entries. Under a tape x must come from
  /// a function that does not need its result again, as a product does.
  void apply(Tensor& x, int64_t head_dim, std::span<const int64_t> positions) const;

 private:
  // Cosines and sines of a batch's positions: all layers ask for the same ones.
  struct Angles {
    std::vector<int64_t> positions;
    std::vector<float> cosine, sine;  // [T, dim/2]
  };
  struct Latest {
    std::mutex mutex;
    std::shared_ptr<const Angles> angles;
    bool is_long = false;  // set_reach()
  };
  std::shared_ptr<const Angles> angles_of(std::span<const int64_t> positions) const;
  // By −1 times the angles with `back`.
  void rotate(Tensor& x, int64_t head_dim, const Angles& angles, bool back) const;

  int64_t dim_ = 0;
  bool unbounded_ = false;
  std::vector<float> frequencies_;  // [dim/2]
  std::vector<float> long_;         // longrope: those of long sequences
  float original_context_ = 0, factor_ = 1;
  std::shared_ptr<Latest> latest_;  // shared by copies
};

}  // namespace hone
