// Mixer: what a half of a block does up to its output projection, with the state that it keeps of a
// sequence as an explicit input and output.
//
// A mixer of tokens is softmax attention (keys and values in pages), linear attention or a state
// space (a recurrent state); a mixer of channels is an MLP, or RWKV's, which sees the token before.
// A new one is a file and a line in nn/registry.cpp; its test is the registry's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "attention/attention.h"
#include "nn/layers.h"

namespace hone {

/// What a tape keeps of the blocks that it records; the rest is computed again in the backward, to
/// the same bits (Chen et al. 2016).
enum class Checkpointing {
  none,   ///< everything that a gradient needs
  cheap,  ///< not the results of norms and activations
  block,  ///< each block's input
  root,   ///< the input of every √L-th block, and of each block of one such group at a time
};

/// Tokens of one or more sequences that run together.
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

/// One layer's state of the sequences of a batch, as a mixer takes and leaves it.
struct MixerState {
  KvCache& cache;  ///< keys and values of layer `layer` are appended there
  int64_t layer;
  std::vector<RecurrentState>& recurrent;  ///< [spans]: replaced by what comes out
  Tensor& shared;                          ///< what the first layer gives to those behind it
  /// Tensor i of span `span` as it comes in: zeros of `shape` at a sequence's beginning. Of a batch
  /// with a cache whoever takes it may write to it; else it may be needed again.
  Tensor take(size_t span, size_t i, const Shape& shape) const;
  /// Leaves tensor i of span `span`.
  void put(size_t span, size_t i, Tensor t);
};

/// What a mixer hands to its output projection.
struct Mixed {
  Mixed(Tensor values) : x(std::move(values)) {}  // NOLINT: most mixers have no more than that
  Tensor x;                                       ///< [T, K], what outputs() multiply
  std::function<Tensor()> again;                  ///< makes x anew, if given, where a tape drops it
  std::vector<int64_t>
      rows;  ///< output i multiplies rows [rows[i], rows[i + 1]); empty: the one all
  /// Makes [T, D] of what the outputs give, one below the other; empty where it is that.
  std::function<Tensor(const Tensor&)> combine;
};

/// A tensor of a mixer that is neither a Linear's nor a Norm's: a decay, a filter.
struct Coefficients {
  std::string path;  ///< its name in files
  Tensor values;     ///< f32
};

/// A parameter of a mixer by the name that slots give it: one of the three.
struct MixerParameter {
  const char* name;
  Shape shape;  ///< [N, K] of a linear, [n] of a norm, any of coefficients
  Linear* linear = nullptr;
  bool bias = false;  ///< the linear's bias, [N]; it comes behind the linear
  Norm* norm = nullptr;
  Coefficients* vector = nullptr;
};
inline MixerParameter linear(const char* name, Shape shape, Linear& l) {
  return {name, std::move(shape), &l, false, nullptr, nullptr};
}
inline MixerParameter bias_of(const char* name, Shape shape, Linear& l) {
  return {name, std::move(shape), &l, true, nullptr, nullptr};
}
inline MixerParameter norm(const char* name, Shape shape, Norm& n) {
  return {name, std::move(shape), nullptr, false, &n, nullptr};
}
inline MixerParameter coefficients(const char* name, Shape shape, Coefficients& c) {
  return {name, std::move(shape), nullptr, false, nullptr, &c};
}

class Mixer {
 public:
  virtual ~Mixer() = default;
  /// Everything before the output projection, for x [T, D], the block's normed input.
  virtual Mixed mix(const LinearInput& x, const Batch& batch, MixerState& state) = 0;
  /// The linears that multiply mix's input. They share it, or each has its own, made of x.
  virtual std::vector<Linear*> inputs() = 0;
  virtual bool shares_input() const { return true; }
  /// What inputs()[i] multiplies.
  virtual Tensor input_of(size_t i, const Tensor& x, const Batch& batch, const MixerState& state);
  virtual std::vector<Linear*> outputs() { return {&output()}; }
  /// Of a mixer that has one.
  virtual Linear& output();
  /// The small Linears inside, which passes leave as they are.
  virtual std::vector<Linear*> sides();
  virtual std::vector<Norm*> norms() { return {}; }
  /// All of them, for loading and writing, of mixers that a family describes by name.
  virtual std::vector<MixerParameter> parameters() { return {}; }
  virtual KvShape kv_shape() const { return {}; }
  /// Of the recurrent state of one sequence.
  virtual std::vector<Shape> state_shapes() const { return {}; }
  /// Gives the layers behind it MixerState::shared.
  virtual bool gives_shared() const { return false; }
  /// For `hone info`: "causal & window(512), 8/4 heads of 64".
  virtual std::string describe() const = 0;
};

/// Of its recurrent state, in bytes, for one sequence.
int64_t state_bytes(const Mixer& mixer);

}  // namespace hone
