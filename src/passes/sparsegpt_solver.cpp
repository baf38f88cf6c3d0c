// Column by column: with H⁻¹ = UᵀU, setting w[i] to zero costs w[i]²/U[i,i]², and the columns
// behind make up for it by −w[i]/U[i,i]·U[i,:]. What goes is chosen for a block of columns over all
// rows when the solver enters it, or for n:m in each row when it enters m columns.
#include "passes/sparsegpt_solver.h"

#include <algorithm>

#include "base/threads.h"
#include "kernels/select.h"

namespace hone {
namespace {

constexpr int64_t kBlockColumns = 128;  // the paper's

class SparseSolve {
 public:
  SparseSolve(Tensor& values, const GptqFactor& f, const PruneOptions& o)
      : n_(values.dim(0)),
        k_(values.dim(1)),
        pattern_(o.n_of_m()),
        sparsity_(o.sparsity),
        u_(f.upper.data<float>()),
        w_(values.mutable_data<float>()) {
    for (int64_t r = 0; r < n_; ++r)
      for (int64_t i = 0; i < k_; ++i)
        if (f.dead[i]) w_[r * k_ + i] = 0;
  }

  void run() {
    // Groups of m do not cross blocks.
    const int64_t block =
        pattern_.of > 0 ? kBlockColumns / pattern_.of * pattern_.of : kBlockColumns;
    for (int64_t b = 0; b < k_; b += block) {
      const int64_t e = std::min(k_, b + block);
      gone_.assign(static_cast<size_t>(n_ * (e - b)), 0);
      if (pattern_.of == 0) choose(b, e);
      Tensor errors = Tensor::zeros({e - b, n_}, DType::f32);  // by column
      float* err = errors.mutable_data<float>();
      parallel_for(n_, 16, [&](int64_t r0, int64_t r1) {
        for (int64_t r = r0; r < r1; ++r) solve_row(b, e, r, err);
      });
      if (e == k_) return;
      parallel_for(n_, 24, [&](int64_t r0, int64_t r1) {
        kernels::table().accumulate_tn(err, n_, u_ + b * k_, k_, e - b, r0, r1, e, k_, w_, k_);
      });
    }
  }

 private:
  float cost(int64_t r, int64_t i) const {
    const float ratio = w_[r * k_ + i] / u_[i * k_ + i];
    return ratio * ratio;
  }

  void choose(int64_t b, int64_t e) {
    const int64_t columns = e - b;
    std::vector<float> scores(gone_.size());
    for (int64_t r = 0; r < n_; ++r)
      for (int64_t i = b; i < e; ++i) scores[r * columns + i - b] = cost(r, i);
    std::vector<int32_t> chosen;
    smallest(scores, static_cast<int64_t>(static_cast<double>(scores.size()) * sparsity_), chosen);
    for (int32_t i : chosen) gone_[i] = 1;
  }

  void solve_row(int64_t b, int64_t e, int64_t r, float* err) {
    float* row = w_ + r * k_;
    uint8_t* gone = &gone_[r * (e - b)];
    for (int64_t i = b; i < e; ++i) {
      if (pattern_.of > 0 && (i - b) % pattern_.of == 0) choose_group(i, r, gone + (i - b));
      if (!gone[i - b]) continue;
      const float* line = u_ + i * k_;
      const float error = row[i] / line[i];
      for (int64_t j = i; j < e; ++j) row[j] -= error * line[j];
      row[i] = 0;  // exactly
      err[(i - b) * n_ + r] = -error;
    }
  }

  void choose_group(int64_t i, int64_t r, uint8_t* gone) {
    float scores[kBlockColumns];
    for (int64_t j = 0; j < pattern_.of; ++j) scores[j] = cost(r, i + j);
    for (int64_t round = 0; round < pattern_.of - pattern_.kept; ++round) {
      int64_t least = -1;
      for (int64_t j = 0; j < pattern_.of; ++j)
        if (!gone[j] && (least < 0 || scores[j] < scores[least])) least = j;
      gone[least] = 1;
    }
  }

  int64_t n_, k_;
  PruneOptions::NofM pattern_;
  double sparsity_;
  const float* u_;
  float* w_;
  std::vector<uint8_t> gone_;  // [N, columns of the block]
};

}  // namespace

void sparsegpt_solve(Tensor& values, const GptqFactor& factor, const PruneOptions& o) {
  HONE_ASSERT(values.rank() == 2 && values.dim(1) == factor.upper.dim(0));
  SparseSolve(values, factor, o).run();
}

}  // namespace hone
