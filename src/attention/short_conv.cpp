#include "attention/short_conv.h"

#include <algorithm>

#include "base/checked.h"
#include "base/threads.h"
#include "kernels/select.h"
#include "ops/dense.h"
#include "ops/tape.h"

namespace hone {
namespace {

using kernels::table;

// What is the same for all rows. Row m of a span's history is row m of its state, behind these its
// rows of x: y[t] = Σ_j w[j]·history[t + j].
struct Conv {
  int64_t channels, taps;
  Tensor by_tap;  // [taps, channels]

  explicit Conv(const Tensor& weight)
      : channels(weight.dim(0)),
        taps(weight.dim(1)),
        by_tap(Tensor::empty({taps, channels}, DType::f32)) {
    const float* w = weight.data<float>();
    float* out = by_tap.mutable_data<float>();
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t j = 0; j < taps; ++j) out[j * channels + c] = w[c * taps + j];
  }
};

void check(const Tensor& x, const Tensor& weight, const Tensor& bias,
           const std::vector<ConvSpan>& spans) {
  HONE_CHECK(weight.rank() == 2 && weight.dim(1) > 0 && x.rank() == 2 &&
                 x.dim(1) == weight.dim(0) && x.dtype() == DType::f32 &&
                 weight.dtype() == DType::f32,
             invalid_argument, "short convolution: x f32 {} does not fit the weight f32 {}",
             shape_string(x.shape()), shape_string(weight.shape()));
  HONE_CHECK(bias.empty_handle() || (bias.dtype() == DType::f32 && bias.numel() == x.dim(1)),
             invalid_argument, "short convolution: the bias must be f32 [{}], not {}", x.dim(1),
             shape_string(bias.shape()));
  const Shape state{weight.dim(1) - 1, x.dim(1)};
  int64_t last = 0;
  for (const ConvSpan& s : spans) {
    HONE_CHECK(s.begin >= last && s.end >= s.begin && s.end <= x.dim(0), invalid_argument,
               "short convolution: the span [{}, {}) of {} rows", s.begin, s.end, x.dim(0));
    last = s.end;
    HONE_CHECK(
        s.state.empty_handle() || (s.state.dtype() == DType::f32 && s.state.shape() == state),
        invalid_argument, "short convolution: a state must be f32 {}, not {}", shape_string(state),
        shape_string(s.state.shape()));
  }
}

// Row m of a span's history; `zeros` in front of a sequence.
const float* history(const Tensor& x, const ConvSpan& s, int64_t taps, int64_t m,
                     const float* zeros) {
  const int64_t c = x.dim(1);
  if (m >= taps - 1) return x.data<float>() + (s.begin + m - (taps - 1)) * c;
  return s.state.empty_handle() ? zeros : s.state.data<float>() + m * c;
}

Tensor convolve(const Conv& conv, const Tensor& x, const Tensor& bias, bool silu,
                const std::vector<ConvSpan>& spans) {
  Tensor y = Tensor::zeros(x.shape(), DType::f32);
  const std::vector<float> zeros(static_cast<size_t>(conv.channels));
  float* out = y.mutable_data<float>();
  for (const ConvSpan& s : spans)
    parallel_for(s.end - s.begin, 8, [&](int64_t first, int64_t last) {
      std::vector<const float*> rows(static_cast<size_t>(conv.taps));
      for (int64_t t = first; t < last; ++t) {
        for (int64_t j = 0; j < conv.taps; ++j)
          rows[j] = history(x, s, conv.taps, t + j, zeros.data());
        table().short_conv_row(rows.data(), conv.by_tap.data<float>(),
                               bias.empty_handle() ? nullptr : bias.data<float>(), conv.taps,
                               conv.channels, silu, out + (s.begin + t) * conv.channels);
      }
    });
  return y;
}

// The last W−1 rows of each history; `out` may be the span's own state.
void leave_state(const Tensor& x, const ConvSpan& s, int64_t taps, Tensor& out) {
  const int64_t c = x.dim(1), n = s.end - s.begin;
  const std::vector<float> zeros(static_cast<size_t>(c));
  float* to = out.mutable_data<float>();
  // From the oldest on: what is overwritten was read.
  for (int64_t r = 0; r < taps - 1; ++r) {
    const float* from = history(x, s, taps, n + r, zeros.data());
    if (from != to + r * c) std::copy_n(from, c, to + r * c);
  }
}

// What flows back: dz, the gradient of what stands in front of the SiLU.
class ConvBackward {
 public:
  ConvBackward(const Tensor& x, const Tensor& weight, const Tensor& bias, bool silu,
               const std::vector<ConvSpan>& spans)
      : x_(x), weight_(weight), bias_(bias), silu_(silu), spans_(spans), conv_(weight) {}

  void run(const std::vector<Tensor>& dy) const {
    const Tensor dz = dy[0].empty_handle() ? Tensor::zeros(x_.shape(), DType::f32) : before(dy[0]);
    if (weight_.requires_gradient()) add_to_weight(dz);
    if (!bias_.empty_handle() && bias_.requires_gradient())
      ops::accumulate_columns(dz, gradient_of(bias_));
    Tensor dx = Tensor::zeros(x_.shape(), DType::f32);
    for (size_t i = 0; i < spans_.size(); ++i) {
      Tensor dstate = Tensor::zeros({conv_.taps - 1, conv_.channels}, DType::f32);
      to_history(spans_[i], dz, dy[i + 1], dx, dstate);
      if (!spans_[i].state.empty_handle()) add_gradient(spans_[i].state, dstate);
    }
    add_gradient(x_, dx);
  }

