// sparsegpt: prunes block after block with error feedback (Frantar & Alistarh 2023): what is set to
// zero is chosen by what it costs the outputs, and the weights behind it make up for it. The solver
// of one matrix is sparsegpt_solver.h; a block's inputs are those that the pruned blocks before it
// give. Joint quantisation is not here: put a step that quantises behind it.
#include "passes/sparsegpt_solver.h"

namespace hone {
namespace {

class SparseGpt final : public PruningPass {
 public:
  bool needs_calibration() const override { return true; }
  bool blocks_only() const override { return true; }
  void visit_options(OptionVisitor& v) override {
    o_.visit(v);
    v.option("damp", damp_, "share of the mean diagonal added to the diagonal");
  }
  void check_options() const override {
    o_.check("sparsegpt");
    HONE_CHECK(damp_ >= 0 && damp_ <= 1, invalid_argument, "sparsegpt: damp {}: expected 0 to 1",
               damp_);
  }
  void run(PassContext& c) override {
    GptqOptions factor;
    factor.damp = damp_;
    // Modules that share their inputs come one after the other, and share the factor. The handle
    // keeps the Hessian alive, so that no other one has its address.
    GptqFactor last;
    Tensor of;
    prune_blocks(c, *this, "sparsegpt", o_, [&](Tensor& values, const Tensor& hessian) {
      if (of.empty_handle() || of.raw() != hessian.raw()) last = gptq_factor(hessian, factor);
      of = hessian;
      sparsegpt_solve(values, last, o_);
    });
  }

 private:
  double damp_ = 0.01;
};

}  // namespace

std::unique_ptr<Pass> make_sparsegpt_pass() { return std::make_unique<SparseGpt>(); }

}  // namespace hone
