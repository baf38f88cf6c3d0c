// magnitude: sets the smallest weights to zero, of each row or of a whole matrix (Han et al. 2015).
//
// It needs no calibration, and is what other methods are measured against. From about half of the
// weights on it costs language models far more than wanda and sparsegpt. The zeros stay in the
// float type that the module had: what becomes smaller is a file that is compressed, or one whose
// reader knows the pattern.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "passes/pruning.h"

namespace hone {
namespace {

class Magnitude final : public Pass {
 public:
  PassKind kind() const override { return PassKind::sparsify; }
  bool is_final() const override { return false; }  // what quantises comes behind it
  void visit_options(OptionVisitor& v) override {
    o_.visit(v);
    v.option("scope", scope_, "row or layer: what is sorted together");
  }
  void check_options() const override {
    o_.check("magnitude");
    HONE_CHECK(scope_ == "row" || scope_ == "layer", invalid_argument,
               "magnitude: scope '{}': expected row or layer", scope_);
    HONE_CHECK(scope_ == "row" || o_.pattern.empty(), invalid_argument,
               "magnitude: scope layer with pattern {}: a pattern is of rows", o_.pattern);
  }
  WeightForm form(int64_t) const override { return {"f32", {}}; }
  WeightForm form_of(const LoadedModel& model, const std::string& module,
                     int64_t k) const override {
    return pruned_form(model, module, k, o_);
  }
  void run(PassContext& c) override {
    encode_each(c, *this, "magnitude", [&](Tensor& values) {
      Tensor scores = values.clone();
      float* s = scores.mutable_data<float>();
      for (int64_t i = 0; i < scores.numel(); ++i) s[i] = std::fabs(s[i]);
      if (scope_ == "row") {
        prune_rows(values, scores, o_);
        return;
      }
      HONE_CHECK(scores.numel() <= INT32_MAX, unsupported,
                 "magnitude: scope layer: a matrix of {} values; the most is {}", scores.numel(),
                 INT32_MAX);
      std::vector<int32_t> gone;
      const auto size = static_cast<size_t>(scores.numel());
      smallest({s, size}, static_cast<int64_t>(static_cast<double>(size) * o_.sparsity), gone);
      for (int32_t i : gone) values.mutable_data<float>()[i] = 0;
    });
  }

 private:
  PruneOptions o_;
  std::string scope_ = "row";
};

}  // namespace

std::unique_ptr<Pass> make_magnitude_pass() { return std::make_unique<Magnitude>(); }

}  // namespace hone
