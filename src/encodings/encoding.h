// Encoding: what a Weight's bytes mean.
//
// A new encoding is one file that subclasses Encoding and one line in registry.cpp; the contract
// test (tests/encodings/contract_test.cpp) then covers it unasked. `decode` is mandatory and exact;
// everything else is optional and refuses with a reason by default.
#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/weight.h"

namespace hone {

/// Sixteen values that 4-bit codes stand for. Products with f32 activations use them; int8
/// activations meet integers in their place, multiples of the `unit` that fits the values best.
struct CodeTable {
  explicit CodeTable(const float* sixteen);
  std::array<float, 16> values;
  std::array<uint8_t, 16> steps;  ///< (steps[c] − 128)·unit is values[c], or near it
  float unit = 1;
  float error = 0;  ///< the largest difference, as a part of the largest value; 0: all are exact
};

/// How a weight's rows look to the integer kernels:
/// value(k) = scale[k/group]·(code(k) − zero) + min[k/group], or scale[k/group]·table(code(k)).
/// Kernels know these few shapes, never encodings.
struct CodeLayout {
  int bits = 0;                      ///< 4 (codes 0…15), 8 (codes −128…127), 0 = no such form
  int64_t group = 0;                 ///< columns of one scale: a multiple of 16 that divides K
  int zero = 0;                      ///< subtracted from every code (8 for q4_0); 4 bits only
  bool mins = false;                 ///< a min for each group; without it, min is 0
  bool f16_exact = false;            ///< scales and mins are exactly representable in f16
  const CodeTable* table = nullptr;  ///< of values replacing the code (4 bits only), or null
};

/// Options of encode() beyond the parameters.
struct EncodeOptions {
  WeightParams params = {};
  /// Importance of each column, [K], or empty: weights the squared error where supported.
  std::span<const float> importance = {};
};

class Encoding {
 public:
  virtual ~Encoding() = default;
  virtual std::string_view id() const = 0;
  /// One sentence for `hone info` and the documents.
  virtual std::string_view description() const = 0;

  /// Raises corrupt, saying why, where planes, shape and params do not fit together. After it
  /// passes, decode touches no byte outside the planes.
  virtual void validate(const Weight& w) const = 0;

  /// Rows [begin, end) as f32, row-major [end−begin, K]. Exact: bit for bit what the format's
  /// reference implementation computes. Thread-safe.
  virtual void decode(const Weight& w, int64_t begin, int64_t end, float* out) const = 0;

  /// Encodes values[N, K] (row-major f32). Rows are independent, so the result does not depend on
  /// threads. Default: refuses.
  virtual Weight encode(const float* values, int64_t n, int64_t k,
                        const EncodeOptions& options) const;
  /// The reason why encode refuses this shape and these parameters, or empty where it works.
  virtual std::string encode_refusal(int64_t n, int64_t k, const WeightParams& params) const;

  /// The integer form for the kernels; bits == 0 where there is none. Exact: scale·code+min in f32
  /// equals decode up to one rounding.
  virtual CodeLayout code_layout(const Weight& w) const;
  /// One row's codes [K] (u8 for 4 bits, i8 in the same bytes for 8), scales and mins [K/group].
  virtual void codes(const Weight& w, int64_t row, uint8_t* codes, float* scales,
                     float* mins) const;

  /// Why its scales cannot be trained while its codes stay, or empty where the three functions
  /// behind it work; else they raise unsupported. Scales and mins that are floats of their own can,
  /// since decode is linear in them.
  virtual std::string scales_refusal(const Weight& w) const;
  /// Those floats as f32, by name: "scales", and where there are any "mins".
  virtual std::vector<NamedTensor> scales(const Weight& w) const;
  /// w with others in their place, as scales() gives them, rounded to the type that stores them;
  /// codes are shared where they have a plane of their own.
  virtual Weight with_scales(const Weight& w, std::span<const Tensor> scales) const;
  /// What dL/dw, f32 [N, K], makes of the gradient of each of scales(): the transpose of decode.
  virtual std::vector<Tensor> decode_vjp(const Weight& w, const Tensor& dw) const;

  /// Row r of the result is row order[r] of w; planes are copied. Default: permutes planes whose
  /// first dimension is N and copies the others; encodings whose blocks cross rows refuse.
  virtual Weight permute_rows(const Weight& w, std::span<const int64_t> order) const;
};

/// The encoding with this id; raises unsupported naming the known ones.
const Encoding& encoding(std::string_view id);
/// All of them, in the order of registry.cpp.
std::span<const Encoding* const> encodings();

/// The whole weight as an f32 tensor of its shape, decoded in parallel.
Tensor decode_weight(const Weight& w);

}  // namespace hone
