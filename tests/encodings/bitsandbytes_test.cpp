// nf4, fp4, int8_row and the dynamic map against bitsandbytes.
#include <cstdlib>

#include "encodings/dynamic_map.h"
#include "encodings/encodings_testing.h"

namespace hone {
namespace {

Tensor map_tensor(bool is_signed) {
  const auto& map = dynamic_map(is_signed);
  return Tensor::from(std::vector<float>(map.begin(), map.end()));
}

TEST(DynamicMap, EqualsBitsandbytes) {
  SafetensorsFile file = golden("bitsandbytes");
  EXPECT_TRUE(same_bytes(file.tensor("nested_map"), map_tensor(true)));
  EXPECT_TRUE(same_bytes(file.tensor("unsigned_map"), map_tensor(false)));
}

TEST(DynamicMap, CodesTheNearestValue) {
  const auto& map = dynamic_map(true);
  for (int i = 0; i < 256; ++i) EXPECT_EQ(dynamic_code(map, map[i]), i);
  for (float x : random_values(1000, 1, 0.4f)) {
    float got = std::fabs(map[dynamic_code(map, x)] - x);
    for (float value : map) ASSERT_LE(got, std::fabs(value - x) * 1.000001f) << x;
  }
}

class FourBitTest : public ::testing::TestWithParam<std::string> {};

TEST_P(FourBitTest, EncodesAndDecodesAsBitsandbytes) {
  SafetensorsFile file = golden("bitsandbytes");
  Tensor x = file.tensor("x");
  Weight w = encoding(GetParam()).encode(x.data<float>(), x.dim(0), x.dim(1), {});
  EXPECT_EQ(w.params.block, 64);
  EXPECT_TRUE(same_bytes(file.tensor(GetParam() + ".codes"), w.plane("codes")));
  EXPECT_TRUE(same_bytes(file.tensor(GetParam() + ".absmax"), w.plane("absmax")));
  EXPECT_TRUE(same_bytes(file.tensor(GetParam() + ".decoded"), decode_weight(w)));
}

// bitsandbytes' own constants for a standard normal matrix in blocks of 64, ± 7 of their σ.
TEST_P(FourBitTest, HasThePublishedMeanError) {
  std::vector<float> x = random_values(1024 * 1024, 9);
  Weight w = encoding(GetParam()).encode(x.data(), 1024, 1024, {});
  double expected = GetParam() == "nf4" ? 0.072798 : 0.096543;
  EXPECT_NEAR(mean_abs_error(w, x), expected, 7 * 7.4e-5);
}

INSTANTIATE_TEST_SUITE_P(Both, FourBitTest, ::testing::Values("nf4", "fp4"),
                         [](const auto& info) { return info.param; });

TEST(DoubleQuantisation, EncodesAsBitsandbytes) {
  SafetensorsFile file = golden("bitsandbytes");
  Tensor x = file.tensor("double.x").to(DType::f32);
  Weight w = encoding("nf4").encode(x.data<float>(), x.dim(0), x.dim(1),
                                    with({.block = 32, .double_quant = true}));
  EXPECT_TRUE(same_bytes(file.tensor("double.codes"), w.plane("codes")));
  EXPECT_TRUE(same_bytes(file.tensor("double.absmax"), w.plane("absmax")));
  float offset = file.tensor("double.offset").data<float>()[0];
  EXPECT_NEAR(w.params.nested_offset, offset, std::fabs(offset) * 1e-6);
  std::vector<float> nested = elements<float>(file.tensor("double.nested_absmax"));
  ASSERT_EQ(nested.size(), static_cast<size_t>(w.plane("nested_absmax").numel()));
  for (size_t i = 0; i < nested.size(); ++i)
    EXPECT_NEAR(w.plane("nested_absmax").data<float>()[i], nested[i], offset * 1e-6);
}

TEST(DoubleQuantisation, DecodesAsBitsandbytes) {
  SafetensorsFile file = golden("bitsandbytes");
  Weight w;
  w.shape = file.tensor("double.x").shape();
  w.encoding = "nf4";
  w.params = {.block = 32,
              .double_quant = true,
              .nested_offset = file.tensor("double.offset").data<float>()[0]};
  for (const char* name : {"codes", "absmax", "nested_absmax"})
    w.planes[name] = file.tensor(std::string("double.") + name);
  EXPECT_TRUE(same_bytes(file.tensor("double.decoded"), decode_weight(w).rows(0, 4)));
  // A file's own map wins over the computed one.
  w.planes["nested_map"] = Tensor::zeros({256}, DType::f32);
  EXPECT_FALSE(same_bytes(file.tensor("double.decoded"), decode_weight(w).rows(0, 4)));
}

TEST(FourBitRows, AreNotPermutedAcrossBlocks) {
  std::vector<float> x = random_values(4 * 96, 1);
  Weight w = encoding("nf4").encode(x.data(), 4, 96, {});
  std::vector<int64_t> order = {1, 0, 3, 2};
  EXPECT_THROW(encoding("nf4").permute_rows(w, order), Error);
  w.params.block = 0;
  EXPECT_THROW(encoding("nf4").validate(w), Error);
}

TEST(Int8Row, EqualsBitsandbytes) {
  SafetensorsFile file = golden("bitsandbytes");
  Tensor x = file.tensor("x");
  Weight w = encoding("int8_row").encode(x.data<float>(), x.dim(0), x.dim(1), {});
  EXPECT_TRUE(same_bytes(file.tensor("int8.codes"), w.plane("codes")));
  EXPECT_TRUE(same_bytes(file.tensor("int8.scales"), w.plane("scales")));
  EXPECT_TRUE(same_bytes(file.tensor("int8.decoded"), decode_weight(w)));
}

}  // namespace
}  // namespace hone