 private:
  Tensor before(const Tensor& dy) const {
    Tensor dz = Tensor::zeros(x_.shape(), DType::f32);
    if (!silu_) {
      // Rows that no span has are not results of x.
      for (const ConvSpan& s : spans_)
        std::copy_n(dy.data<float>() + s.begin * conv_.channels, (s.end - s.begin) * conv_.channels,
                    dz.mutable_data<float>() + s.begin * conv_.channels);
      return dz;
    }
    const Tensor z = convolve(conv_, x_, bias_, false, spans_);
    const std::vector<float> ones(static_cast<size_t>(conv_.channels), 1.0f);
    for (const ConvSpan& s : spans_)
      parallel_for(s.end - s.begin, 8, [&](int64_t first, int64_t last) {
        std::vector<float> unused(ones.size());
        for (int64_t t = s.begin + first; t < s.begin + last; ++t) {
          const int64_t at = t * conv_.channels;
          table().silu_mul_backward(z.data<float>() + at, ones.data(), dy.data<float>() + at,
                                    conv_.channels, dz.mutable_data<float>() + at, unused.data());
        }
      });
    return dz;
  }

  void add_to_weight(const Tensor& dz) const {
    const int64_t c = conv_.channels, taps = conv_.taps;
    const std::vector<float> zeros(static_cast<size_t>(c));
    float* sum = gradient_of(weight_).mutable_data<float>();
    parallel_for(c, 64, [&](int64_t first, int64_t last) {
      for (const ConvSpan& s : spans_)
        for (int64_t t = 0; t < s.end - s.begin; ++t) {
          const float* g = dz.data<float>() + (s.begin + t) * c;
          for (int64_t j = 0; j < taps; ++j) {
            const float* from = history(x_, s, taps, t + j, zeros.data());
            for (int64_t i = first; i < last; ++i) sum[i * taps + j] += g[i] * from[i];
          }
        }
    });
  }

  // Of row m of the history: Σ_j w[j]·dz[m − j], and what came back for the new state.
  void to_history(const ConvSpan& s, const Tensor& dz, const Tensor& dnew, Tensor& dx,
                  Tensor& dstate) const {
    const int64_t c = conv_.channels, taps = conv_.taps, n = s.end - s.begin;
    const std::vector<float> zeros(static_cast<size_t>(c));
    parallel_for(n + taps - 1, 8, [&](int64_t first, int64_t last) {
      std::vector<const float*> rows(static_cast<size_t>(taps));
      for (int64_t m = first; m < last; ++m) {
        for (int64_t j = 0; j < taps; ++j) {
          const int64_t t = m - j;
          rows[j] = t >= 0 && t < n ? dz.data<float>() + (s.begin + t) * c : zeros.data();
        }
        const float* more =
            m >= n && !dnew.empty_handle() ? dnew.data<float>() + (m - n) * c : nullptr;
        float* to = m < taps - 1 ? dstate.mutable_data<float>() + m * c
                                 : dx.mutable_data<float>() + (s.begin + m - (taps - 1)) * c;
        table().short_conv_row(rows.data(), conv_.by_tap.data<float>(), more, taps, c, 0, to);
      }
    });
  }

  const Tensor &x_, &weight_, &bias_;
  const bool silu_;
  const std::vector<ConvSpan>& spans_;
  const Conv conv_;
};

}  // namespace

Tensor short_conv_step(const Tensor& x, const Tensor& weight, const Tensor& bias, bool silu,
                       std::vector<ConvSpan>& spans) {
  check(x, weight, bias, spans);
  Tensor y = convolve(Conv(weight), x, bias, silu, spans);
  for (ConvSpan& s : spans) {
    HONE_ASSERT(!s.state.empty_handle() || weight.dim(1) == 1);
    leave_state(x, s, weight.dim(1), s.state);
  }
  return y;
}

ConvResult short_conv(const Tensor& x, const Tensor& weight, const Tensor& bias, bool silu,
                      const std::vector<ConvSpan>& spans) {
  check(x, weight, bias, spans);
  ConvResult result{convolve(Conv(weight), x, bias, silu, spans), {}};
  for (const ConvSpan& s : spans) {
    result.states.push_back(Tensor::empty({weight.dim(1) - 1, x.dim(1)}, DType::f32));
    leave_state(x, s, weight.dim(1), result.states.back());
  }
  bool keep = recorded({&x, &weight, &bias});
  for (const ConvSpan& s : spans) keep = keep || recorded({&s.state});
  if (!keep) return result;
  std::vector<Tensor*> results{&result.y};
  for (Tensor& s : result.states) results.push_back(&s);
  record_all(results, [=](const std::vector<Tensor>& dy) {
    ConvBackward(x, weight, bias, silu, spans).run(dy);
  });
  return result;
}

ConvResult token_shift(const Tensor& x, const std::vector<ConvSpan>& spans) {
  Tensor weight = Tensor::zeros({x.dim(1), 2}, DType::f32);
  for (int64_t c = 0; c < x.dim(1); ++c) weight.mutable_data<float>()[2 * c] = 1;
  return short_conv(x, weight, {}, false, spans);
}

}  // namespace hone
