// Products of activations with a Weight: y = x·Wᵀ + b.
//
// A Weight is packed once into the layout that the kernels read (kernels/kernel_table.h): float
// panels for float encodings, code panels where the encoding has an integer form, else f32 panels
// of the decoded values. Two activation precisions exist, and whoever prints a figure says which:
//   f32   every product multiplies f32 activations by the exact weight;
//   bf16, f16, tf32, tf32_truncated   mixed precision, for training: activations and gradients are
//         rounded to the type before products, results to bf16 and f16 behind them; so are
//         weights of floats (Linear); sums are f32. Where dots of bf16 are the machine's fastest
//         they multiply bf16, forward and backward, and what codes and f32 panels (those of
//         adapters) stand for is rounded to it.
//   int8  where the weight has an integer form, activations are quantised by chunks of 32 columns;
//         where it is bf16 and dots of bf16 are the machine's fastest, they are rounded to bf16.
//   llm_int8, llm_int8_batch   where the weight has an integer form, activations are quantised by
//         rows, but for their outliers (encodings/outliers.h), by row or by batch; else as f32.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <tuple>
#include <vector>

#include "encodings/encoding.h"
#include "encodings/outliers.h"
#include "kernels/kernel_table.h"

namespace hone {

enum class Activations { f32, int8, bf16, f16, tf32, tf32_truncated, llm_int8, llm_int8_batch };
std::string_view activations_name(Activations a);
/// "f32", "int8", "llm_int8" or "llm_int8_batch"; raises invalid_argument otherwise.
Activations activations_from_name(std::string_view name);
/// What mixed precision rounds to; nothing for f32 and int8.
std::optional<kernels::Rounding> rounding_of(Activations a);
/// Whether results are rounded too: tf32 is a precision of products alone.
inline bool rounds_results(Activations a) {
  return a == Activations::bf16 || a == Activations::f16;
}

/// Activations [T, K] with what the members of a LinearGroup share: the int8 form, made once.
class LinearInput {
 public:
  /// With `again`, which makes x anew, records keep it in place of x: memory for time.
  explicit LinearInput(Tensor x, std::function<Tensor()> again = nullptr)
      : x_(std::move(x)), again_(std::move(again)) {}
  const Tensor& x() const { return x_; }
  const std::function<Tensor()>& again() const { return again_; }
  /// Quantised in chunks of `chunk` (32 or 16) columns for weights with this zero point; not
  /// thread-safe.
  kernels::QuantizedRows quantized(int64_t chunk, int zero) const;
  /// Without outliers, for LLM.int8(); not thread-safe.
  const OutlierRows& split(const OutlierRule& rule, int64_t chunk, int zero) const;
  /// x rounded to bf16; recorded for `operation` unless that is empty; not thread-safe.
  const Tensor& rounded(std::string_view operation = {}) const;
  /// x as mixed precision multiplies it: f32 still; not thread-safe.
  const Tensor& narrowed(Activations a, std::string_view operation) const;

 private:
  Tensor x_;
  std::function<Tensor()> again_;
  struct Quantized {
    Tensor codes, scales, starts, lows;
  };
  mutable std::map<std::pair<int64_t, int>, Quantized> quantized_;
  mutable std::map<std::tuple<float, bool, int64_t, int>, OutlierRows> split_;
  mutable Tensor rounded_, narrowed_;
};

/// A weight in kernel layout. `bytes` holds ceil(N/16) panels of panel_bytes each.
struct PackedWeight {
  int64_t n = 0, k = 0, panel_bytes = 0;
  bool coded = false;
  DType type = DType::f32;  ///< of a float panel
  kernels::CodeForm form{};
  float outlier_threshold = 6;  ///< of LLM.int8()
  Tensor bytes;

  bool defined() const { return n > 0; }
  int64_t byte_size() const;
  /// The type of the activations that a product with it has: "f32", "int8", "bf16", "llm_int8" or
  /// "llm_int8_batch".
  std::string_view activations(Activations a) const;
};

/// Bytes of the codes, scales and mins of one group of columns of a panel.
int64_t record_bytes(const kernels::CodeForm& form);
/// Packs w [N, K] in parallel. Floats keep their type; encodings with an
/// integer form become codes; the rest is decoded to f32. With `release`, file pages are released
/// as soon as they have been read, so that a weight is never in memory twice.
PackedWeight pack_weight(const Weight& w, bool release = false);
/// Packs w, which differs from what `p` was made of in its values alone, into p's memory.
void pack_again(const Weight& w, PackedWeight& p);
/// Rounds the values of f32 panels to what mixed precision multiplies; codes, bf16 and f16 stay.
/// `operation` is what a flight recorder writes down.
void narrow(PackedWeight& p, kernels::Rounding to, std::string_view operation);
/// The bytes that pack_weight would make.
int64_t packed_bytes(const Weight& w);

/// x·Wᵀ + bias: [T, N] f32; bias is [N] or an empty handle. The result does not depend on the
/// number of threads, and a row of it does not depend on the other rows.
Tensor multiply(const LinearInput& x, const PackedWeight& w, const Tensor& bias, Activations a);

struct Product {
  const PackedWeight* weight;
  const Tensor* bias;  ///< [N] or an empty handle
  /// The f32 values [N, K] that `weight` was packed from, where they require a gradient, or null.
  const Tensor* values = nullptr;
  std::string_view name = "adapter";  ///< for the record of what is rounded
};
/// dy·W: [T, K] for dy [T, N], in f32 with what the weight's codes stand for; what flows back
/// through a product. Sums run over N in order.
Tensor multiply_transposed(const Tensor& dy, const PackedWeight& w);
/// Σ w² of each row, with what the codes stand for: [N].
Tensor row_squares(const PackedWeight& w);
/// What flows back through x·Wᵀ + b: adds the gradients of `values` and `bias` where they require
/// one, and returns that of x [T, K], of f32 or as it was multiplied, where `to_x`. dy may be
/// spoilt. That of `values` is rounded as results are, or as a `part` of a larger product's is left
/// to whoever rounds the whole.
Tensor product_backward(Tensor dy, const Tensor& x, const PackedWeight& w, const Tensor& values,
                        const Tensor& bias, bool to_x, Activations a, std::string_view name,
                        bool part = false);
/// Several products of one input, as multiply gives each; in one parallel loop. Under a tape the
/// gradients of x, of bias and of values are those of the exact weight, also where activations were
/// rounded.
std::vector<Tensor> multiply_all(const LinearInput& x, std::span<const Product> products,
                                 Activations a);
/// y[i] = pair(gate[i], up[i]) over n values.
using GatePair = void (*)(const float* gate, const float* up, int64_t n, float* y);
/// pair(x·Gᵀ + g, x·Uᵀ + u): [T, N], for gate and up of one shape; neither product is ever whole in
/// memory. Not for a tape.
Tensor multiply_gated(const LinearInput& x, const Product& gate, const Product& up, GatePair pair,
                      Activations a);

}  // namespace hone
