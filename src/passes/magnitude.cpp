// magnitude: sets the smallest weights to zero, of each row or of a whole matrix (Han et al. 2015).
//
// It needs no calibration, and is what other methods are measured against. From about half of the
// weights on it costs language models far more than wanda and sparsegpt. The zeros stay in the
// float type that the module had: what becomes smaller is a file that is compressed, or one whose
// reader knows the pattern.
#include <cstdint>

#include "passes/pruning.h"

namespace hone {
namespace {

class Magnitude final : public PruningPass {
 public:
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
  void run(PassContext& c) override {
    encode_each(c, *this, "magnitude", [&](Tensor& values) {
      const Tensor scores = magnitudes(values);
      if (scope_ == "row") {
        prune_rows(values, scores, o_);
        return;
      }
      HONE_CHECK(scores.numel() <= INT32_MAX, unsupported,
                 "magnitude: scope layer: a matrix of {} values; the most is {}", scores.numel(),
                 INT32_MAX);
      std::vector<int32_t> gone;
      const auto size = static_cast<size_t>(scores.numel());
      smallest({scores.data<float>(), size},
               static_cast<int64_t>(static_cast<double>(size) * o_.sparsity), gone);
      for (int32_t i : gone) values.mutable_data<float>()[i] = 0;
    });
  }

 private:
  std::string scope_ = "row";
};

}  // namespace

std::unique_ptr<Pass> make_magnitude_pass() { return std::make_unique<Magnitude>(); }

}  // namespace hone
