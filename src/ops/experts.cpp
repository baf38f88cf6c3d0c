#include "ops/experts.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/threads.h"
#include "ops/tape.h"

namespace hone::ops {
namespace {

constexpr int64_t kExpertColumns = 64;

// The softmax of one row.
std::vector<float> softmax(const float* logits, int64_t n) {
  std::vector<float> p(logits, logits + n);
  const float most = *std::ranges::max_element(p);
  float sum = 0;
  for (float& x : p) sum += x = std::exp(x - most);
  for (float& x : p) x /= sum;
  return p;
}

// dL/dlogits of one token from dL/dweights of its chosen experts.
void weights_vjp(const float* logits, int64_t experts, const std::vector<int64_t>& chosen,
                 const std::vector<float>& dw, bool normalised, float* dlogits) {
  const std::vector<float> p = softmax(logits, experts);
  std::vector<double> dp(static_cast<size_t>(experts));
  double sum = 0, inner = 0;
  for (size_t i = 0; i < chosen.size(); ++i) {
    sum += double{p[chosen[i]]};
    inner += double{dw[i]} * double{p[chosen[i]]};
  }
  for (size_t i = 0; i < chosen.size(); ++i)
    dp[chosen[i]] = normalised ? (double{dw[i]} - inner / sum) / sum : double{dw[i]};
  double mean = 0;
  for (int64_t e = 0; e < experts; ++e) mean += dp[e] * double{p[e]};
  for (int64_t e = 0; e < experts; ++e)
    dlogits[e] = static_cast<float>(double{p[e]} * (dp[e] - mean));
}

}  // namespace

Routes route(const Tensor& logits, int64_t used, bool normalised) {
  const int64_t rows = logits.dim(0), experts = logits.dim(1);
  HONE_ASSERT(used > 0 && used <= experts);
  const float* x = logits.data<float>();
  struct Choice {
    int64_t token;
    float weight;
  };
  std::vector<std::vector<Choice>> of(static_cast<size_t>(experts));
  std::vector<int64_t> order(static_cast<size_t>(experts));
  for (int64_t t = 0; t < rows; ++t) {
    const std::vector<float> p = softmax(x + t * experts, experts);
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + used, order.end(),
                      [&](int64_t a, int64_t b) { return p[a] > p[b] || (p[a] == p[b] && a < b); });
    float sum = 0;
    for (int64_t i = 0; i < used; ++i) sum += p[order[i]];
    for (int64_t i = 0; i < used; ++i)
      of[order[i]].push_back({t, normalised ? p[order[i]] / sum : p[order[i]]});
  }
  Routes r;
  r.weights = Tensor::empty({rows * used}, DType::f32);
  float* w = r.weights.mutable_data<float>();
  for (const std::vector<Choice>& choices : of) {
    r.first.push_back(std::ssize(r.tokens));
    for (const Choice& c : choices) {
      *w++ = c.weight;
      r.tokens.push_back(c.token);
    }
  }
  r.first.push_back(std::ssize(r.tokens));
  if (recorded({&logits}))
    record(r.weights, [logits, tokens = r.tokens, first = r.first, normalised](const Tensor& dy) {
      const int64_t n = logits.dim(0), e = logits.dim(1);
      std::vector<std::vector<int64_t>> chosen(static_cast<size_t>(n));
      std::vector<std::vector<float>> dw(static_cast<size_t>(n));
      for (int64_t expert = 0; expert < e; ++expert)
        for (int64_t i = first[expert]; i < first[expert + 1]; ++i) {
          chosen[tokens[i]].push_back(expert);
          dw[tokens[i]].push_back(dy.data<float>()[i]);
        }
      Tensor dx = Tensor::empty(logits.shape(), DType::f32);
      for (int64_t t = 0; t < n; ++t)
        weights_vjp(logits.data<float>() + t * e, e, chosen[t], dw[t], normalised,
                    dx.mutable_data<float>() + t * e);
      add_gradient(logits, dx);
    });
  return r;
}

