#include "encodings/gguf_k_fit.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tensor/dtype.h"

namespace hone {
namespace {

constexpr int kSuperBlock = 256;

// Four lanes, in the compilers' portable vector type: sums of floats are not vectorised by
// themselves, because that changes their order.
using F4 = float __attribute__((vector_size(16)));
constexpr int kLanes = 4;

inline F4 load(const float* p) {
  F4 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, F4 v) { std::memcpy(p, &v, sizeof v); }
inline float total(F4 v) { return (v[0] + v[1]) + (v[2] + v[3]); }

/// clamp(round(x), low, high), low for NaN; low and high are integers below 2^22 in magnitude,
/// where adding 1.5·2^23 leaves no fraction bits.
template <typename T>  // float or F4
inline T round_into(T x, T low, T high) {
  constexpr float kNoFraction = 12582912.0f;
  x = x > low ? x : low;
  x = x < high ? x : high;
  return (x + kNoFraction) - kNoFraction;
}

/// The importances of a block divided by their largest, so that no sum overflows; a sub-block that
/// nobody weighs counts all its weights alike.
void load_weights(const float* importance, int group, float* w) {
  float largest = 0;
  if (importance != nullptr) largest = *std::max_element(importance, importance + kSuperBlock);
  for (int i = 0; i < kSuperBlock; ++i) w[i] = largest > 0 ? importance[i] / largest : 1.0f;
  for (int i = 0; i < kSuperBlock; i += group)
    if (std::all_of(w + i, w + i + group, [](float v) { return v == 0; }))
      std::fill(w + i, w + i + group, 1.0f);
}

// --- affine: x̂ = scale·q − min ---------------------------------------------------------------

struct Line {
  float scale = 0, min = 0;
};

/// Weighted sums over one sub-block and its codes.
struct Moments {
  float w, x, q, xq, qq;
};

/// The best codes for a line; returns the weighted squared error.
template <int G>
float best_codes(const float* x, const float* w, Line line, float top, float* q) {
  float inverse = line.scale > 0 ? 1.0f / line.scale : 0.0f;
  F4 low = {}, high = low + top, error = {};
  for (int i = 0; i < G; i += kLanes) {
    F4 value = load(x + i) + line.min;
    F4 code = round_into(value * inverse, low, high);
    F4 miss = line.scale * code - value;
    store(q + i, code);
    error += load(w + i) * miss * miss;
  }
  return total(error);
}

template <int G>
Moments moments(const float* x, const float* w, const float* q) {
  F4 sw = {}, sx = {}, sq = {}, sxq = {}, sqq = {};
  for (int i = 0; i < G; i += kLanes) {
    F4 weight = load(w + i), value = load(x + i), code = load(q + i);
    F4 weighted = weight * code;
    sw += weight;
    sx += weight * value;
    sq += weighted;
    sxq += weighted * value;
    sqq += weighted * code;
  }
  return {total(sw), total(sx), total(sq), total(sxq), total(sqq)};
}

/// The least-squares line for given codes, with scale and min not negative.
Line best_line(const Moments& s) {
  float determinant = s.w * s.qq - s.q * s.q;
  if (!(determinant > 0)) return {0, std::max(0.0f, -s.x / s.w)};
  Line line;
  line.scale = (s.w * s.xq - s.x * s.q) / determinant;
  line.min = (line.scale * s.q - s.x) / s.w;
  if (line.min < 0) line = {s.xq / s.qq, 0};
  line.scale = std::max(line.scale, 0.0f);
  return line;
}

/// The best line for one sub-block alone: from several code widths around the range of the values,
/// two rounds of (codes for the line, line for the codes).
template <int G>
Line fit_line(const float* x, const float* w, float top) {
  float low = std::min(0.0f, *std::min_element(x, x + G));
  float high = *std::max_element(x, x + G);
  if (!(high > low)) return {0, -low};
  float q[G];
  Line best{(high - low) / top, -low};
  float best_error = best_codes<G>(x, w, best, top, q);
  for (float widen = -0.2f * top; widen <= 0.1f * top + 0.5f; widen += 0.3f + 0.01f * top) {
    if (top + widen < 0.5f) continue;
    Line line{(high - low) / (top + widen), -low};
    for (int round = 0; round < 3; ++round) {
      float error = best_codes<G>(x, w, line, top, q);
      if (error < best_error) {
        best_error = error;
        best = line;
      }
      line = best_line(moments<G>(x, w, q));
    }
  }
  return best;
}

template <int G>
class AffineSearch {
  static constexpr int kGroups = kSuperBlock / G;

