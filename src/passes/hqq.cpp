// hqq: half-quadratic quantisation (Badri and Shaji 2023): integers with a float zero point for
// each group, moved to lessen the lp norm of the weights' error. No calibration. Blocks by default;
// embedding and head where the module glob names them.
#include "passes/hqq_solver.h"
#include "passes/pass.h"

namespace hone {
namespace {

class HqqPass final : public Pass {
 public:
  PassKind kind() const override { return PassKind::encode; }
  void visit_options(OptionVisitor& v) override {
    v.option("bits", o_.bits, "1 to 8");
    v.option("group", o_.group, "columns that share scale and zero point");
    v.option("iterations", o_.iterations, "at most, 0 = the range alone");
    v.option("norm", o_.norm, "p of the lp norm, above 0, at most 1");
    v.option("beta", o_.beta, "weight of the quadratic term, above 0");
    v.option("kappa", o_.kappa, "growth of beta, at least 1");
    v.option("by_group", o_.by_group, "each group keeps its best; false: as the hqq library");
  }
  void check_options() const override {
    HONE_CHECK(o_.bits >= 1 && o_.bits <= 8, invalid_argument, "hqq: bits {}: expected 1 to 8",
               o_.bits);
    HONE_CHECK(o_.group > 0, invalid_argument, "hqq: group {}: expected 1 or more", o_.group);
    HONE_CHECK(o_.iterations >= 0 && o_.iterations <= 10000, invalid_argument,
               "hqq: iterations {}: expected 0 to 10000", o_.iterations);
    HONE_CHECK(o_.norm > 0 && o_.norm <= 1, invalid_argument,
               "hqq: norm {}: expected above 0 and at most 1", o_.norm);
    HONE_CHECK(o_.beta > 0 && o_.beta <= 1e6 && o_.kappa >= 1 && o_.kappa <= 10, invalid_argument,
               "hqq: beta {} and kappa {}: expected above 0 to 1000000, and 1 to 10", o_.beta,
               o_.kappa);
  }
  WeightForm form(int64_t k) const override {
    WeightForm f{"hqq", {}};
    f.params.bits = static_cast<int>(o_.bits);
    f.params.group = hqq_group(o_.group, k);
    f.params.scale_type = o_.scale_type;
    return f;
  }
  void run(PassContext& c) override {
    encode_each_by(c, *this, "hqq", [&](const std::string&, const Tensor& values) {
      HqqOptions o = o_;
      o.group = hqq_group(o_.group, values.dim(1));
      return hqq_solve(values, o);
    });
  }

 private:
  HqqOptions o_;
};

}  // namespace

std::unique_ptr<Pass> make_hqq_pass() { return std::make_unique<HqqPass>(); }

}  // namespace hone
