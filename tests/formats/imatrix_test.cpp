// llama.cpp's importance matrix: what its sums mean, and what is refused.
#include "formats/imatrix.h"

#include <cmath>

#include "formats/gguf.h"
#include "formats/scratch.h"

namespace hone {
namespace {

struct Part {
  std::string name;
  Shape shape;
  std::vector<float> values;
};

class Imatrix : public ::testing::Test {
 protected:
  fs::path write(const std::vector<Part>& parts, const std::string& type = "imatrix") {
    const fs::path path = scratch_ / fmt::format("{}.gguf", written_++);
    GgufWriter w(path);
    w.set("general.type", GgufValue::string(type));
    for (const Part& p : parts) w.declare(p.name, p.shape, "f32");
    for (const Part& p : parts) {
      Tensor t = Tensor::empty(p.shape, DType::f32);
      std::copy(p.values.begin(), p.values.end(), t.mutable_data<float>());
      w.write(p.name, float_weight(t));
    }
    w.finish();
    return path;
  }
  void refuse(const fs::path& path, const std::vector<std::string>& parts,
              ErrorKind kind = ErrorKind::corrupt) {
    expect_error(kind, parts, [&] { read_imatrix(path); });
  }
  Scratch scratch_;
  int written_ = 0;
};

TEST_F(Imatrix, IsTheMeanSquareOfEachColumn) {
  ImportanceMatrix m = read_imatrix(write({{"a.in_sum2", {1, 3}, {2, 4, 6}},
                                           {"a.counts", {1, 1}, {2}},
                                           {"unseen.in_sum2", {1, 2}, {0, 0}},
                                           {"unseen.counts", {1, 1}, {0}}}));
  ASSERT_EQ(m.size(), 1u);
  EXPECT_EQ(m.at("a"), (std::vector<float>{1, 2, 3}));
}

TEST_F(Imatrix, RefusesWhatItIsNot) {
  const Part sums{"a.in_sum2", {1, 2}, {1, 1}}, counts{"a.counts", {1, 1}, {1}};
  refuse(write({sums, counts}, "model"), {"imatrix"}, ErrorKind::unsupported);
  refuse(write({sums}), {"a.counts", "missing"});
  refuse(write({counts}), {"no importances"});
  refuse(write({sums, {"a.counts", {1, 2}, {1, 1}}}), {"a.counts"});
  refuse(write({sums, {"a.counts", {1, 1}, {-1}}}), {"'a'", "-1"});
  refuse(write({{"a.in_sum2", {1, 2}, {1, -1}}, counts}), {"'a'", "-1"});
  refuse(write({{"a.in_sum2", {1, 2}, {1, INFINITY}}, counts}), {"'a'", "inf"});
  refuse(write({{"a.in_sum2", {2, 2}, {1, 1, 1, 1}}, {"a.counts", {2, 1}, {1, 1}}}),
         {"'a'", "experts"}, ErrorKind::unsupported);
}

}  // namespace
}  // namespace hone
