#include "encodings/linear_loss.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/threads.h"
#include "kernels/select.h"
#include "ops/dense.h"
#include "ops/rounding.h"
#include "ops/tape.h"

namespace hone {
namespace {

using kernels::table;

// Logits of one chunk: large enough that reading W again for each is little beside multiplying.
constexpr int64_t kChunkBytes = int64_t{64} << 20;
// A chunk is whole tiles of tokens of every kernel.
constexpr int64_t kTile = 96;

int64_t chunk_rows(int64_t vocabulary) {
  return std::max(kTile, kChunkBytes / 4 / vocabulary / kTile * kTile);
}

// dy·(1 − (y/s)²) for y = s·tanh(x/s).
void through_softcap(const Tensor& y, float s, Tensor& dy) {
  const float* v = y.data<float>();
  float* g = dy.mutable_data<float>();
  parallel_for(y.numel(), 1 << 14, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) g[i] *= 1 - (v[i] / s) * (v[i] / s);
  });
}

}  // namespace

double CrossEntropy::take(float* logits, int64_t first, int64_t count, int64_t vocabulary,
                          float gradient) {
  std::vector<double> losses(static_cast<size_t>(count));
  parallel_for(count, 1, [&](int64_t b, int64_t e) {
    for (int64_t r = b; r < e; ++r) {
      float* row = logits + r * vocabulary;
      const int32_t target = targets_[first + r];
      const float sum = table().log_sum_exp(row, vocabulary);
      losses[r] = double{sum} - double{row[target]};
      if (gradient == 0) continue;
      table().softmax_of(row, vocabulary, sum, gradient, row);
      row[target] -= gradient;
    }
  });
  double total = 0;
  for (double l : losses) total += l;
  return total;
}

LinearLoss linear_loss(const Tensor& x, const Product& head, float softcap, LogitLoss& loss,
                       float gradient, Activations a) {
  const int64_t rows = x.dim(0), k = x.dim(1), vocabulary = head.weight->n;
  const Tensor values = head.values == nullptr ? Tensor() : *head.values;
  const bool to_x = recorded({&x}), backward = recorded({&x, &values, head.bias});
  LinearLoss result;
  // Stands for the values: their gradient is rounded once, as that of one product of all rows.
  const bool rounds = backward && values.requires_gradient() && rounds_results(a);
  Tensor whole = values;
  if (rounds) {
    whole = Tensor::empty(values.shape(), DType::f32).hollow();
    whole.require_gradient();
  }
  Tensor dx;
  if (to_x) dx = Tensor::empty(x.shape(), DType::f32);
  for (int64_t first = 0; first < rows; first += chunk_rows(vocabulary)) {
    const int64_t last = std::min(rows, first + chunk_rows(vocabulary));
    TapePause pause;
    const Tensor part = x.rows(first, last);
    Tensor y = multiply_all(LinearInput(part), {&head, 1}, a)[0], capped;
    if (softcap > 0) {
      ops::softcap_in_place(y, softcap);
      if (backward) capped = y.clone();
    }
    result.sum += loss.take(y.mutable_data<float>(), first, last - first, vocabulary,
                            backward ? gradient : 0.0f);
    if (softcap > 0 && backward) through_softcap(capped, softcap, y);
    if (!backward) continue;
    const Tensor part_dx =
        product_backward(y, part, *head.weight, whole, *head.bias, to_x, a, head.name, rounds);
    if (to_x) {
      std::copy_n(part_dx.data<float>(), part_dx.numel(), dx.mutable_data<float>() + first * k);
    }
  }
  if (!backward) return result;
  if (rounds) {
    Tensor dw = std::exchange(whole.gradient_node()->sum, {});
    ops::round_in_place(dw, *rounding_of(a), std::string(head.name) + ", weight gradient");
    add_gradient(values, std::move(dw));
  }
  result.root = Tensor::from(std::vector<float>{static_cast<float>(result.sum)});
  record(result.root, [x, dx](const Tensor& seed) {
    if (dx.empty_handle()) return;
    const float factor = seed.data<float>()[0];
    add_gradient(x, factor == 1 ? dx : ops::scale(dx, factor));
  });
  return result;
}

LinearLoss loss_of_logits(Tensor logits, LogitLoss& loss, float gradient, bool keep) {
  const bool backward = recorded({&logits});
  LinearLoss result;
  Tensor dy = keep ? logits.clone() : logits.detached();
  result.sum = loss.take(dy.mutable_data<float>(), 0, logits.dim(0), logits.dim(1),
                         backward ? gradient : 0.0f);
  if (!backward) return result;
  result.root = Tensor::from(std::vector<float>{static_cast<float>(result.sum)});
  record(result.root, [y = logits.hollow(), dy](const Tensor& seed) {
    add_gradient(y, ops::scale(dy, seed.data<float>()[0]));
  });
  return result;
}

}  // namespace hone