 public:
  AffineSearch(const float* x, const float* importance, AffineShape shape)
      : x_(x),
        top_(static_cast<float>(shape.top)),
        scale_top_(static_cast<float>(shape.scale_top)) {
    load_weights(importance, G, w_);
  }

  AffineFit run() {
    Line lines[kGroups];
    float widest = 0, deepest = 0;
    for (int j = 0; j < kGroups; ++j) {
      lines[j] = fit_line<G>(x_ + j * G, w_ + j * G, top_);
      widest = std::max(widest, lines[j].scale);
      deepest = std::max(deepest, lines[j].min);
    }
    d_ = nearest_f16(widest / scale_top_);
    e_ = nearest_f16(deepest / scale_top_);
    for (int j = 0; j < kGroups; ++j) {
      scales_[j] = units(lines[j].scale, d_);
      mins_[j] = units(lines[j].min, e_);
    }
    float error = improve_groups();
    for (int round = 0; round < 3; ++round) {
      AffineSearch next = *this;
      next.refit_block();
      float next_error = next.improve_groups();
      if (!(next_error < error)) break;
      *this = next;
      error = next_error;
    }
    return result();
  }

 private:
  float units(float value, float unit) const {
    return unit > 0 ? round_into(value / unit, 0.0f, scale_top_) : 0.0f;
  }

  /// Tries the neighbours of every sub-block's two integers; returns the block's error.
  float improve_groups() {
    float sum = 0, q[G];
    for (int j = 0; j < kGroups; ++j) {
      const float* x = x_ + j * G;
      const float* w = w_ + j * G;
      float centre_scale = scales_[j], centre_min = mins_[j];
      float best = best_codes<G>(x, w, {d_ * centre_scale, e_ * centre_min}, top_, q_ + j * G);
      for (float ds = -1; ds <= 1; ++ds)
        for (float dm = -1; dm <= 1; ++dm) {
          float s = centre_scale + ds, m = centre_min + dm;
          if ((ds == 0 && dm == 0) || s < 0 || m < 0 || s > scale_top_ || m > scale_top_) continue;
          float error = best_codes<G>(x, w, {d_ * s, e_ * m}, top_, q);
          if (error < best) {
            best = error;
            scales_[j] = s;
            mins_[j] = m;
            std::copy(q, q + G, q_ + j * G);
          }
        }
      sum += best;
    }
    return sum;
  }

  /// The least-squares d and e for the integers and codes at hand.
  void refit_block() {
    float aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;  // x̂ = d·a − e·b
    for (int j = 0; j < kGroups; ++j) {
      Moments s = moments<G>(x_ + j * G, w_ + j * G, q_ + j * G);
      aa += scales_[j] * scales_[j] * s.qq;
      ab += scales_[j] * mins_[j] * s.q;
      bb += mins_[j] * mins_[j] * s.w;
      ax += scales_[j] * s.xq;
      bx += mins_[j] * s.x;
    }
    float determinant = aa * bb - ab * ab;
    if (determinant > 1e-6f * aa * bb) {
      d_ = (ax * bb - bx * ab) / determinant;
      e_ = (ax * ab - bx * aa) / determinant;
    } else if (aa > 0) {
      d_ = (ax + e_ * ab) / aa;
    }
    d_ = nearest_f16(std::max(d_, 0.0f));
    e_ = nearest_f16(std::max(e_, 0.0f));
  }

  AffineFit result() const {
    AffineFit fit{};
    fit.d = d_;
    fit.e = e_;
    for (int j = 0; j < kGroups; ++j) {
      fit.scales[j] = static_cast<uint8_t>(scales_[j]);
      fit.mins[j] = static_cast<uint8_t>(mins_[j]);
    }
    for (int i = 0; i < kSuperBlock; ++i) fit.codes[i] = static_cast<uint8_t>(q_[i]);
    return fit;
  }

  const float* x_;
  float top_, scale_top_;
  float d_ = 0, e_ = 0;
  float w_[kSuperBlock], q_[kSuperBlock];
  float scales_[kGroups], mins_[kGroups];
};

// --- signed: x̂ = scale·q ---------------------------------------------------------------------

constexpr int kSignedGroup = 16;

class SignedSearch {
  static constexpr int G = kSignedGroup;
  static constexpr int kGroups = kSuperBlock / G;

 public:
  SignedSearch(const float* x, const float* importance, SignedShape shape)
      : x_(x),
        low_(static_cast<float>(-shape.half)),
        high_(static_cast<float>(shape.half - 1)),
        scale_low_(static_cast<float>(-shape.scale_half)),
        scale_high_(static_cast<float>(shape.scale_half - 1)) {
    load_weights(importance, G, w_);
  }

