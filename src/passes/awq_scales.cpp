#include "passes/awq_scales.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/checked.h"
#include "base/threads.h"
#include "encodings/int_grid.h"
#include "ops/dense.h"
#include "passes/folding.h"
#include "passes/gptq_solver.h"

namespace hone {
namespace {

constexpr float kLeastScale = 1e-4f;
constexpr double kLeastShare = 0.5;  // of a group's largest magnitude

int64_t columns_of_group(const AwqOptions& o, int64_t k) {
  return o.group == 0 ? k : std::min(o.group, k);
}

GridOptions grid_of(const AwqOptions& o) {
  GridOptions g;
  g.bits = static_cast<int>(o.bits);
  g.symmetric = o.symmetric;
  return g;
}

// Values [N, K] become what is stored for them.
void round_in_place(Tensor& values, const AwqOptions& o) {
  const int64_t n = values.dim(0), k = values.dim(1), group = columns_of_group(o, k);
  const GridOptions options = grid_of(o);
  const int top = (1 << o.bits) - 1;
  float* x = values.mutable_data<float>();
  parallel_for(n, 16, [&](int64_t r0, int64_t r1) {
    for (int64_t r = r0; r < r1; ++r)
      for (int64_t first = 0; first < k; first += group) {
        float* part = x + r * k + first;
        const int64_t count = std::min(group, k - first);
        const Grid grid = find_grid(part, count, 1, options);
        for (int64_t i = 0; i < count; ++i)
          part[i] = grid_value(grid_code(part[i], grid, top), grid);
      }
  });
}

// Errors of rows for what is stored of scaled and perhaps clipped values.
std::vector<double> errors_of(Tensor stored, const AwqLayer& layer, std::span<const float> columns,
                              const InputStatistics& in) {
  const int64_t n = stored.dim(0), k = stored.dim(1);
  const float* w = layer.values.data<float>();
  float* e = stored.mutable_data<float>();
  parallel_for(n, 16, [&](int64_t r0, int64_t r1) {
    for (int64_t r = r0; r < r1; ++r)
      for (int64_t i = 0; i < k; ++i)
        e[r * k + i] = w[r * k + i] - e[r * k + i] * layer.rows[r] / columns[i];
  });
  return hessian_norms(stored, in.gram);
}

double total(const std::vector<double>& parts) {
  return std::accumulate(parts.begin(), parts.end(), 0.0);
}

// The Gram matrix of columns [first, first + count), of inputs over `columns`.
Tensor gram_of_group(const InputStatistics& in, std::span<const float> columns, int64_t first,
                     int64_t count) {
  const int64_t k = in.gram.dim(0);
  Tensor out = Tensor::zeros({count, count}, DType::f32);
  const float* h = in.gram.data<float>();
  float* y = out.mutable_data<float>();
  for (int64_t i = 0; i < count; ++i)
    for (int64_t j = i; j < count; ++j)
      y[i * count + j] = h[(first + i) * k + first + j] / (columns[first + i] * columns[first + j]);
  return out;
}

// Clips one group of `scaled` [N, K] as its own output error has it.
void clip_group(Tensor& scaled, int64_t first, const Tensor& gram, const AwqOptions& o) {
  const int64_t n = scaled.dim(0), k = scaled.dim(1), count = gram.dim(0);
  float* x = scaled.mutable_data<float>();
  Tensor error = Tensor::empty({n, count}, DType::f32);
  float* e = error.mutable_data<float>();
  std::vector<float> largest(static_cast<size_t>(n)), limit(static_cast<size_t>(n));
  for (int64_t r = 0; r < n; ++r)
    for (int64_t i = 0; i < count; ++i)
      largest[r] = std::max(largest[r], std::fabs(x[r * k + first + i]));
  std::vector<double> least(static_cast<size_t>(n), std::numeric_limits<double>::infinity());
  const GridOptions options = grid_of(o);
  const int top = (1 << o.bits) - 1;
  for (int64_t step = 0; double(step) < kLeastShare * double(o.steps); ++step) {
    const float share = 1 - static_cast<float>(step) / static_cast<float>(o.steps);
    parallel_for(n, 16, [&](int64_t r0, int64_t r1) {
      for (int64_t r = r0; r < r1; ++r) {
        const float* v = x + r * k + first;
        float *y = e + r * count, most = largest[r] * share;
        for (int64_t i = 0; i < count; ++i) y[i] = std::clamp(v[i], -most, most);
        const Grid grid = find_grid(y, count, 1, options);
        for (int64_t i = 0; i < count; ++i)
          y[i] = v[i] - grid_value(grid_code(y[i], grid, top), grid);
      }
    });
    const std::vector<double> errors = hessian_norms(error, gram);
    for (int64_t r = 0; r < n; ++r)
      if (errors[r] < least[r]) {
        least[r] = errors[r];
        limit[r] = largest[r] * share;
      }
  }
  for (int64_t r = 0; r < n; ++r)
    for (int64_t i = 0; i < count; ++i) {
      float& v = x[r * k + first + i];
      v = std::clamp(v, -limit[r], limit[r]);
    }
}

// [K]: the mean over rows of |w| over its group's largest.
std::vector<float> relative_weights(std::span<const AwqLayer> layers, const AwqOptions& o) {
  const int64_t k = layers[0].values.dim(1), group = columns_of_group(o, k);
  std::vector<double> sum(static_cast<size_t>(k));
  int64_t count = 0;
  for (const AwqLayer& l : layers) {
    const float* w = l.values.data<float>();
    for (int64_t r = 0; r < l.values.dim(0); ++r, ++count)
      for (int64_t first = 0; first < k; first += group) {
        const int64_t end = std::min(k, first + group);
        float most = 0;
        for (int64_t i = first; i < end; ++i) most = std::max(most, std::fabs(w[r * k + i]));
        for (int64_t i = first; i < end; ++i) sum[i] += std::fabs(w[r * k + i]) / (most + 1e-6f);
      }
  }
  std::vector<float> mean;
  for (double s : sum) mean.push_back(static_cast<float>(s / double(count)));
  return mean;
}

}  // namespace

void InputStatistics::add(const Tensor& x) {
  const int64_t rows = x.dim(0), k = x.dim(1);
  if (gram.empty_handle()) {
    gram = Tensor::zeros({k, k}, DType::f32);
    sum.resize(static_cast<size_t>(k));
  }
  if (rows == 0) return;
  ops::accumulate_gram(x, gram);
  const float* v = x.data<float>();
  parallel_for(k, 64, [&](int64_t c0, int64_t c1) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = c0; c < c1; ++c) sum[c] += std::fabs(v[r * k + c]);
  });
  tokens += rows;
}

