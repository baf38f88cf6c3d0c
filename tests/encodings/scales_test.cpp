// What can be trained of a quantised weight: every encoding either gives its float scales, with a
// decode that is linear in them and a vjp that is its transpose, or refuses with a reason.
#include <algorithm>

#include "encodings/encodings_testing.h"

namespace hone {
namespace {

struct ScalesCase {
  std::string name, id;
  WeightParams params;
};

std::vector<ScalesCase> scales_cases() {
  std::vector<ScalesCase> all;
  for (const Encoding* e : encodings())
    all.push_back({std::string(e->id()), std::string(e->id()), {}});
  all.push_back({"int_group_3_asym_g48_f32",
                 "int_group",
                 {.bits = 3, .group = 48, .symmetric = false, .scale_type = DType::f32}});
  all.push_back({"int_group_8_row_bf16", "int_group", {.bits = 8, .scale_type = DType::bf16}});
  all.push_back({"nf4_block32", "nf4", {.block = 32}});
  all.push_back({"nf4_double", "nf4", {.double_quant = true}});
  return all;
}

// Encodings whose scales are floats of their own; a new one is one or the other.
bool trained(const ScalesCase& c) {
  if (c.params.double_quant) return false;
  for (const char* id : {"int_group", "int8_row", "nf4", "fp4", "q4_0", "q4_1", "q5_0", "q5_1",
                         "q8_0", "iq4_nl", "tq1_0", "tq2_0", "q2_0", "q1_0", "f8_e4m3", "f8_e5m2"})
    if (c.id == id) return true;
  return false;
}

Weight weight_of(const ScalesCase& c, int64_t n = 6, int64_t k = 256) {
  const std::vector<float> x = random_values(size_t(n * k), 4);
  EncodeOptions options;
  options.params = c.params;
  return encoding(c.id).encode(x.data(), n, k, options);
}

class Scales : public ::testing::TestWithParam<ScalesCase> {};

TEST_P(Scales, AreTrainedOrRefused) {
  const Encoding& e = encoding(GetParam().id);
  const Weight w = weight_of(GetParam());
  const std::string reason = e.scales_refusal(w);
  EXPECT_EQ(reason.empty(), trained(GetParam())) << reason;
  if (reason.empty()) return;
  auto raises = [&](auto f) {
    try {
      f();
    } catch (const Error& error) {
      return error.kind() == ErrorKind::unsupported &&
             std::string(error.what()).find(reason) != std::string::npos;
    }
    return false;
  };
  EXPECT_TRUE(raises([&] { e.scales(w); }));
  EXPECT_TRUE(raises([&] { e.with_scales(w, {}); }));
  EXPECT_TRUE(raises([&] { e.decode_vjp(w, decode_weight(w)); }));
}

TEST_P(Scales, ComeBackAsTheyWere) {
  if (!trained(GetParam())) GTEST_SKIP() << "refused";
  const Encoding& e = encoding(GetParam().id);
  const Weight w = weight_of(GetParam());
  std::vector<Tensor> values;
  for (const NamedTensor& t : e.scales(w)) values.push_back(t.value);
  const Weight same = e.with_scales(w, values);
  e.validate(same);
  EXPECT_EQ(same.params, w.params);
  ASSERT_EQ(same.planes.size(), w.planes.size());
  for (const auto& [name, plane] : w.planes) {
    ASSERT_EQ(same.plane(name).dtype(), plane.dtype());
    EXPECT_TRUE(std::equal(plane.raw(), plane.raw() + plane.byte_size(), same.plane(name).raw()))
        << name;
  }
}

// Twice a scale is twice its part of the weight: the decoded difference, times dw and summed, is
// the vjp times the change, to rounding.
TEST_P(Scales, VjpIsTheTransposeOfDecode) {
  if (!trained(GetParam())) GTEST_SKIP() << "refused";
  const Encoding& e = encoding(GetParam().id);
  const Weight w = weight_of(GetParam());
  std::vector<NamedTensor> named = e.scales(w);
  const Tensor dw = Tensor::from(random_values(size_t(w.numel()), 9), w.shape);
  const std::vector<Tensor> vjp = e.decode_vjp(w, dw);
  ASSERT_EQ(vjp.size(), named.size());
  const Tensor before = decode_weight(w);
  for (size_t which = 0; which < named.size(); ++which) {
    ASSERT_EQ(vjp[which].numel(), named[which].value.numel());
    const int64_t count = named[which].value.numel();
    for (int64_t i = 0; i < count; i += std::max<int64_t>(1, count / 13)) {
      std::vector<Tensor> changed;
      for (const NamedTensor& t : named) changed.push_back(t.value.clone());
      float& scale = changed[which].mutable_data<float>()[i];
      const double was = scale;
      scale *= 2;
      const double change = scale - was;
      ASSERT_NE(change, 0);
      const Tensor after = decode_weight(e.with_scales(w, changed));
      double sum = 0, size = 0;
      for (int64_t j = 0; j < w.numel(); ++j) {
        const double d = double{after.data<float>()[j]} - before.data<float>()[j];
        sum += d * dw.data<float>()[j];
        size += std::fabs(d * dw.data<float>()[j]);
      }
      EXPECT_NEAR(vjp[which].data<float>()[i] * change, sum, 1e-5 * size + 1e-9)
          << named[which].name << " " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Scales, ::testing::ValuesIn(scales_cases()),
                         [](const auto& info) { return info.param.name; });

TEST(ScalesOfGroups, FollowTheIndexOfColumns) {
  Weight w = weight_of({"", "int_group", {.bits = 4, .group = 64}});
  std::vector<int32_t> index(256);
  for (size_t i = 0; i < index.size(); ++i) index[i] = static_cast<int32_t>(i * 7 % 4);
  w.planes["g_idx"] = Tensor::from(index);
  w.params.act_order = true;
  const Encoding& e = encoding("int_group");
  e.validate(w);
  const Tensor dw = Tensor::from(random_values(size_t(w.numel()), 9), w.shape);
  const Tensor vjp = e.decode_vjp(w, dw)[0], scales = e.scales(w)[0].value, all = decode_weight(w);
  std::vector<double> sums(size_t(vjp.numel()));
  for (int64_t r = 0; r < 6; ++r)
    for (int64_t c = 0; c < 256; ++c) {
      const int64_t s = r * 4 + index[size_t(c)];
      sums[size_t(s)] += double{dw.data<float>()[r * 256 + c]} * all.data<float>()[r * 256 + c] /
                         scales.data<float>()[s];
    }
  for (int64_t s = 0; s < vjp.numel(); ++s)
    EXPECT_NEAR(vjp.data<float>()[s], sums[size_t(s)], 1e-3) << s;
}

TEST(ScalesOfGroups, StayPositiveAndFinite) {
  const Weight w = weight_of({"", "int_group", {.bits = 4, .group = 64}});
  const Encoding& e = encoding("int_group");
  Tensor scales = e.scales(w)[0].value;
  scales.mutable_data<float>()[0] = -1;
  scales.mutable_data<float>()[1] = 1e9f;
  const Tensor kept = e.scales(e.with_scales(w, {&scales, 1}))[0].value;
  EXPECT_EQ(kept.data<float>()[0], 0x1p-24f);
  EXPECT_EQ(kept.data<float>()[1], 65504.0f);
  const Weight q = weight_of({"", "q8_0", {}});
  Tensor huge = encoding("q8_0").scales(q)[0].value;
  huge.mutable_data<float>()[0] = 1e9f;
  EXPECT_THROW(encoding("q8_0").with_scales(q, {&huge, 1}), Error);
}

}  // namespace
}  // namespace hone
