// wanda: sets to zero, in each row, the weights with the smallest |w|·√(mean x²) (Sun et al. 2023,
// "A simple and effective pruning approach for large language models").
//
// The weights that stay keep their values; no equation is solved. A block's inputs are those that
// the pruned blocks before it give.
#include "passes/pruning.h"

namespace hone {
namespace {

class Wanda final : public PruningPass {
 public:
  bool needs_calibration() const override { return true; }
  bool blocks_only() const override { return true; }
  void visit_options(OptionVisitor& v) override { o_.visit(v); }
  void check_options() const override { o_.check("wanda"); }
  void run(PassContext& c) override {
    prune_blocks(c, *this, "wanda", o_, [&](Tensor& values, const Tensor& hessian) {
      prune_rows(values, wanda_scores(values, hessian), o_);
    });
  }
};

}  // namespace

std::unique_ptr<Pass> make_wanda_pass() { return std::make_unique<Wanda>(); }

}  // namespace hone
