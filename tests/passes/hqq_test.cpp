// Half-quadratic quantisation against the hqq library (tools/golden/make_hqq.py), and against
// nothing but the range.
#include "passes/hqq_solver.h"

#include <cmath>

#include "base/threads.h"
#include "encodings/encoding.h"
#include "encodings/int_grid.h"
#include "formats/safetensors.h"
#include "testing.h"

namespace hone {
namespace {

using testing::random_tensor;

Tensor hqq_golden(const std::string& name) {
  static const SafetensorsFile file =
      SafetensorsFile::open(fs::path(HONE_SOURCE_DIR) / "tests/golden/hqq.safetensors");
  return file.tensor(name).clone();
}

double mean_abs_error(const Tensor& values, const Weight& w) {
  const Tensor back = decode_weight(w);
  double sum = 0;
  for (int64_t i = 0; i < values.numel(); ++i)
    sum += std::fabs(values.data<float>()[i] - back.data<float>()[i]);
  return sum / static_cast<double>(values.numel());
}

struct HqqForm {
  int64_t bits, group;
};
void PrintTo(const HqqForm& f, std::ostream* out) {
  *out << f.bits << " bits, groups of " << f.group;
}

class HqqGolden : public ::testing::TestWithParam<HqqForm> {};

TEST_P(HqqGolden, EqualsTheLibrary) {
  const auto [bits, group] = GetParam();
  const std::string name = fmt::format("{}_{}.", bits, group);
  const Tensor values = hqq_golden("w");
  HqqOptions o;
  o.bits = bits, o.group = group, o.by_group = false, o.scale_type = DType::f32;
  const Weight w = hqq_solve(values, o);
  const Tensor scales = hqq_golden(name + "scales"), zeros = hqq_golden(name + "zeros");
  int64_t apart = 0;  // a code at a tie, rounded otherwise, moves a zero point by up to 1/group
  for (int64_t i = 0; i < scales.numel(); ++i) {
    EXPECT_NEAR(w.plane("scales").data<float>()[i], scales.data<float>()[i],
                1e-6 * scales.data<float>()[i]);
    const float off = std::fabs(w.plane("zeros").data<float>()[i] - zeros.data<float>()[i]);
    EXPECT_LT(off, 0.01);
    apart += off > 1e-4f;
  }
  EXPECT_LE(apart, scales.numel() / 20);
  const Tensor codes = hqq_golden(name + "codes");
  const int64_t k = values.dim(1);
  std::vector<uint8_t> row(static_cast<size_t>(k));
  int64_t differ = 0;
  for (int64_t r = 0; r < values.dim(0); ++r) {
    unpack_codes(w.plane("codes").data<uint8_t>() + r * packed_size(k, static_cast<int>(bits)), k,
                 static_cast<int>(bits), row.data());
    for (int64_t i = 0; i < k; ++i) differ += row[i] != codes.data<uint8_t>()[r * k + i];
  }
  EXPECT_LE(differ, values.numel() / 1000);
}

INSTANTIATE_TEST_SUITE_P(Forms, HqqGolden,
                         ::testing::Values(HqqForm{4, 64}, HqqForm{3, 32}, HqqForm{2, 16},
                                           HqqForm{8, 128}, HqqForm{1, 64}),
                         [](const auto& info) {
                           return fmt::format("bits{}_group{}", info.param.bits, info.param.group);
                         });

TEST(Hqq, EachGroupIsAtLeastAsGoodAsItsRange) {
  const Tensor values = random_tensor({48, 256}, 5);
  for (int64_t bits : {2, 3, 4}) {
    HqqOptions o;
    o.bits = bits;
    o.scale_type = DType::f32;
    const Weight solved = hqq_solve(values, o);
    o.iterations = 0;
    const Weight range = hqq_solve(values, o);
    EXPECT_LT(mean_abs_error(values, solved), mean_abs_error(values, range)) << bits;
    for (int64_t r = 0; r < values.dim(0); ++r)
      for (int64_t g = 0; g < 4; ++g) {
        auto error = [&](const Weight& w) {
          const Tensor back = decode_weight(w);
          double sum = 0;
          for (int64_t i = r * 256 + g * 64; i < r * 256 + (g + 1) * 64; ++i)
            sum += std::fabs(values.data<float>()[i] - back.data<float>()[i]);
          return sum;
        };
        ASSERT_LE(error(solved), error(range) * (1 + 1e-5)) << r << " " << g;
      }
  }
}

TEST(Hqq, WhatF16CannotHoldStaysFinite) {
  Tensor values = random_tensor({4, 64}, 6);
  float* x = values.mutable_data<float>();
  for (int64_t i = 0; i < 64; ++i) {
    x[i] = 1000 + static_cast<float>(i) * 1e-5f;
    x[64 + i] = -3e4f;
    x[128 + i] = 0;
  }
  const Tensor back = decode_weight(hqq_solve(values, {}));
  for (int64_t i = 0; i < 192; ++i)
    EXPECT_NEAR(back.data<float>()[i], x[i], std::fabs(x[i]) * 2e-3) << i;
}

TEST(Hqq, SameBytesForEveryThreadCount) {
  const Tensor values = random_tensor({333, 192}, 7);
  for (bool by_group : {true, false}) {
    HqqOptions o;
    o.bits = 3;
    o.by_group = by_group;
    set_threads(1);
    const Weight one = hqq_solve(values, o);
    set_threads(4);
    const Weight four = hqq_solve(values, o);
    set_threads(0);
    for (const auto& [name, plane] : one.planes)
      EXPECT_EQ(
          std::memcmp(plane.raw(), four.plane(name).raw(), static_cast<size_t>(plane.byte_size())),
          0)
          << name;
  }
}

}  // namespace
}  // namespace hone
