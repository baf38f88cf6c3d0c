// nf4, fp4, int8: what bitsandbytes' load_in_4bit and load_in_8bit store. Blocks by default: the
// embedding and the head stay as they are.
#include "passes/pass.h"

namespace hone {
namespace {

class FourBit final : public Pass {
 public:
  explicit FourBit(const char* encoding) : encoding_(encoding) {}
  PassKind kind() const override { return PassKind::encode; }
  void visit_options(OptionVisitor& v) override {
    v.option("block", block_, "values that share a scale");
    v.option("double_quant", double_quant_, "quantise the scales as well");
  }
  void check_options() const override {
    HONE_CHECK(block_ >= 16 && block_ <= 65536 && (block_ & (block_ - 1)) == 0, invalid_argument,
               "{}: block {}: expected a power of two from 16 to 65536", encoding_, block_);
  }
  WeightForm form(int64_t) const override {
    WeightForm f{encoding_, {}};
    f.params.block = block_;
    f.params.double_quant = double_quant_;
    return f;
  }
  void run(PassContext& c) override { encode_each(c, *this, encoding_); }

 private:
  const char* encoding_;
  int64_t block_ = 64;
  bool double_quant_ = false;
};

class Int8 final : public Pass {
 public:
  PassKind kind() const override { return PassKind::encode; }
  void visit_options(OptionVisitor&) override {}
  WeightForm form(int64_t) const override { return {"int8_row", {}}; }
  void run(PassContext& c) override { encode_each(c, *this, "int8"); }
};

}  // namespace

std::unique_ptr<Pass> make_nf4_pass() { return std::make_unique<FourBit>("nf4"); }
std::unique_ptr<Pass> make_fp4_pass() { return std::make_unique<FourBit>("fp4"); }
std::unique_ptr<Pass> make_int8_pass() { return std::make_unique<Int8>(); }

}  // namespace hone
