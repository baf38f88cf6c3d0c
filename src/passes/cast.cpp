// cast: stores weights in another float type: f32, f16, bf16, f8_e4m3, f8_e5m2, or tf32 (values
// rounded to 10 mantissa bits, stored as f32). FP8 carries one scale for each row. By default it
// applies to everything: blocks, embedding and head.
#include "passes/pass.h"

namespace hone {
namespace {

class Cast final : public Pass {
 public:
  PassKind kind() const override { return PassKind::encode; }
  void visit_options(OptionVisitor& v) override {
    v.option("to", to_, "f32, f16, bf16, tf32, f8_e4m3 or f8_e5m2");
  }
  void check_options() const override {
    for (const char* known : {"f32", "f16", "bf16", "tf32", "f8_e4m3", "f8_e5m2"})
      if (to_ == known) return;
    fail(ErrorKind::invalid_argument,
         "cast: to '{}': expected f32, f16, bf16, tf32, f8_e4m3 or f8_e5m2", to_);
  }
  // By default of everything, so that all of a model can be halved, and refined by later steps.
  bool ends_by_default() const override { return true; }
  bool is_final() const override { return false; }
  WeightForm form(int64_t) const override {
    WeightForm f{to_ == "tf32" ? "f32" : to_, {}};
    f.params.row_scaled = to_ == "f8_e4m3" || to_ == "f8_e5m2";
    return f;
  }
  void run(PassContext& c) override {
    auto round = [](Tensor& values) {
      float* x = values.mutable_data<float>();
      for (int64_t i = 0; i < values.numel(); ++i) x[i] = round_tf32(x[i]);
    };
    std::function<void(Tensor&)> adjust;
    if (to_ == "tf32") adjust = round;
    encode_each(c, *this, "cast", adjust);
  }

 private:
  std::string to_ = "bf16";
};

}  // namespace

std::unique_ptr<Pass> make_cast_pass() { return std::make_unique<Cast>(); }

}  // namespace hone
