// Merging attention over parts of the keys by their log Σ exp: splits, cascades over a shared
// prefix, caches in several places.
#include <algorithm>
#include <cmath>

#include "attention/attention.h"
#include "base/error.h"
#include "base/threads.h"
#include "ops/tape.h"

namespace hone {

void merge_attention(Tensor& o, Tensor& log_sum, const Tensor& more_o, const Tensor& more_log_sum) {
  HONE_ASSERT(!recorded({&o, &log_sum, &more_o, &more_log_sum}));
  HONE_CHECK(o.shape() == more_o.shape() && log_sum.shape() == more_log_sum.shape() &&
                 log_sum.rank() == 2 && o.rank() == 2 && o.dim(0) == log_sum.dim(0) &&
                 log_sum.dim(1) > 0 && o.dim(1) % log_sum.dim(1) == 0,
             invalid_argument,
             "merging attention: expected two results [T, heads·size] and two sums [T, heads]");
  const int64_t rows = log_sum.numel(), width = rows > 0 ? o.numel() / rows : 0;
  float *x = o.mutable_data<float>(), *l = log_sum.mutable_data<float>();
  const float *y = more_o.data<float>(), *m = more_log_sum.data<float>();
  parallel_for(rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (m[r] == -INFINITY) continue;
      const double top = std::max(l[r], m[r]);
      const double a = std::exp(l[r] - top), b = std::exp(m[r] - top);
      const auto old = static_cast<float>(a / (a + b)), more = static_cast<float>(b / (a + b));
      for (int64_t c = r * width; c < (r + 1) * width; ++c) x[c] = x[c] * old + y[c] * more;
      l[r] = static_cast<float>(top + std::log(a + b));
    }
  });
}

}  // namespace hone
