#include "passes/gptq_solver.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "base/checked.h"
#include "base/threads.h"
#include "encodings/int_grid.h"
#include "kernels/select.h"
#include "ops/linalg.h"
#include "tensor/transpose.h"

namespace hone {
namespace {

int64_t group_of(const GptqOptions& o, int64_t k) { return o.group == 0 ? k : o.group; }

GridOptions grid_options(const GptqOptions& o) {
  GridOptions g;
  g.bits = static_cast<int>(o.bits);
  g.symmetric = o.symmetric;
  g.mse = o.mse;
  g.scale_type = o.scale_type;
  return g;
}

// The state of one solve. Columns stand in solving order; rows are independent of each other.
class Solve {
 public:
  Solve(const Tensor& values, const GptqFactor& f, const GptqOptions& o)
      : f_(f),
        o_(o),
        n_(values.dim(0)),
        k_(values.dim(1)),
        group_(group_of(o, k_)),
        groups_(ceil_div(k_, group_)),
        top_((1 << o.bits) - 1),
        w_(Tensor::empty({n_, k_}, DType::f32)),
        codes_(static_cast<size_t>(n_ * k_)),
        grids_(static_cast<size_t>(n_ * groups_)) {
    const float* in = values.data<float>();
    float* w = w_.mutable_data<float>();
    if (o_.static_groups) static_grids(in);
    for (int64_t r = 0; r < n_; ++r)
      for (int64_t i = 0; i < k_; ++i) {
        int64_t column = f_.order[i];
        w[r * k_ + i] = f_.dead[column] ? 0.0f : in[r * k_ + column];
      }
  }

  Weight run() {
    for (int64_t b = 0; b < k_; b += o_.block) {
      int64_t e = std::min(k_, b + o_.block);
      // Errors of this block, by column: [e−b, N].
      Tensor errors = Tensor::empty({e - b, n_}, DType::f32);
      parallel_for(n_, 16, [&](int64_t r0, int64_t r1) { solve_block(b, e, r0, r1, errors); });
      if (e < k_) update_rest(b, e, errors);
    }
    return pack();
  }

 private:
  void static_grids(const float* in) {
    GridOptions options = grid_options(o_);
    parallel_for(n_, 16, [&](int64_t r0, int64_t r1) {
      std::vector<float> row(static_cast<size_t>(k_));
      for (int64_t r = r0; r < r1; ++r) {
        for (int64_t i = 0; i < k_; ++i) row[i] = f_.dead[i] ? 0.0f : in[r * k_ + i];
        for (int64_t g = 0; g < groups_; ++g)
          grids_[r * groups_ + g] =
              find_grid(&row[g * group_], std::min(group_, k_ - g * group_), 1, options);
      }
    });
  }

  // The group of solving position i: of its column for static groups, else by position.
  int64_t group_at(int64_t i) const { return (o_.static_groups ? f_.order[i] : i) / group_; }

  void solve_block(int64_t b, int64_t e, int64_t r0, int64_t r1, Tensor& errors) {
    float* w = w_.mutable_data<float>();
    float* err = errors.mutable_data<float>();
    const float* u = f_.upper.data<float>();
    GridOptions options = grid_options(o_);
    std::vector<float> copy(static_cast<size_t>(e - b));
    for (int64_t r = r0; r < r1; ++r) {
      float* row = w + r * k_;
      // Scales are found in weights that only earlier blocks have corrected, as the reference does;
      // the corrections inside this block go into a copy.
      std::memcpy(copy.data(), row + b, copy.size() * 4);
      for (int64_t i = b; i < e; ++i) {
        int64_t g = group_at(i);
        Grid& grid = grids_[r * groups_ + g];
        if (!o_.static_groups && i % group_ == 0)
          grid = find_grid(row + i, std::min(group_, k_ - i), 1, options);
        float x = copy[i - b], pivot = u[i * k_ + i];
        int code = grid_code(x, grid, top_);
        codes_[r * k_ + f_.order[i]] = static_cast<uint8_t>(code);
        float error = (x - grid_value(code, grid)) / pivot;
        const float* line = u + i * k_;
        for (int64_t j = i; j < e; ++j) copy[j - b] -= error * line[j];
        err[(i - b) * n_ + r] = -error;
      }
      std::memcpy(row + b, copy.data(), copy.size() * 4);
    }
  }

  void update_rest(int64_t b, int64_t e, const Tensor& errors) {
    const float* err = errors.data<float>();
    const float* u = f_.upper.data<float>();
    float* w = w_.mutable_data<float>();
    parallel_for(n_, 24, [&](int64_t r0, int64_t r1) {
      kernels::table().accumulate_tn(err, n_, u + b * k_, k_, e - b, r0, r1, e, k_, w, k_);
    });
  }

