#include "passes/hqq_solver.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "base/threads.h"
#include "encodings/encoding.h"
#include "encodings/int_grid.h"
#include "encodings/planes.h"

namespace hone {
namespace {

constexpr int64_t kLanes = 8;  // sums in so many parts, always: the compiler may make vectors

// To the nearest integer, ties to even, of 0 ≤ x < 2^22; unlike nearbyint in vectors everywhere.
inline float nearest(float x) {
  constexpr float kShift = 12582912.0f;  // 1.5·2^23
  return (x + kShift) - kShift;
}

constexpr float kLargestZero = 60000;

struct HqqGroup {
  float inverse = 1;  ///< 1/scale: what the library computes with
  float scale = 1, zero = 0;

  void set_scale(float one_over, DType type) {
    scale = round_scale(1 / one_over, type);
    inverse = type == DType::f32 ? one_over : 1 / scale;
  }
};

struct HqqSweep {
  float zero;    ///< the next zero point
  double error;  ///< Σ|w − ŵ| of the one that was given
};

// One iteration: codes q and errors e = w − ŵ of the zero point as it is; of the errors those that
// the lp norm's proximal operator keeps, and the zero point as mean(q − (w − kept)/scale).
HqqSweep sweep(const float* w, int64_t n, const HqqGroup& g, float top, double beta, double norm) {
  // |e| − |e|^(p−1)/β is positive above this, so that hardly an element needs a power.
  const auto kept_above = static_cast<float>(std::pow(beta, -1 / (2 - norm)));
  const float inverse = g.inverse;
  float moved[kLanes] = {}, error[kLanes] = {};
  float largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float at = w[i] * inverse;
    const float code = nearest(std::min(std::max(at + g.zero, 0.0f), top));
    const float e = std::fabs(w[i] - (code - g.zero) * g.scale);
    moved[i % kLanes] += code - at;
    error[i % kLanes] += e;
    largest = std::max(largest, e);
  }
  double sum = 0, total = 0;
  for (int64_t i = 0; i < kLanes; ++i) sum += moved[i], total += error[i];
  if (largest > kept_above) {
    for (int64_t i = 0; i < n; ++i) {
      const float code = nearest(std::min(std::max(w[i] * inverse + g.zero, 0.0f), top));
      const float e = w[i] - (code - g.zero) * g.scale, size = std::fabs(e);
      if (!(size > kept_above)) continue;
      const double kept = size - std::pow(size, norm - 1) / beta;
      if (kept > 0) sum += std::copysign(kept, e) * inverse;
    }
  }
  return {static_cast<float>(sum / static_cast<double>(n)), total};
}

class HqqSolve {
 public:
  HqqSolve(const Tensor& values, const HqqOptions& o)
      : o_(o),
        w_(values.data<float>()),
        n_(values.dim(0)),
        k_(values.dim(1)),
        per_row_(k_ / o.group),
        top_(static_cast<float>((1 << o.bits) - 1)),
        groups_(static_cast<size_t>(n_ * per_row_)) {
    each_group([&](int64_t i, const float* w) { groups_[i] = range_of(w); });
  }

  void solve() {
    if (o_.by_group)
      each_group([&](int64_t i, const float* w) { solve_group(groups_[i], w); });
    else
      solve_together();
  }

