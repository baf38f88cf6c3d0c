// Where fine-tuning methods hook into a model; adapters/ has the methods.
//
// A LinearAdapter changes what a Linear computes, an EmbeddingAdapter what an Embedding does, a
// BlockAdapter what a mixer or an MLP adds to the residual, a Prefix what attention sees in front
// of a sequence. All are recorded by a tape like anything else, and none knows of files.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "encodings/product.h"

namespace hone {

class Linear;

class LinearAdapter {
 public:
  virtual ~LinearAdapter() = default;
  /// What the layer multiplies in place of x [T, in]. By default x itself.
  virtual Tensor input(const Tensor& x) { return x; }
  virtual bool changes_input() const { return false; }
  /// Further products of the layer's input, to be run together with its own.
  virtual std::vector<Product> products() { return {}; }
  /// What the layer gives in place of y [T, out], which may be overwritten; `products` are the
  /// results of products(), x what it multiplied.
  virtual Tensor output(Linear& layer, const Tensor& x, std::span<const Tensor> products, Tensor y,
                        Activations a) = 0;
};

class EmbeddingAdapter {
 public:
  virtual ~EmbeddingAdapter() = default;
  /// What the embedding gives in place of y [T, D], the rows of `ids`, which may be overwritten.
  virtual Tensor output(std::span<const int32_t> ids, Tensor y) = 0;
};

class BlockAdapter {
 public:
  virtual ~BlockAdapter() = default;
  /// What goes into the residual in place of y [T, D], the mixer's or MLP's result for x [T, D].
  virtual Tensor mixer_output(const Tensor& x, Tensor y, Activations a) = 0;
  virtual Tensor mlp_output(const Tensor& x, Tensor y, Activations a) = 0;
};

/// Keys and values that every sequence begins with, at positions 0 … length() − 1, without rotation
/// (Li & Liang 2021).
class Prefix {
 public:
  virtual ~Prefix() = default;
  virtual int64_t length() const = 0;
  /// A pass through all layers begins: what they share is made now, outside their checkpoints.
  virtual void begin() {}
  /// [length, kv_heads·k_dim] of layer `layer`, and as many values.
  virtual Tensor keys(int64_t layer) = 0;
  virtual Tensor values(int64_t layer) = 0;
};

}  // namespace hone
