#include "ops/elementwise.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/random.h"
#include "base/threads.h"
#include "ops/tape.h"

namespace hone::ops {
namespace {

constexpr int64_t kElementGrain = 1 << 14;

// y[i] = f(i) for all elements of `shape`.
template <typename F>
Tensor each(const Shape& shape, F f) {
  Tensor y = Tensor::empty(shape, DType::f32);
  float* out = y.mutable_data<float>();
  parallel_for(y.numel(), kElementGrain, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) out[i] = f(i);
  });
  return y;
}

// dx, of as many rows as `like` has: a parameter that served all rows gets their sum, in order.
void add_rows(const Tensor& like, const Tensor& dx) {
  if (like.numel() == dx.numel()) {
    add_gradient(like, dx);
    return;
  }
  float* sum = gradient_of(like).mutable_data<float>();
  const float* d = dx.data<float>();
  for (int64_t i = 0; i < dx.numel(); ++i) sum[i % like.numel()] += d[i];
}

}  // namespace

Tensor scale_columns(const Tensor& x, const Tensor& c) {
  const int64_t n = c.numel(), rows = x.numel() / n;
  HONE_ASSERT(x.numel() == rows * n);
  auto scaled = [n, rows](const Tensor& in, const Tensor& by) {
    Tensor y = Tensor::empty(in.shape(), DType::f32);
    const float *p = in.data<float>(), *f = by.data<float>();
    float* out = y.mutable_data<float>();
    parallel_for(rows, std::max<int64_t>(1, kElementGrain / n), [&](int64_t b, int64_t e) {
      for (int64_t r = b; r < e; ++r)
        for (int64_t i = 0; i < n; ++i) out[r * n + i] = p[r * n + i] * f[i];
    });
    return y;
  };
  Tensor y = scaled(x, c);
  if (recorded({&x, &c}))
    record(y, [x = c.requires_gradient() ? x : x.hollow(), c, n, rows, scaled](const Tensor& dy) {
      if (c.requires_gradient()) {
        float* sum = gradient_of(c).mutable_data<float>();
        const float *p = x.data<float>(), *g = dy.data<float>();
        parallel_for(n, 64, [&](int64_t b, int64_t e) {
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t i = b; i < e; ++i) sum[i] += p[r * n + i] * g[r * n + i];
        });
      }
      if (x.requires_gradient()) add_gradient(x, scaled(dy, c));
    });
  return y;
}

Tensor add_row(const Tensor& x, const Tensor& b, float sign) {
  const int64_t n = b.numel();
  HONE_ASSERT(x.numel() % n == 0);
  Tensor y = Tensor::empty(x.shape(), DType::f32);
  const float *p = x.data<float>(), *q = b.data<float>();
  float* out = y.mutable_data<float>();
  parallel_for(x.numel() / n, std::max<int64_t>(1, kElementGrain / n),
               [&](int64_t begin, int64_t end) {
                 for (int64_t r = begin; r < end; ++r)
                   for (int64_t i = 0; i < n; ++i) out[r * n + i] = p[r * n + i] + sign * q[i];
               });
  if (recorded({&x, &b}))
    record(y, [x = x.hollow(), b = b.hollow(), n, sign](const Tensor& dy) {
      if (b.requires_gradient()) {
        float* sum = gradient_of(b).mutable_data<float>();
        const float* g = dy.data<float>();
        for (int64_t r = 0; r < dy.numel() / n; ++r)
          for (int64_t i = 0; i < n; ++i) sum[i] += sign * g[r * n + i];
      }
      add_gradient(x, dy);
    });
  return y;
}

Tensor slice_columns(const Tensor& x, int64_t begin, int64_t end) {
  const int64_t d = x.dim(1), n = end - begin;
  Tensor y = Tensor::empty({x.dim(0), n}, DType::f32);
  for (int64_t r = 0; r < x.dim(0); ++r)
    std::copy_n(x.data<float>() + r * d + begin, n, y.mutable_data<float>() + r * n);
  if (recorded({&x}))
    record(y, [x = x.hollow(), begin, d, n](const Tensor& dy) {
      float* sum = gradient_of(x).mutable_data<float>();
      const float* g = dy.data<float>();
      for (int64_t r = 0; r < x.dim(0); ++r)
        for (int64_t i = 0; i < n; ++i) sum[r * d + begin + i] += g[r * n + i];
    });
  return y;
}

Tensor gather_rows(const Tensor& x, std::span<const int64_t> rows) {
  const int64_t d = x.dim(1);
  Tensor y = Tensor::empty({std::ssize(rows), d}, DType::f32);
  for (size_t i = 0; i < rows.size(); ++i)
    std::copy_n(x.data<float>() + rows[i] * d, d, y.mutable_data<float>() + int64_t(i) * d);
  if (recorded({&x}))
    record(y, [x = x.hollow(), d,
               order = std::vector<int64_t>(rows.begin(), rows.end())](const Tensor& dy) {
      Tensor dx = Tensor::zeros(x.shape(), DType::f32);
      for (size_t i = 0; i < order.size(); ++i)
        std::copy_n(dy.data<float>() + int64_t(i) * d, d, dx.mutable_data<float>() + order[i] * d);
      add_gradient(x, dx);
    });
  return y;
}

Tensor slice_rows(const Tensor& x, int64_t begin, int64_t end) {
  const int64_t d = x.dim(1);
  Tensor y = Tensor::empty({end - begin, d}, DType::f32);
  std::copy_n(x.data<float>() + begin * d, y.numel(), y.mutable_data<float>());
  if (recorded({&x}))
    record(y, [x = x.hollow(), at = begin * d](const Tensor& dy) {
      float* sum = gradient_of(x).mutable_data<float>() + at;
      for (int64_t i = 0; i < dy.numel(); ++i) sum[i] += dy.data<float>()[i];
    });
  return y;
}

