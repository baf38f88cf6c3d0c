// Float encodings: any rank, scales of the 8-bit types.
#include "encodings/encodings_testing.h"

namespace hone {
namespace {

TEST(Floats, TakeAnyRank) {
  std::vector<float> x = random_values(2 * 3 * 4, 1);
  for (Shape shape : {Shape{24}, Shape{6, 4}, Shape{2, 3, 4}}) {
    Weight w = float_weight(Tensor::from(x, shape));
    Tensor y = decode_weight(w);
    EXPECT_EQ(y.shape(), shape);
    EXPECT_EQ(elements<float>(y), x);
  }
  Weight w = float_weight(Tensor::from(x, {2, 3, 4}));
  std::vector<float> second(12);
  encoding("f32").decode(w, 1, 2, second.data());
  EXPECT_TRUE(std::equal(second.begin(), second.end(), x.begin() + 12));
}

TEST(Floats, EveryEightBitPatternWidens) {
  std::vector<std::byte> bytes(256);
  for (int i = 0; i < 256; ++i) bytes[i] = static_cast<std::byte>(i);
  for (DType type : {DType::f8_e4m3, DType::f8_e5m2}) {
    Tensor y = decode_weight(float_weight(Tensor::borrow({256}, type, bytes, nullptr)));
    for (int i = 0; i < 256; ++i) {
      auto code = static_cast<uint8_t>(i);
      float expected = type == DType::f8_e4m3 ? to_f32(f8_e4m3{code}) : to_f32(f8_e5m2{code});
      float got = y.data<float>()[i];
      EXPECT_TRUE(got == expected || (std::isnan(got) && std::isnan(expected))) << i;
    }
  }
}

TEST(Floats, EightBitScalesMultiply) {
  std::vector<float> x = {1, 2, -4, 0.5f, 3, 448};
  Tensor codes = Tensor::from(x, {2, 3}).to(DType::f8_e4m3);
  Weight w = float_weight(codes);
  w.planes["scale"] = Tensor::from<float>({0.25f});
  EXPECT_EQ(decode_weight(w).data<float>()[5], 112);
  w.planes["scale"] = Tensor::from<float>({10, 0.5f}, {2, 1});
  Tensor y = decode_weight(w);
  EXPECT_EQ(y.data<float>()[2], -40);
  EXPECT_EQ(y.data<float>()[5], 224);
  w.planes["scale"] = Tensor::from<float>({1, 1, 1});
  EXPECT_THROW(decode_weight(w), Error);
  Weight plain = float_weight(Tensor::from(x, {2, 3}));
  plain.planes["scale"] = Tensor::from<float>({1});
  EXPECT_THROW(decode_weight(plain), Error);
}

TEST(Floats, EncodingScalesEightBitRowsToTheirRange) {
  std::vector<float> x = {1e-9f, -2e-9f, 1e9f, 4e9f};
  Weight w = encoding("f8_e4m3").encode(x.data(), 2, 2, {});
  EXPECT_EQ(w.plane("scale").shape(), (Shape{2, 1}));
  Tensor y = decode_weight(w);
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(y.data<float>()[i] / x[i], 1, 0.07) << i;
}

}  // namespace
}  // namespace hone