  // The weight; `w` has shape, encoding and parameters.
  void pack(Weight& w) const {
    const int64_t bytes = packed_size(k_, w.params.bits);
    Tensor codes = Tensor::empty({n_, bytes}, DType::u8);
    Tensor scales = Tensor::empty({n_, per_row_}, DType::f32), zeros = scales.clone();
    float *s = scales.mutable_data<float>(), *z = zeros.mutable_data<float>();
    for (size_t i = 0; i < groups_.size(); ++i) s[i] = groups_[i].scale, z[i] = groups_[i].zero;
    // Codes of the zero points that are stored.
    zeros = zeros.to(o_.scale_type);
    const Tensor stored = zeros.to(DType::f32);
    auto* out = codes.mutable_data<uint8_t>();
    parallel_for(n_, row_grain(k_), [&](int64_t begin, int64_t end) {
      std::vector<uint8_t> row(static_cast<size_t>(k_));
      for (int64_t r = begin; r < end; ++r) {
        for (int64_t i = 0; i < k_; ++i) {
          const int64_t g = r * per_row_ + i / o_.group;
          const float code = w_[r * k_ + i] * groups_[g].inverse + stored.data<float>()[g];
          row[i] = static_cast<uint8_t>(nearest(std::min(std::max(code, 0.0f), top_)));
        }
        pack_codes(row.data(), k_, w.params.bits, out + r * bytes);
      }
    });
    w.planes = {{"codes", codes}, {"scales", scales.to(o_.scale_type)}, {"zeros", zeros}};
  }

 private:
  void each_group(const std::function<void(int64_t i, const float* w)>& f) const {
    parallel_for(n_, row_grain(k_), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * per_row_; i < end * per_row_; ++i) f(i, w_ + i * o_.group);
    });
  }

  // What the range gives; as in the library, a group with hardly a range gets the scale 1, and none
  // is below 1/20000. One so far from zero that f16 cannot hold its zero point counts as one value.
  HqqGroup range_of(const float* w) const {
    const auto [least, most] = std::minmax_element(w, w + o_.group);
    const float range = *most - *least;
    const float inverse = range <= 1e-4f ? 1.0f : std::min(top_ / range, 2e4f);
    HqqGroup g;
    g.set_scale(inverse, o_.scale_type);
    const float largest = std::max(std::fabs(*least), std::fabs(*most));
    if (largest / g.scale > kLargestZero) g.set_scale(1 / largest, o_.scale_type);
    g.zero = -*least * g.inverse;
    return g;
  }

  void solve_group(HqqGroup& g, const float* w) const {
    HqqGroup at = g;
    double best = std::numeric_limits<double>::infinity(), beta = o_.beta;
    for (int64_t i = 0; i < o_.iterations; ++i, beta *= o_.kappa) {
      const HqqSweep s = sweep(w, o_.group, at, top_, beta, o_.norm);
      if (s.error < best) best = s.error, g = at;
      if (s.zero == at.zero) break;
      at.zero = s.zero;
    }
  }

  void solve_together() {
    std::vector<double> errors(groups_.size());
    double best = std::numeric_limits<double>::infinity();
    for (int64_t i = 0; i < o_.iterations; ++i) {
      each_group([&](int64_t g, const float* w) {
        const HqqSweep s = sweep(w, o_.group, groups_[g], top_, o_.beta, o_.norm);
        groups_[g].zero = s.zero, errors[g] = s.error;
      });
      double total = 0;
      for (double e : errors) total += e;
      if (!(total < best)) break;
      best = total;
    }
  }

  const HqqOptions& o_;
  const float* w_;
  int64_t n_, k_, per_row_;
  float top_;
  std::vector<HqqGroup> groups_;
};

}  // namespace

int64_t hqq_group(int64_t group, int64_t k) {
  constexpr int64_t kLeast = 8;
  const int64_t common = std::gcd(group, k);
  return common < kLeast ? group : common;
}

Weight hqq_solve(const Tensor& values, const HqqOptions& o) {
  HONE_ASSERT(values.rank() == 2 && values.dtype() == DType::f32);
  Weight w;
  w.shape = values.shape();
  w.encoding = "hqq";
  w.params.bits = static_cast<int>(o.bits);
  w.params.group = o.group;
  w.params.symmetric = true;
  w.params.scale_type = o.scale_type;
  const std::string why = encoding("hqq").encode_refusal(values.dim(0), values.dim(1), w.params);
  HONE_CHECK(why.empty(), unsupported, "hqq weight {}: {}", shape_string(w.shape), why);
  HqqSolve solve(values, o);
  solve.solve();
  solve.pack(w);
  return w;
}

}  // namespace hone