Tensor concat_rows(std::span<const Tensor> parts) {
  int64_t rows = 0;
  for (const Tensor& t : parts) rows += t.dim(0);
  Tensor y = Tensor::empty({rows, parts[0].dim(1)}, DType::f32);
  float* out = y.mutable_data<float>();
  bool any = false;
  std::vector<Tensor> from;
  for (const Tensor& t : parts) {
    HONE_ASSERT(t.dim(1) == y.dim(1));
    out = std::copy_n(t.data<float>(), t.numel(), out);
    any = any || recorded({&t});
    from.push_back(t.hollow());
  }
  if (any)
    record(y, [from, shape = y.shape()](const Tensor& grad) {
      const Tensor dy = grad.reshape(shape);
      int64_t at = 0;
      for (const Tensor& t : from) {
        if (t.requires_gradient()) add_gradient(t, dy.rows(at, at + t.dim(0)).clone());
        at += t.dim(0);
      }
    });
  return y;
}

Tensor dropout(const Tensor& x, double p, uint64_t site) {
  const TrainingStep* step = TrainingStep::current();
  if (step == nullptr || p <= 0) return x;
  const uint64_t seed = mix64(step->seed()) ^ mix64(site);
  const auto factor = static_cast<float>(1 / (1 - p));
  auto dropped = [=](const Tensor& in) {
    const float* v = in.data<float>();
    return each(in.shape(), [&](int64_t i) {
      return random_uniform(seed, static_cast<uint64_t>(i)) < p ? 0.0f : v[i] * factor;
    });
  };
  Tensor y = dropped(x);
  if (recorded({&x}))
    record(y, [x = x.hollow(), dropped](const Tensor& dy) { add_gradient(x, dropped(dy)); });
  return y;
}

Nonlinearity nonlinearity_from_name(std::string_view name) {
  if (name == "relu") return Nonlinearity::relu;
  if (name == "silu" || name == "swish") return Nonlinearity::silu;
  if (name == "gelu") return Nonlinearity::gelu;
  HONE_CHECK(name == "tanh", invalid_argument, "'{}': expected relu, silu, gelu or tanh", name);
  return Nonlinearity::tanh;
}

namespace {

struct Derived {
  float value, slope;
};

Derived derive(Nonlinearity f, float x) {
  switch (f) {
    case Nonlinearity::relu:
      return {std::max(x, 0.0f), x > 0 ? 1.0f : 0.0f};
    case Nonlinearity::silu: {
      const float s = 1 / (1 + std::exp(-x));
      return {x * s, s * (1 + x * (1 - s))};
    }
    case Nonlinearity::gelu: {
      const float cdf = 0.5f * (1 + std::erf(x * static_cast<float>(M_SQRT1_2)));
      const float density =
          std::exp(-0.5f * x * x) * static_cast<float>(M_2_SQRTPI * M_SQRT1_2 / 2);
      return {x * cdf, cdf + x * density};
    }
    case Nonlinearity::sigmoid: {
      const float s = 1 / (1 + std::exp(-x));
      return {s, s * (1 - s)};
    }
    case Nonlinearity::log_sigmoid:
      return {std::min(x, 0.0f) - std::log1p(std::exp(-std::fabs(x))), 1 / (1 + std::exp(x))};
    case Nonlinearity::softplus:
      return {std::max(x, 0.0f) + std::log1p(std::exp(-std::fabs(x))), 1 / (1 + std::exp(-x))};
    case Nonlinearity::exp: {
      const float y = std::exp(x);
      return {y, y};
    }
    case Nonlinearity::squared_relu: {
      const float y = std::max(x, 0.0f);
      return {y * y, 2 * y};
    }
    case Nonlinearity::elu_plus_one: {
      const float y = std::exp(std::min(x, 0.0f));
      return {x > 0 ? x + 1 : y, y};
    }
    default: {
      const float y = std::tanh(x);
      return {y, 1 - y * y};
    }
  }
}

}  // namespace

Tensor apply(Nonlinearity f, const Tensor& x) {
  const float* p = x.data<float>();
  Tensor y = each(x.shape(), [&](int64_t i) { return derive(f, p[i]).value; });
  if (recorded({&x}))
    record(y, [x, f](const Tensor& dy) {
      const float *v = x.data<float>(), *g = dy.data<float>();
      add_gradient(x, each(x.shape(), [&](int64_t i) { return g[i] * derive(f, v[i]).slope; }));
    });
  return y;
}

Tensor lerp(const Tensor& a, const Tensor& b, const Tensor& c) {
  const int64_t n = c.numel();
  HONE_ASSERT(a.numel() == b.numel() && a.numel() % n == 0);
  const float *p = a.data<float>(), *q = b.data<float>(), *f = c.data<float>();
  Tensor y = each(a.shape(), [=](int64_t i) { return p[i] + (q[i] - p[i]) * f[i % n]; });
  if (recorded({&a, &b, &c}))
    record(y, [a, b, c, n](const Tensor& dy) {
      const float *g = dy.data<float>(), *f = c.data<float>();
      const float *p = a.data<float>(), *q = b.data<float>();
      if (a.requires_gradient())
        add_gradient(a, each(a.shape(), [=](int64_t i) { return g[i] * (1 - f[i % n]); }));
      if (b.requires_gradient())
        add_gradient(b, each(b.shape(), [=](int64_t i) { return g[i] * f[i % n]; }));
      if (c.requires_gradient())
        add_rows(c, each(a.shape(), [=](int64_t i) { return g[i] * (q[i] - p[i]); }));
    });
  return y;
}

}  // namespace hone::ops
