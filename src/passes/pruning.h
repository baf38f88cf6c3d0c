// What the pruning passes share: how much goes (a share, or n of m), and the choice of what goes.
//
// A pattern n:m keeps n of each m neighbouring columns of a row (2:4 is what sparse tensor cores
// take). Otherwise exactly ⌊size·sparsity⌋ weights go; of equal scores those that stand first.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "passes/pass.h"

namespace hone {

struct PruneOptions {
  double sparsity = 0.5;  ///< share of zeros
  std::string pattern;    ///< "n:m", or empty
  void visit(OptionVisitor& v);
  /// Raises invalid_argument where they make no sense together.
  void check(const char* pass) const;
  /// Of a checked pattern: {0, 0} where there is none.
  struct NofM {
    int64_t kept = 0, of = 0;
  };
  NofM n_of_m() const;
};

/// Appends to `out` the `count` positions of the smallest scores, of equal ones the first; in no
/// particular order. The scores hold no NaN.
void smallest(std::span<const float> scores, int64_t count, std::vector<int32_t>& out);

/// Sets to zero what has the smallest scores in each row of values [N, K], or of each m of a row;
/// scores is [N, K] too.
void prune_rows(Tensor& values, const Tensor& scores, const PruneOptions& options);

/// |w| of values [N, K].
Tensor magnitudes(const Tensor& values);
/// |w|·√Σx² of values [N, K] and the diagonal of Σ x·xᵀ [K, K]: Wanda's, but for a factor.
Tensor wanda_scores(const Tensor& values, const Tensor& hessian);

/// What the pruning passes have in common. A module keeps its float type, or becomes f32 where it
/// has another encoding; form_of raises unsupported where K is no multiple of a pattern's m.
class PruningPass : public Pass {
 public:
  PassKind kind() const override { return PassKind::sparsify; }
  bool is_final() const override { return false; }  // what quantises comes behind it
  WeightForm form(int64_t) const override { return {"f32", {}}; }
  WeightForm form_of(const LoadedModel& model, const std::string& module, int64_t k) const override;

 protected:
  PruneOptions o_;
};

/// Prunes block after block by calibration inputs, in bounded memory: `solve` gets values [N, K]
/// and the Hessian Σ x·xᵀ [K, K] (upper triangle) of what the module multiplies in the untouched
/// block, and sets zeros; the next block sees the outputs of the pruned one. What no input reached
/// is pruned by magnitude.
void prune_blocks(PassContext& context, const Pass& pass, const char* kept,
                  const PruneOptions& options,
                  const std::function<void(Tensor& values, const Tensor& hessian)>& solve);

}  // namespace hone