Tensor take_rows(const Tensor& x, std::vector<int64_t> rows) {
  const int64_t d = x.dim(1);
  Tensor y = Tensor::empty({std::ssize(rows), d}, DType::f32);
  float* out = y.mutable_data<float>();
  for (size_t i = 0; i < rows.size(); ++i) {
    HONE_ASSERT(rows[i] >= 0 && rows[i] < x.dim(0));
    std::copy_n(x.data<float>() + rows[i] * d, d, out + int64_t(i) * d);
  }
  if (recorded({&x}))
    record(y, [x = x.hollow(), rows = std::move(rows), d](const Tensor& dy) {
      float* sum = gradient_of(x).mutable_data<float>();
      const float* g = dy.data<float>();
      // Columns apart, so that rows that come twice are added in order.
      parallel_for(d, kExpertColumns, [&](int64_t b, int64_t e) {
        for (size_t i = 0; i < rows.size(); ++i)
          for (int64_t c = b; c < e; ++c) sum[rows[i] * d + c] += g[int64_t(i) * d + c];
      });
    });
  return y;
}

Tensor join_rows(const std::vector<Tensor>& parts) {
  int64_t rows = 0, d = 0;
  for (const Tensor& p : parts)
    if (!p.empty_handle()) {
      rows += p.dim(0);
      d = p.dim(1);
    }
  Tensor y = Tensor::empty({rows, d}, DType::f32);
  float* out = y.mutable_data<float>();
  bool any = false;
  for (const Tensor& p : parts) {
    if (p.empty_handle()) continue;
    HONE_ASSERT(p.dim(1) == d);
    out = std::copy_n(p.data<float>(), p.numel(), out);
    any = any || recorded({&p});
  }
  if (!any) return y;
  std::vector<Tensor> hollow;
  for (const Tensor& p : parts)
    if (!p.empty_handle()) hollow.push_back(p.hollow());
  record(y, [hollow, d](const Tensor& dy) {
    int64_t row = 0;
    for (const Tensor& p : hollow) {
      if (p.requires_gradient()) {
        Tensor dx = Tensor::empty(p.shape(), DType::f32);
        std::copy_n(dy.data<float>() + row * d, dx.numel(), dx.mutable_data<float>());
        add_gradient(p, dx);
      }
      row += p.dim(0);
    }
  });
  return y;
}

Tensor add_rows(const Tensor& x, const Tensor& weights, std::vector<int64_t> rows, int64_t n) {
  const int64_t d = x.dim(1);
  HONE_ASSERT(x.dim(0) == std::ssize(rows) && weights.numel() == x.dim(0));
  Tensor y = Tensor::zeros({n, d}, DType::f32);
  const float *in = x.data<float>(), *w = weights.data<float>();
  float* out = y.mutable_data<float>();
  parallel_for(d, kExpertColumns, [&](int64_t b, int64_t e) {
    for (size_t i = 0; i < rows.size(); ++i)
      for (int64_t c = b; c < e; ++c) out[rows[i] * d + c] += w[i] * in[int64_t(i) * d + c];
  });
  if (recorded({&x, &weights}))
    record(y, [x = weights.requires_gradient() ? x : x.hollow(), weights, rows = std::move(rows),
               d](const Tensor& dy) {
      const float* g = dy.data<float>();
      Tensor dx = Tensor::empty(x.shape(), DType::f32), dw = Tensor::empty({x.dim(0)}, DType::f32);
      float *out_x = dx.mutable_data<float>(), *out_w = dw.mutable_data<float>();
      const bool wanted = weights.requires_gradient();
      parallel_for(x.dim(0), 16, [&](int64_t b, int64_t e) {
        for (int64_t i = b; i < e; ++i) {
          const float* row = g + rows[i] * d;
          double sum = 0;
          for (int64_t c = 0; c < d; ++c) out_x[i * d + c] = weights.data<float>()[i] * row[c];
          for (int64_t c = 0; wanted && c < d; ++c)
            sum += double{x.data<float>()[i * d + c]} * double{row[c]};
          out_w[i] = static_cast<float>(sum);
        }
      });
      if (wanted) add_gradient(weights, dw);
      if (x.requires_gradient()) add_gradient(x, dx);
    });
  return y;
}

}  // namespace hone::ops
