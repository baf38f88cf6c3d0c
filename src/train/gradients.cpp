#include "train/gradients.h"

#include <algorithm>
#include <cmath>

#include "base/threads.h"
#include "kernels/select.h"

namespace hone {
namespace {

constexpr int64_t kBlock = 1 << 16;

double block_of_squares(const Tensor& x, int64_t begin, int64_t n) {
  if (x.dtype() == DType::f32)
    return kernels::table().sum_of_squares(x.data<float>() + begin, nullptr, n);
  std::vector<float> wide(static_cast<size_t>(n));
  convert_floats(x.raw() + begin * dtype_size(x.dtype()), x.dtype(), wide.data(), DType::f32, n);
  return kernels::table().sum_of_squares(wide.data(), nullptr, n);
}

// Sums of squares of several tensors, the blocks of all in one loop.
std::vector<double> sums_of_squares(const std::vector<const Tensor*>& tensors) {
  struct Block {
    size_t tensor;
    int64_t begin;
    double sum = 0;
  };
  std::vector<Block> blocks;
  for (size_t i = 0; i < tensors.size(); ++i)
    for (int64_t b = 0; b < tensors[i]->numel(); b += kBlock) blocks.push_back({i, b});
  parallel_for(static_cast<int64_t>(blocks.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Block& b = blocks[static_cast<size_t>(i)];
      const Tensor& x = *tensors[b.tensor];
      b.sum = block_of_squares(x, b.begin, std::min(kBlock, x.numel() - b.begin));
    }
  });
  std::vector<double> sums(tensors.size());
  for (const Block& b : blocks) sums[b.tensor] += b.sum;
  return sums;
}

}  // namespace

double sum_of_squares(const Tensor& x) { return sums_of_squares({&x})[0]; }

std::vector<double> gradient_norms(std::span<const Parameter> parameters) {
  std::vector<const Tensor*> gradients;
  for (const Parameter& p : parameters) gradients.push_back(&p.value.gradient());
  std::vector<double> norms = sums_of_squares(gradients);
  for (double& n : norms) n = std::sqrt(n);
  return norms;
}

double total_norm(std::span<const double> norms) {
  double sum = 0;
  for (double n : norms) sum += n * n;
  return std::sqrt(sum);
}

double clip_factor(double norm, double most) {
  if (most <= 0 || !std::isfinite(norm)) return 1;
  return std::min(1.0, most / (norm + 1e-6));
}

void clear_gradients(std::span<Parameter> parameters) {
  for (Parameter& p : parameters)
    if (p.value.requires_gradient()) p.value.gradient_node()->sum = Tensor();
}

}  // namespace hone
