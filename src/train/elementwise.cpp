// adamw, adamw8bit, sgd and lion: the chunks of all parameters are one parallel loop over the
// kernels of kernels/cpu/optimizer.cpp.
#include <algorithm>
#include <cmath>

#include "base/checked.h"
#include "base/random.h"
#include "base/threads.h"
#include "kernels/select.h"
#include "train/methods.h"

namespace hone {
namespace {

// Elements of one work item: whole blocks of an 8-bit state, and enough that each of the streams
// stays in its pages for a while. What is drawn at random depends on it.
constexpr int64_t kChunk = 1 << 16;
// Smaller parameters keep 32-bit states: norms and biases, where 8 bits would save nothing.
constexpr int64_t kLeastOf8Bit = 4096;
// The code of 0 in the signed dynamic map.
constexpr int kZeroCode = 127;

using Kernel = int64_t (*)(const kernels::UpdateArgs*);

class Elementwise final : public Optimizer {
 public:
  explicit Elementwise(OptimizerOptions resolved) : Optimizer(std::move(resolved)) {}

 protected:
  std::vector<Slot> slots(const Tensor& value) const override {
    const Shape& shape = value.shape();
    if (is("sgd") && options_.momentum == 0) return {};
    if (is("sgd") || is("lion")) return {{"m", shape, DType::f32}};
    if (!in_8_bits(value)) return {{"m", shape, DType::f32}, {"v", shape, DType::f32}};
    const Shape blocks = {ceil_div(value.numel(), kernels::kStateBlock)};
    return {{"m", shape, DType::u8, kZeroCode},
            {"v", shape, DType::u8, 0},
            {"m_scales", blocks, DType::f32},
            {"v_scales", blocks, DType::f32}};
  }

  void run(std::span<const Work> work) override {
    struct Chunk {
      size_t work;
      int64_t begin;
      int64_t unchanged = 0;
    };
    std::vector<Chunk> chunks;
    for (size_t i = 0; i < work.size(); ++i)
      for (int64_t b = 0; b < work[i].parameter->value.numel(); b += kChunk)
        chunks.push_back({i, b});
    parallel_for(static_cast<int64_t>(chunks.size()), 1, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i)
        chunks[i].unchanged = update(work[chunks[i].work], chunks[i].begin);
    });
    for (const Chunk& c : chunks) unchanged_[work[c.work].index] += c.unchanged;
  }

 private:
  bool is(const char* name) const { return options_.optimizer == name; }
  bool in_8_bits(const Tensor& value) const {
    return is("adamw8bit") && value.numel() >= kLeastOf8Bit;
  }

  // The elements from `begin` on, at most kChunk.
  int64_t update(const Work& w, int64_t begin) const {
    Tensor& value = w.parameter->value;
    const double decay = w.parameter->decay ? options_.weight_decay : 0;
    const double lr = w.lr * w.parameter->rate;
    const double beta1 = is("sgd") ? options_.momentum : options_.beta1, beta2 = options_.beta2;
    kernels::UpdateArgs a{};
    a.type = float_type(value.dtype());
    a.w = value.mutable_raw() + begin * dtype_size(value.dtype());
    a.g = value.gradient().data<float>() + begin;
    a.n = std::min(kChunk, value.numel() - begin);
    a.gradient_factor = static_cast<float>(w.gradient_factor);
    a.rate = static_cast<float>(lr);
    a.keep = static_cast<float>(is("sgd") ? 1 : 1 - lr * decay);
    a.l2 = static_cast<float>(is("sgd") ? decay : 0);
    a.beta1 = static_cast<float>(beta1);
    a.rest1 = static_cast<float>(1 - beta1);
    a.beta2 = static_cast<float>(beta2);
    a.rest2 = static_cast<float>(1 - beta2);
    a.nesterov = options_.nesterov;
    a.stochastic = options_.stochastic_rounding;
    a.key = mix64(w.key ^ static_cast<uint64_t>(begin));
    a.count_unchanged = options_.count_unchanged;
    const kernels::KernelTable& table = kernels::table();
    if (is("sgd") || is("lion")) {
      if (!w.state->tensors.empty()) a.m = w.slot(0).mutable_data<float>() + begin;
      return (is("sgd") ? table.sgd : table.lion)(&a);
    }
    const auto t = static_cast<double>(w.state->steps);
    a.rate = static_cast<float>(lr / (1 - std::pow(beta1, t)));
    a.root_factor = static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, t)));
    a.eps = static_cast<float>(options_.eps);
    if (!in_8_bits(value)) {
      a.m = w.slot(0).mutable_data<float>() + begin;
      a.v = w.slot(1).mutable_data<float>() + begin;
      return table.adamw(&a);
    }
    a.m_codes = w.slot(0).mutable_data<uint8_t>() + begin;
    a.v_codes = w.slot(1).mutable_data<uint8_t>() + begin;
    a.m = w.slot(2).mutable_data<float>() + begin / kernels::kStateBlock;
    a.v = w.slot(3).mutable_data<float>() + begin / kernels::kStateBlock;
    return table.adamw_8bit(&a);
  }
};

}  // namespace

std::unique_ptr<Optimizer> make_elementwise(OptimizerOptions resolved) {
  return std::make_unique<Elementwise>(std::move(resolved));
}

}  // namespace hone
