// Outliers: activations that LLM.int8() does not quantise.
//
// Each row of activations is quantised to int8 with one scale, but for the values of its outlier
// columns, which meet the decoded weight as floats (Dettmers et al. 2022, arXiv:2208.07339). A
// column is an outlier where some |x| in it reaches the threshold:
//   by row    in the row itself: what stands beside it in a batch changes nothing;
//   by batch  in any row, as bitsandbytes has it.
#pragma once

#include <vector>

#include "kernels/kernel_table.h"
#include "tensor/tensor.h"

namespace hone {

struct OutlierRule {
  float threshold = 6;  ///< of |x|; above 0
  bool by_batch = false;
};

/// Activations [T, K]: their codes, and the values that have none. The first four have the order in
/// which kernels read them (kernels::QuantizedRows), by tiles of rows.
struct OutlierRows {
  Tensor codes;         ///< i8 [T · K]; 0 in outlier columns
  Tensor scales;        ///< f32 [T · K / chunk], equal within a row: max |x| / 127 of the others
  Tensor starts, lows;  ///< i32 and f32 [T · K / chunk]
  std::vector<int64_t> first;  ///< [T + 1]: where each row's outliers begin in the two behind
  std::vector<int64_t> columns;
  std::vector<float> values;

  kernels::QuantizedRows rows() const;
  /// Adds Σ x[t, k]·w[n, k] over the outliers k of rows [t0, t1) to y, rows ldy apart, for
  /// `columns` rows n of w whose panels begin at `panels`, panel_bytes apart.
  void add(int64_t t0, int64_t t1, const kernels::CodeForm& form, const uint8_t* panels,
           int64_t panel_bytes, int64_t columns, float* y, int64_t ldy) const;
};

/// x is f32 [T, K], K a multiple of `chunk`; `zero` is that of the weight's codes.
OutlierRows split_outliers(const Tensor& x, const OutlierRule& rule, int64_t chunk, int zero);

}  // namespace hone
