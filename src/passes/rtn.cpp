// rtn: round to nearest. By default into integers with a scale for each group; `encoding` names any
// other encoding that can be written (q4_k, q8_0, nf4, ...). Blocks by default; embedding and head
// where the module glob names them.
#include "passes/pass.h"

namespace hone {
namespace {

class Rtn final : public Pass {
 public:
  PassKind kind() const override { return PassKind::encode; }
  void visit_options(OptionVisitor& v) override {
    v.option("encoding", encoding_, "int_group, another encoding's id, int4, int8, ...");
    v.option("bits", bits_, "bits of an integer, 2 to 8");
    v.option("group", group_, "columns of a scale, 0 = the row");
    v.option("symmetric", symmetric_, "no zero points");
  }
  void check_options() const override {
    WeightParams ignored;
    encoding(encoding_from_shorthand(encoding_, ignored));
    HONE_CHECK(bits_ >= 2 && bits_ <= 8, invalid_argument, "rtn: bits {}: expected 2 to 8", bits_);
    bool plain = bits_ == Rtn().bits_ && group_ == Rtn().group_ && symmetric_;
    HONE_CHECK(encoding_ == "int_group" || plain, invalid_argument,
               "rtn: bits, group and symmetric belong to int_group, not to {}", encoding_);
    HONE_CHECK(group_ >= 0, invalid_argument, "rtn: group {}: expected 0 or more", group_);
  }
  WeightForm form(int64_t) const override {
    WeightForm f;
    f.encoding = encoding_from_shorthand(encoding_, f.params);
    // As these encodings fill in what is missing, so that layouts are asked for the right form.
    if (f.encoding.starts_with("f8_")) f.params.row_scaled = true;
    if (f.encoding == "hqq") f.params = {.bits = 4, .group = 64};
    if (encoding_ == "int_group") {
      f.params.bits = static_cast<int>(bits_);
      f.params.group = group_;
      f.params.symmetric = symmetric_;
    }
    return f;
  }
  void run(PassContext& c) override { encode_each(c, *this, "rtn"); }

 private:
  std::string encoding_ = "int_group";
  int64_t bits_ = 4, group_ = 128;
  bool symmetric_ = true;
};

}  // namespace

std::unique_ptr<Pass> make_rtn_pass() { return std::make_unique<Rtn>(); }

}  // namespace hone
