// Sizes from untrusted numbers.
#include "base/checked.h"

#include <gtest/gtest.h>

#include <vector>

namespace hone {
namespace {

constexpr int64_t kMax = INT64_MAX;

TEST(Checked, RefusesToWrap) {
  EXPECT_EQ(checked_mul(3'037'000'499, 3'037'000'499, "x"), 9'223'372'030'926'249'001);
  EXPECT_EQ(checked_mul(kMax, 0, "x"), 0);
  EXPECT_EQ(checked_mul(kMax, 1, "x"), kMax);
  EXPECT_EQ(checked_add(kMax - 1, 1, "x"), kMax);
  EXPECT_THROW(checked_mul(kMax / 2 + 1, 2, "x"), Error);
  EXPECT_THROW(checked_mul(int64_t{1} << 32, int64_t{1} << 32, "x"), Error);  // 0 where it wraps
  EXPECT_THROW(checked_mul(-1, -1, "x"), Error);
  EXPECT_THROW(checked_add(kMax, 1, "x"), Error);
  EXPECT_THROW(checked_add(kMax, -1, "x"), Error);
  try {
    checked_mul(kMax, 2, "tensor 'a'");
    FAIL() << "must throw";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::corrupt);
    EXPECT_EQ(std::string(e.what()),
              "tensor 'a': the size 9223372036854775807 x 2 is negative or too large");
  }
}

TEST(Checked, CountsElements) {
  EXPECT_EQ(checked_numel(std::vector<int64_t>{}, "x"), 1);
  EXPECT_EQ(checked_numel(std::vector<int64_t>{2, 3, 5}, "x"), 30);
  EXPECT_EQ(checked_numel(std::vector<int64_t>{2, 0, kMax}, "x"), 0);
  EXPECT_THROW(checked_numel(std::vector<int64_t>{2, -3, -5}, "x"), Error);
  EXPECT_THROW(checked_numel(std::vector<int64_t>{int64_t{1} << 40, int64_t{1} << 40}, "x"), Error);
}

TEST(Checked, RoundsUpWithoutWrapping) {
  for (int64_t a = 0; a < 20; ++a)
    for (int64_t b = 1; b < 9; ++b) {
      EXPECT_GE(round_up(a, b), a);
      EXPECT_LT(round_up(a, b), a + b);
      EXPECT_EQ(round_up(a, b), ceil_div(a, b) * b);
    }
  EXPECT_EQ(ceil_div(kMax, 2), kMax / 2 + 1);
  EXPECT_EQ(ceil_div(kMax, kMax), 1);
  EXPECT_EQ(ceil_div(5, kMax), 1);
  EXPECT_THROW(round_up(kMax, 8), Error);
}

}  // namespace
}  // namespace hone
