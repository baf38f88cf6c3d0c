#include "nn/layers.h"

#include <algorithm>
#include <cmath>

#include "base/threads.h"
#include "kernels/select.h"
#include "ops/dense.h"
#include "ops/rounding.h"
#include "ops/tape.h"

namespace hone {

Linear::Linear(std::string name, Weight weight, Tensor bias)
    : name_(std::move(name)), weight_(std::move(weight)), bias_(std::move(bias)) {
  HONE_CHECK(weight_.shape.size() == 2, corrupt, "{}: expected a matrix, got shape {}", name_,
             shape_string(weight_.shape));
  n_ = weight_.shape[0];
  k_ = weight_.shape[1];
  HONE_CHECK(n_ > 0 && k_ > 0, corrupt, "{}: empty matrix {}", name_, shape_string(weight_.shape));
  HONE_CHECK(bias_.empty_handle() || bias_.numel() == n_, corrupt, "{}: expected {} biases, got {}",
             name_, n_, bias_.numel());
}

void Linear::set_weight(Weight w) {
  HONE_ASSERT(w.shape.size() == 2 && w.shape[0] == n_ && w.shape[1] == k_);
  weight_ = std::move(w);
  trained_ = false;
  source_ = nullptr;
  unpack();
}

void Linear::set_bias(Tensor b) {
  HONE_ASSERT(b.numel() == n_);
  bias_ = std::move(b);
}

namespace {
// The weight as plain values that require a gradient.
Tensor& trained_values(Weight& w, DType type) {
  HONE_ASSERT(w.defined());
  if (w.encoding != dtype_name(type) || w.plane("values").borrowed())
    w = float_weight(decode_weight(w).to(type));
  Tensor& values = w.planes.at("values");
  values.require_gradient();
  return values;
}
}  // namespace

Tensor& Linear::train_weight(const Tensor* shared, DType type) {
  unpack();
  source_ = nullptr;
  trained_ = true;
  if (shared == nullptr) return trained_values(weight_, type);
  weight_ = float_weight(*shared);
  return weight_.planes.at("values");
}

void Linear::set_precision(Activations a) {
  if (a == precision_) return;
  precision_ = a;
  if (weight_.defined()) {
    // At once, so that what rounding loses is written down, whatever runs first.
    unpack();
    pack();
  } else if (const auto rounding = rounding_of(a)) {
    narrow(packed_, *rounding, name() + ", weight");
  }
}

void Linear::set_source(std::shared_ptr<WeightSource> source) {
  if (source != nullptr) set_weight(source->weight());
  source_ = std::move(source);
}

// The weight as it is packed.
Weight Linear::packable() const {
  const auto rounding = rounding_of(precision_);
  if (!rounding || weight_.encoding != "f32") return weight_;
  const Tensor& values = weight_.plane("values");
  const std::string what = name() + ", weight";
  if (precision_ == Activations::bf16) return float_weight(ops::rounded_bf16(values, what));
  if (precision_ == Activations::f16) return float_weight(ops::rounded_f16(values, what));
  return float_weight(ops::rounded(values, *rounding, what));
}

void Linear::repack() {
  if (source_ != nullptr) weight_ = source_->weight();
  if (packed_.defined() && (trained_ || source_ != nullptr)) pack_again(packable(), packed_);
}

Tensor& Linear::train_bias() {
  HONE_ASSERT(!bias_.empty_handle());
  bias_.require_gradient();
  return bias_;
}

void Linear::pack(bool keep) {
  if (!packed_.defined()) {
    HONE_ASSERT(weight_.defined());
    packed_ = pack_weight(packable(), !keep);
    packed_.outlier_threshold = outlier_threshold_;
  }
  if (!keep && source_ == nullptr) weight_ = {};
}

void Linear::set_outlier_threshold(float threshold) {
  HONE_ASSERT(threshold > 0);
  outlier_threshold_ = threshold;
  packed_.outlier_threshold = threshold;
}

int64_t Linear::resident_bytes() const {
  return packed_.defined() ? packed_.byte_size() : packed_bytes(weight_);
}

std::string_view Linear::activations(Activations a) {
  pack();
  return packed_.activations(a);
}

Tensor Linear::forward(const LinearInput& x, Activations a) {
  Linear* one = this;
  return forward_all({&one, 1}, x, a)[0];
}

Product Linear::product() {
  pack();
  if (source_ == nullptr) {
    return {&packed_, &bias_, trained_ ? &weight_.plane("values") : nullptr, name_};
  }
  made_ = {};
  if (Tape::current() != nullptr) {
    // A shape alone: nothing reads the values.
    made_ = Tensor::empty({n_, k_}, DType::f32).hollow();
    record(made_, [source = source_](const Tensor& dw) { source->backward(dw); });
  }
  return {&packed_, &bias_, &made_, name_};
}

namespace {
bool changes_input(const Linear& l) {
  return std::ranges::any_of(l.adapters, [](const auto& a) { return a->changes_input(); });
}

// One whose adapters want another input than its group's.
Tensor forward_alone(Linear& l, const LinearInput& in, Activations a) {
  Tensor x = in.x();
  for (const auto& adapter : l.adapters) x = adapter->input(x);
  const LinearInput changed(x);
  const Product own = l.product();
  Tensor y = multiply_all(changed, {&own, 1}, a)[0];
  for (const auto& adapter : l.adapters)
    y = adapter->output(l, x, multiply_all(changed, adapter->products(), a), y, a);
  return y;
}
}  // namespace

std::vector<Tensor> forward_all(std::span<Linear* const> linears, const LinearInput& x,
                                Activations a) {
  std::vector<Product> products;
  for (Linear* l : linears) {
    if (changes_input(*l)) continue;
    products.push_back(l->product());
    for (const auto& adapter : l->adapters)
      for (const Product& p : adapter->products()) products.push_back(p);
  }
  std::vector<Tensor> made = multiply_all(x, products, a), results;
  auto next = made.begin();
  for (Linear* l : linears) {
    if (changes_input(*l)) {
      results.push_back(forward_alone(*l, x, a));
      continue;
    }
    Tensor y = *next++;
    for (const auto& adapter : l->adapters) {
      const size_t count = adapter->products().size();
      y = adapter->output(*l, x.x(), {next, count}, y, a);
      next += static_cast<std::ptrdiff_t>(count);
    }
    results.push_back(y);
  }
  return results;
}

Tensor Embedding::forward(std::span<const int32_t> ids) const {
  Tensor y = rows(ids);
  for (const auto& adapter : adapters) y = adapter->output(ids, y);
  return y;
}

Tensor Embedding::rows(std::span<const int32_t> ids) const {
  const Encoding& e = encoding(table_.encoding);
  int64_t d = table_.cols();
  Tensor y = Tensor::empty({static_cast<int64_t>(ids.size()), d}, DType::f32);
  float* out = y.mutable_data<float>();
  for (size_t i = 0; i < ids.size(); ++i) {
    HONE_CHECK(ids[i] >= 0 && ids[i] < table_.rows(), invalid_argument,
               "token {}: {} has {} rows; does the tokenizer belong to this model?", ids[i], name_,
               table_.rows());
    e.decode(table_, ids[i], ids[i] + 1, out + static_cast<int64_t>(i) * d);
  }
  if (!trained_) return y;
  const Tensor& values = table_.plane("values");
  if (recorded({&values}))
    record(y, [values, rows = std::vector<int32_t>(ids.begin(), ids.end()), d](const Tensor& dy) {
      float* sum = gradient_of(values).mutable_data<float>();
      const float* g = dy.data<float>();
      // Columns apart, so that rows that come twice are added in order.
      parallel_for(d, 64, [&](int64_t b, int64_t e) {
        for (size_t i = 0; i < rows.size(); ++i)
          for (int64_t c = b; c < e; ++c) sum[rows[i] * d + c] += g[int64_t(i) * d + c];
      });
    });
  return y;
}

Tensor& Embedding::train(DType type) {
  trained_ = true;
  return trained_values(table_, type);
}

Tensor Norm::forward(const Tensor& x) const {
  if (kind == Kind::rms) return ops::rms_norm(x, weight, offset, eps);
  return ops::layer_norm(x, weight, bias, eps);
}

ops::SumAndNorm Norm::forward_sum(const Tensor& a, const Tensor& b) const {
  if (kind == Kind::rms) return ops::add_rms_norm(a, b, weight, offset, eps);
  return ops::add_layer_norm(a, b, weight, bias, eps);
}

Rope::Rope(int64_t dim, float theta, const RopeScaling& s)
    : dim_(dim), latest_(std::make_shared<Latest>()) {
  if (s.kind == RopeScaling::Kind::longrope) {
    HONE_ASSERT(std::ssize(s.short_factors) == dim / 2 && std::ssize(s.long_factors) == dim / 2);
    auto divided = [&](const std::vector<float>& factors) {
      std::vector<float> all;
      for (int64_t i = 0; i < dim / 2; ++i)
        all.push_back(1.0f / (factors[i] * std::pow(theta, static_cast<float>(2 * i) /
                                                               static_cast<float>(dim))));
      return all;
    };
    frequencies_ = divided(s.short_factors);
    long_ = divided(s.long_factors);
    original_context_ = s.original_context;
    factor_ = s.attention_factor;
    return;
  }
  for (int64_t i = 0; i < dim / 2; ++i) {
    // In f32, as the models were trained: the angle of a far position depends on the last bit.
    float f = 1.0f / std::pow(theta, static_cast<float>(2 * i) / static_cast<float>(dim));
    if (s.kind == RopeScaling::Kind::linear) f /= s.factor;
    if (s.kind == RopeScaling::Kind::llama3) {
      float wavelength = 2 * static_cast<float>(M_PI) / f;
      float low = s.original_context / s.low_freq_factor;
      float high = s.original_context / s.high_freq_factor;
      if (wavelength > low) {
        f /= s.factor;
      } else if (wavelength >= high) {
        float smooth = (s.original_context / wavelength - s.low_freq_factor) /
                       (s.high_freq_factor - s.low_freq_factor);
        f = (1 - smooth) * f / s.factor + smooth * f;
      }
    }
    frequencies_.push_back(f);
  }
}

void Rope::divide_frequencies(std::span<const float> divisors) {
  HONE_CHECK(divisors.size() == frequencies_.size(), corrupt,
             "rope_freqs: expected {} values, got {}", frequencies_.size(), divisors.size());
  for (size_t i = 0; i < divisors.size(); ++i) frequencies_[i] /= divisors[i];
  latest_ = std::make_shared<Latest>();
}

void Rope::set_reach(int64_t tokens) const {
  if (long_.empty()) return;
  std::lock_guard lock(latest_->mutex);
  latest_->is_long = static_cast<float>(tokens) > original_context_;
  latest_->angles = nullptr;
}

Rope Rope::unbounded() const {
  Rope other = *this;
  other.unbounded_ = true;
  other.latest_ = std::make_shared<Latest>();
  other.latest_->is_long = latest_->is_long;
  return other;
}

std::shared_ptr<const Rope::Angles> Rope::angles_of(std::span<const int64_t> positions) const {
  bool is_long = false;
  {
    std::lock_guard lock(latest_->mutex);
    auto latest = latest_->angles;
    if (latest && std::ranges::equal(latest->positions, positions)) return latest;
    is_long = latest_->is_long;
  }
  const std::vector<float>& frequencies = is_long ? long_ : frequencies_;
  const int64_t half = dim_ / 2;
  auto made = std::make_shared<Angles>();
  made->positions.assign(positions.begin(), positions.end());
  made->cosine.resize(positions.size() * static_cast<size_t>(half));
  made->sine.resize(made->cosine.size());
  parallel_for(std::ssize(positions), 16, [&](int64_t b, int64_t e) {
    for (int64_t row = b; row < e; ++row)
      for (int64_t i = 0; i < half; ++i) {
        if (unbounded_) {
          const double angle = static_cast<double>(positions[row]) * double{frequencies[i]};
          made->cosine[row * half + i] = static_cast<float>(std::cos(angle)) * factor_;
          made->sine[row * half + i] = static_cast<float>(std::sin(angle)) * factor_;
          continue;
        }
        float angle = static_cast<float>(positions[row]) * frequencies[i];
        made->cosine[row * half + i] = std::cos(angle) * factor_;
        made->sine[row * half + i] = std::sin(angle) * factor_;
      }
  });
  std::lock_guard lock(latest_->mutex);
  latest_->angles = made;
  return made;
}

void Rope::apply(Tensor& x, int64_t head_dim, std::span<const int64_t> positions) const {
  HONE_ASSERT(std::ssize(positions) == x.dim(0) && x.dim(1) % head_dim == 0);
  auto angles = angles_of(positions);
  rotate(x, head_dim, *angles, false);
  if (!recorded({&x})) return;
  Tensor y = x.detached();
  record(y, [x = x.hollow(), head_dim, angles, rope = *this](const Tensor& dy) {
    Tensor dx = dy.reshape(x.shape());
    rope.rotate(dx, head_dim, *angles, true);
    add_gradient(x, dx);
  });
  x = y;
}

void Rope::rotate(Tensor& x, int64_t head_dim, const Angles& angles, bool back) const {
  const int64_t width = x.dim(1), half = dim_ / 2;
  const float sign = back ? -1.0f : 1.0f;
  float* data = x.mutable_data<float>();
  parallel_for(x.dim(0), 16, [&](int64_t b, int64_t e) {
    for (int64_t row = b; row < e; ++row) {
      const float *cosine = &angles.cosine[row * half], *sine = &angles.sine[row * half];
      for (float* head = data + row * width; head < data + (row + 1) * width; head += head_dim)
        for (int64_t i = 0; i < half; ++i) {
          float a = head[i], c = head[i + half], s = sign * sine[i];
          head[i] = a * cosine[i] - c * s;
          head[i + half] = c * cosine[i] + a * s;
        }
    }
  });
}

}  // namespace hone