  SignedFit run() {
    float scales[kGroups], widest = 0;
    for (int j = 0; j < kGroups; ++j) {
      scales[j] = fit_scale(x_ + j * G, w_ + j * G);
      if (std::fabs(scales[j]) > std::fabs(widest)) widest = scales[j];
    }
    d_ = nearest_f16(widest / scale_low_);
    for (int j = 0; j < kGroups; ++j)
      scales_[j] = d_ != 0 ? round_into(scales[j] / d_, scale_low_, scale_high_) : 0.0f;
    float error = improve_groups();
    for (int round = 0; round < 3; ++round) {
      SignedSearch next = *this;
      next.refit_block();
      float next_error = next.improve_groups();
      if (!(next_error < error)) break;
      *this = next;
      error = next_error;
    }
    return result();
  }

 private:
  struct Products {
    float xq, qq;
  };

  float best_codes(const float* x, const float* w, float scale, float* q) const {
    float inverse = scale != 0 ? 1.0f / scale : 0.0f;
    F4 low = F4{} + low_, high = F4{} + high_, error = {};
    for (int i = 0; i < G; i += kLanes) {
      F4 value = load(x + i);
      F4 code = round_into(value * inverse, low, high);
      F4 miss = scale * code - value;
      store(q + i, code);
      error += load(w + i) * miss * miss;
    }
    return total(error);
  }

  static Products products(const float* x, const float* w, const float* q) {
    F4 sxq = {}, sqq = {};
    for (int i = 0; i < G; i += kLanes) {
      F4 code = load(q + i), weighted = load(w + i) * code;
      sxq += weighted * load(x + i);
      sqq += weighted * code;
    }
    return {total(sxq), total(sqq)};
  }

  /// The best scale of one sub-block alone. Both signs are tried, because the codes reach one
  /// further down than up.
  float fit_scale(const float* x, const float* w) const {
    float extreme = 0;
    for (int i = 0; i < G; ++i)
      if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
    if (extreme == 0) return 0;
    float q[G], best = extreme / low_;
    float best_error = best_codes(x, w, best, q);
    for (float limit : {low_, high_})
      for (float step = -6; step <= 6; step += 2) {
        float scale = extreme / (limit * (1.0f + 0.02f * step) + 0.05f * step);
        for (int round = 0; round < 2; ++round) {
          float error = best_codes(x, w, scale, q);
          if (error < best_error) {
            best_error = error;
            best = scale;
          }
          Products p = products(x, w, q);
          if (!(p.qq > 0)) break;
          scale = p.xq / p.qq;
        }
      }
    return best;
  }

  float improve_groups() {
    float sum = 0, q[G];
    for (int j = 0; j < kGroups; ++j) {
      const float* x = x_ + j * G;
      const float* w = w_ + j * G;
      float centre = scales_[j];
      float best = best_codes(x, w, d_ * centre, q_ + j * G);
      for (float s : {centre - 1, centre + 1}) {
        if (s < scale_low_ || s > scale_high_) continue;
        float error = best_codes(x, w, d_ * s, q);
        if (error < best) {
          best = error;
          scales_[j] = s;
          std::copy(q, q + G, q_ + j * G);
        }
      }
      sum += best;
    }
    return sum;
  }

  void refit_block() {
    float ax = 0, aa = 0;
    for (int j = 0; j < kGroups; ++j) {
      Products p = products(x_ + j * G, w_ + j * G, q_ + j * G);
      ax += scales_[j] * p.xq;
      aa += scales_[j] * scales_[j] * p.qq;
    }
    if (aa > 0) d_ = nearest_f16(ax / aa);
  }

  SignedFit result() const {
    SignedFit fit{};
    fit.d = d_;
    for (int j = 0; j < kGroups; ++j) fit.scales[j] = static_cast<int8_t>(scales_[j]);
    for (int i = 0; i < kSuperBlock; ++i) fit.codes[i] = static_cast<uint8_t>(q_[i] - low_);
    return fit;
  }

  const float* x_;
  float low_, high_, scale_low_, scale_high_;
  float d_ = 0;
  float w_[kSuperBlock], q_[kSuperBlock];
  float scales_[kGroups];
};

}  // namespace

AffineFit fit_affine(const float* x, const float* importance, AffineShape shape) {
  return shape.group == 16 ? AffineSearch<16>(x, importance, shape).run()
                           : AffineSearch<32>(x, importance, shape).run();
}

SignedFit fit_signed(const float* x, const float* importance, SignedShape shape) {
  return SignedSearch(x, importance, shape).run();
}

}  // namespace hone