  Weight pack() const {
    Weight out;
    out.shape = {n_, k_};
    out.encoding = "int_group";
    out.params.bits = static_cast<int>(o_.bits);
    out.params.group = group_ == k_ ? 0 : group_;
    out.params.symmetric = o_.symmetric;
    out.params.act_order = o_.act_order && !o_.static_groups && groups_ > 1;
    int64_t row_bytes = packed_size(k_, out.params.bits);
    Tensor codes = Tensor::empty({n_, row_bytes}, DType::u8);
    Tensor scales = Tensor::empty({n_, groups_}, DType::f32);
    Tensor zeros = Tensor::empty({n_, groups_}, DType::u8);
    for (int64_t r = 0; r < n_; ++r) {
      pack_codes(&codes_[r * k_], k_, out.params.bits,
                 codes.mutable_data<uint8_t>() + r * row_bytes);
      for (int64_t g = 0; g < groups_; ++g) {
        const Grid& grid = grids_[r * groups_ + g];
        scales.mutable_data<float>()[r * groups_ + g] = grid.scale;
        zeros.mutable_data<uint8_t>()[r * groups_ + g] = static_cast<uint8_t>(grid.zero);
      }
    }
    out.planes["codes"] = codes;
    out.params.scale_type = o_.scale_type;
    // Exact: the grids were rounded to this type.
    out.planes["scales"] = scales.to(o_.scale_type);
    if (!o_.symmetric) out.planes["zeros"] = zeros;
    if (out.params.act_order) {
      Tensor index = Tensor::empty({k_}, DType::i32);
      for (int64_t i = 0; i < k_; ++i)
        index.mutable_data<int32_t>()[f_.order[i]] = static_cast<int32_t>(i / group_);
      out.planes["g_idx"] = index;
    }
    return out;
  }

  const GptqFactor& f_;
  const GptqOptions& o_;
  int64_t n_, k_, group_, groups_;
  int top_;
  Tensor w_;
  std::vector<uint8_t> codes_;
  std::vector<Grid> grids_;
};

}  // namespace

GptqFactor gptq_factor(const Tensor& hessian, const GptqOptions& o) {
  int64_t k = hessian.dim(0);
  const float* h = hessian.data<float>();
  GptqFactor f;
  f.order.resize(static_cast<size_t>(k));
  f.dead.resize(static_cast<size_t>(k));
  std::iota(f.order.begin(), f.order.end(), 0);
  std::vector<float> diagonal(static_cast<size_t>(k));
  double mean = 0;
  for (int64_t i = 0; i < k; ++i) {
    f.dead[i] = h[i * k + i] == 0;
    diagonal[i] = f.dead[i] ? 1.0f : h[i * k + i];
    mean += diagonal[i] / static_cast<double>(k);
  }
  if (o.act_order)
    std::stable_sort(f.order.begin(), f.order.end(),
                     [&](int64_t a, int64_t b) { return diagonal[a] > diagonal[b]; });
  Tensor sorted = Tensor::empty({k, k}, DType::f32);
  for (double damp = o.damp; damp <= 1; damp += o.damp_step) {
    float* s = sorted.mutable_data<float>();
    for (int64_t i = 0; i < k; ++i)
      for (int64_t j = i; j < k; ++j) {
        int64_t a = f.order[i], b = f.order[j];
        s[i * k + j] = i == j ? diagonal[a] + static_cast<float>(damp * mean)
                              : h[std::min(a, b) * k + std::max(a, b)];
      }
    f.upper = ops::inverse_cholesky_upper(sorted);
    f.damp = damp;
    if (!f.upper.empty_handle()) return f;
  }
  fail(ErrorKind::invalid_argument,
       "gptq: the Hessian of {} inputs is not positive definite even with damping 1; the "
       "calibration "
       "inputs hold infinities or NaN",
       k);
}

Weight gptq_solve(const Tensor& values, const GptqFactor& factor, const GptqOptions& o) {
  HONE_ASSERT(values.rank() == 2 && values.dim(1) == factor.upper.dim(0));
  return Solve(values, factor, o).run();
}

std::vector<double> hessian_norms(const Tensor& e, const Tensor& hessian) {
  // H = G + Gᵀ for G, the upper triangle with half the diagonal, so xᵀHx = 2·xᵀGx. E·G is a product
  // of Eᵀ with row blocks of G, whose first columns are zero.
  constexpr int64_t kRows = 128;
  int64_t n = e.dim(0), k = e.dim(1);
  const float* x = e.data<float>();
  Tensor g = hessian.clone(), et = transposed(e);
  Tensor product = Tensor::zeros({n, k}, DType::f32);
  float *upper = g.mutable_data<float>(), *y = product.mutable_data<float>();
  parallel_for(k, 16, [&](int64_t i0, int64_t i1) {
    for (int64_t i = i0; i < i1; ++i) {
      std::fill(upper + i * k, upper + i * k + i, 0.0f);
      upper[i * k + i] /= 2;
    }
  });
  std::vector<double> parts(static_cast<size_t>(n));
  parallel_for(n, 24, [&](int64_t r0, int64_t r1) {
    for (int64_t b = 0; b < k; b += kRows)
      kernels::table().accumulate_tn(et.data<float>() + b * n, n, upper + b * k, k,
                                     std::min(kRows, k - b), r0, r1, b, k, y, k);
    for (int64_t i = r0 * k; i < r1 * k; ++i) parts[i / k] += double{x[i]} * y[i];
  });
  for (double& p : parts) p *= 2;
  return parts;
}

double hessian_norm(const Tensor& e, const Tensor& hessian) {
  const std::vector<double> parts = hessian_norms(e, hessian);
  return std::accumulate(parts.begin(), parts.end(), 0.0);
}

}  // namespace hone
