#include "nn/layers.h"

#include <algorithm>
#include <cmath>

#include "base/threads.h"
#include "kernels/select.h"
#include "ops/dense.h"

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
  unpack();
}

void Linear::set_bias(Tensor b) {
  HONE_ASSERT(b.numel() == n_);
  bias_ = std::move(b);
}

void Linear::pack(bool keep) {
  if (!packed_.defined()) {
    HONE_ASSERT(weight_.defined());
    packed_ = pack_weight(weight_, !keep);
  }
  if (!keep) weight_ = {};
}

int64_t Linear::resident_bytes() const {
  return packed_.defined() ? packed_.byte_size() : packed_bytes(weight_);
}

std::string_view Linear::activations(Activations a) {
  pack();
  return packed_.activations(a);
}

Tensor Linear::forward(const LinearInput& x, Activations a) {
  pack();
  return multiply(x, packed_, bias_, a);
}

Product Linear::product() {
  pack();
  return {&packed_, &bias_};
}

std::vector<Tensor> forward_all(std::span<Linear* const> linears, const LinearInput& x,
                                Activations a) {
  std::vector<Product> products;
  for (Linear* l : linears) products.push_back(l->product());
  return multiply_all(x, products, a);
}

Tensor Embedding::forward(std::span<const int32_t> ids) const {
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
  return y;
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

std::shared_ptr<const Rope::Angles> Rope::angles_of(std::span<const int64_t> positions) const {
  {
    std::lock_guard lock(latest_->mutex);
    auto latest = latest_->angles;
    if (latest && std::ranges::equal(latest->positions, positions)) return latest;
  }
  const int64_t half = dim_ / 2;
  auto made = std::make_shared<Angles>();
  made->positions.assign(positions.begin(), positions.end());
  made->cosine.resize(positions.size() * static_cast<size_t>(half));
  made->sine.resize(made->cosine.size());
  parallel_for(std::ssize(positions), 16, [&](int64_t b, int64_t e) {
    for (int64_t row = b; row < e; ++row)
      for (int64_t i = 0; i < half; ++i) {
        float angle = static_cast<float>(positions[row]) * frequencies_[i];
        made->cosine[row * half + i] = std::cos(angle);
        made->sine[row * half + i] = std::sin(angle);
      }
  });
  std::lock_guard lock(latest_->mutex);
  latest_->angles = made;
  return made;
}

void Rope::apply(Tensor& x, int64_t head_dim, std::span<const int64_t> positions) const {
  int64_t t = x.dim(0), width = x.dim(1), half = dim_ / 2;
  HONE_ASSERT(static_cast<int64_t>(positions.size()) == t && width % head_dim == 0);
  auto angles = angles_of(positions);
  float* data = x.mutable_data<float>();
  parallel_for(t, 16, [&](int64_t b, int64_t e) {
    for (int64_t row = b; row < e; ++row) {
      const float *cosine = &angles->cosine[row * half], *sine = &angles->sine[row * half];
      for (float* head = data + row * width; head < data + (row + 1) * width; head += head_dim)
        for (int64_t i = 0; i < half; ++i) {
          float a = head[i], c = head[i + half];
          head[i] = a * cosine[i] - c * sine[i];
          head[i + half] = c * cosine[i] + a * sine[i];
        }
    }
  });
}

Tensor Mlp::expand(const Tensor& x, Activations a) {
  LinearInput in(x);
  if (!gate.defined()) {
    HONE_ASSERT(activation == Activation::gelu_tanh);
    return ops::gelu_tanh(up.forward(in, a));
  }
  const kernels::KernelTable& table = kernels::table();
  return multiply_gated(in, gate.product(), up.product(),
                        activation == Activation::silu ? table.silu_mul : table.gelu_tanh_mul, a);
}

}  // namespace hone