std::vector<float> InputStatistics::mean() const {
  std::vector<float> out;
  for (double s : sum) out.push_back(static_cast<float>(s / double(std::max<int64_t>(tokens, 1))));
  return out;
}

std::vector<double> awq_errors(const AwqLayer& layer, std::span<const float> columns,
                               const InputStatistics& in, const AwqOptions& o) {
  Tensor stored = scaled_weight(layer.values, columns, layer.rows);
  round_in_place(stored, o);
  return errors_of(stored, layer, columns, in);
}

std::vector<float> awq_candidate(std::span<const AwqLayer> layers, const InputStatistics& in,
                                 int64_t step, const AwqOptions& o) {
  std::vector<float> s = in.mean();
  const float r = static_cast<float>(step) / static_cast<float>(o.steps);
  std::vector<float> weights;
  if (o.duo) weights = relative_weights(layers, o);
  for (size_t i = 0; i < s.size(); ++i) {
    s[i] = std::pow(s[i], r);
    if (o.duo) s[i] /= std::pow(weights[i], 1 - r) + kLeastScale;
    s[i] = std::max(s[i], kLeastScale);
  }
  const auto [least, most] = std::ranges::minmax_element(s);
  const float middle = std::sqrt(*least * *most);
  for (float& x : s) x /= middle;
  return s;
}

std::vector<float> awq_search(std::span<const AwqLayer> layers, const InputStatistics& in,
                              const AwqOptions& o) {
  std::vector<float> best(in.sum.size(), 1.0f);
  std::vector<double> nearest, output;
  for (const AwqLayer& l : layers) {
    nearest.push_back(total(awq_errors(l, best, in, o)));
    output.push_back(std::max(total(hessian_norms(l.values, in.gram)), 1e-30));
  }
  double least = 0;
  for (size_t i = 0; i < layers.size(); ++i) least += nearest[i] / output[i];
  for (int64_t step = o.duo ? 0 : 1; step < o.steps; ++step) {
    const std::vector<float> s = awq_candidate(layers, in, step, o);
    double sum = 0;
    bool worse = false;
    for (size_t i = 0; i < layers.size() && !worse; ++i) {
      const double error = total(awq_errors(layers[i], s, in, o));
      worse = !(error <= nearest[i]);
      sum += error / output[i];
    }
    if (worse || sum >= least) continue;
    least = sum;
    best = s;
  }
  return best;
}

AwqResult awq_store(const std::string& module, const AwqLayer& layer,
                    std::span<const float> columns, const InputStatistics& in, bool clip,
                    const AwqOptions& o) {
  const int64_t n = layer.values.dim(0), k = layer.values.dim(1), group = columns_of_group(o, k);
  const std::vector<float> none(static_cast<size_t>(k), 1.0f);
  const double output = std::max(total(hessian_norms(layer.values, in.gram)), 1e-30);
  const double nearest = total(awq_errors(layer, none, in, o));
  Tensor scaled = scaled_weight(layer.values, columns, layer.rows);
  std::vector<double> errors = awq_errors(layer, columns, in, o);
  if (clip) {
    Tensor clipped = scaled.clone();
    for (int64_t first = 0; first < k; first += group)
      clip_group(clipped, first, gram_of_group(in, columns, first, std::min(group, k - first)), o);
    Tensor stored = clipped.clone();
    round_in_place(stored, o);
    const std::vector<double> other = errors_of(stored, layer, columns, in);
    for (int64_t r = 0; r < n; ++r)
      if (other[r] < errors[r]) {
        errors[r] = other[r];
        std::copy_n(clipped.data<float>() + r * k, k, scaled.mutable_data<float>() + r * k);
      }
  }
  const WeightForm form = integer_form(o.bits, o.group, o.symmetric, k);
  return {encode_module(module, scaled, form), total(errors) / output, nearest / output};
}

}  // namespace hone
