// nf4, fp4 and int8_row against bitsandbytes.
#include "encodings/encodings_testing.h"
#include "tensor/code_tables.h"

namespace hone {
namespace {

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
  const auto& map = signed_dynamic_table();
  Weight w;
  w.shape = file.tensor("double.x").shape();
  w.encoding = "nf4";
  w.params = {.block = 32,
              .double_quant = true,
              .nested_offset = file.tensor("double.offset").data<float>()[0]};
  for (const char* name : {"codes", "absmax", "nested_absmax"})
    w.planes[name] = file.tensor(std::string("double.") + name);
  EXPECT_TRUE(same_bytes(file.tensor("double.decoded"), decode_weight(w).rows(0, 4)));
  EXPECT_TRUE(same_bytes(file.tensor("nested_map"),
                         Tensor::from(std::vector<float>(map.begin(), map.end()))));
  // A file's own map wins over the computed one.
  w.planes["nested_map"] = Tensor::zeros({256}, DType::f32);
  EXPECT_FALSE(same_bytes(file.tensor("double.decoded"), decode_weight(w).rows(0, 4)));
}

TEST(FourBitRows, AreNotPermutedAcrossBlocks) {
  std::vector<float> x = random_values(4 * 96, 1);
  Weight w = encoding("nf4").encode(x.data(), 4, 96, {});
  std::vector<int64_t> order = {1, 0, 3, 2};
  EXPECT_THROW(encoding("nf4").permute_rows(w, order), Error);
}

TEST(FourBitRows, RefuseBadBlocks) {
  std::vector<float> x = random_values(4 * 96, 1);
  Weight w = encoding("nf4").encode(x.data(), 4, 96, {});
  for (int64_t block : {int64_t{0}, int64_t{-64}, int64_t{32}, INT64_MAX}) {
    w.params.block = block;
    EXPECT_THROW(encoding("nf4").validate(w), Error) << block;
    EXPECT_EQ(encoding("nf4").encode_refusal(4, 96, w.params).empty(), block == 0 || block == 32);
  }
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
