// LLM.int8() against bitsandbytes (tools/golden/make_llm_int8.py), and its outliers against exact
// products for every encoding with an integer form.
#include "encodings/outliers.h"

#include <cmath>
#include <limits>

#include "encodings/product.h"
#include "formats/safetensors.h"
#include "testing.h"

namespace hone {
namespace {

using testing::random_tensor;
using testing::relative_distance;

class LlmInt8Golden : public ::testing::Test {
 protected:
  Tensor plane(const std::string& name) { return file_.tensor(name).clone(); }
  PackedWeight packed() {
    Weight w;
    w.encoding = "int8_row";
    w.params.bits = 8;
    w.planes = {{"codes", plane("codes")}, {"scales", plane("maxima")}};
    w.shape = w.plane("codes").shape();
    return pack_weight(w);
  }
  void expect_golden(Activations a, const std::string& name) {
    const Tensor y = multiply(LinearInput(plane("x")), packed(), {}, a), expected = plane(name);
    // bitsandbytes rounds parts of the sum to f16; quantising moves results by 0.08.
    for (int64_t i = 0; i < y.numel(); ++i)
      EXPECT_NEAR(y.data<float>()[i], expected.data<float>()[i], 5e-4) << i;
  }

 private:
  SafetensorsFile file_ =
      SafetensorsFile::open(fs::path(HONE_SOURCE_DIR) / "tests/golden/llm_int8.safetensors");
};

TEST_F(LlmInt8Golden, CodesOfABatchEqualThoseOfBitsandbytes) {
  const OutlierRows rows = split_outliers(plane("x"), {6, true}, 32, 128);
  const Tensor codes = plane("x_codes"), maxima = plane("x_maxima");
  const int64_t t = codes.dim(0), k = codes.dim(1), chunks = k / 32;
  ASSERT_EQ(t, 6);  // a tile of four rows, and one of two
  for (int64_t row = 0; row < t; ++row) {
    const int64_t t0 = row < 4 ? 0 : 4, tile = row < 4 ? 4 : 2;
    for (int64_t i = 0; i < k; ++i) {
      const int64_t at = t0 * chunks + i / 32 * tile + row - t0;
      EXPECT_EQ(rows.codes.data<int8_t>()[at * 32 + i % 32], codes.data<int8_t>()[row * k + i]);
      EXPECT_FLOAT_EQ(rows.scales.data<float>()[at] * 127, maxima.data<float>()[row]);
    }
  }
  EXPECT_EQ(std::vector<int64_t>(rows.columns.begin(), rows.columns.begin() + rows.first[1]),
            (std::vector<int64_t>{3, 11, 70}));
}

TEST_F(LlmInt8Golden, ProductsOfABatch) { expect_golden(Activations::llm_int8_batch, "by_batch"); }
TEST_F(LlmInt8Golden, ProductsOfRows) { expect_golden(Activations::llm_int8, "by_row"); }

TEST_F(LlmInt8Golden, WhatStandsBesideARowChangesNothing) {
  const PackedWeight w = packed();
  const Tensor x = plane("x"), y = multiply(LinearInput(x), w, {}, Activations::llm_int8);
  const Tensor batch = multiply(LinearInput(x), w, {}, Activations::llm_int8_batch);
  bool differs = false;
  for (int64_t t = 0; t < x.dim(0); ++t) {
    const LinearInput row(x.rows(t, t + 1).clone());
    const Tensor alone = multiply(row, w, {}, Activations::llm_int8);
    const Tensor of_batch = multiply(row, w, {}, Activations::llm_int8_batch);
    for (int64_t i = 0; i < w.n; ++i) {
      EXPECT_EQ(alone.data<float>()[i], y.data<float>()[t * w.n + i]);
      differs |= of_batch.data<float>()[i] != batch.data<float>()[t * w.n + i];
    }
  }
  EXPECT_TRUE(differs) << "by batch, neighbours count";
}

TEST(Outliers, MeetTheExactWeightInEveryIntegerForm) {
  const int64_t t = 5, n = 50, k = 256;
  const Tensor values = random_tensor({n, k}, 1), bias = random_tensor({n}, 2);
  const Tensor x = random_tensor({t, k}, 3);
  int forms = 0;
  for (const Encoding* e : encodings()) {
    EncodeOptions options;
    if (e->id() == "nf4" || e->id() == "fp4") options.params.block = 64;
    if (e->id() == "int_group") options.params = {.bits = 4, .group = 64, .symmetric = false};
    if (!e->encode_refusal(n, k, options.params).empty()) continue;
    PackedWeight w = pack_weight(e->encode(values.data<float>(), n, k, options));
    if (!w.coded) continue;
    ++forms;
    w.outlier_threshold = 1e-9f;  // all of them
    const Tensor exact = multiply(LinearInput(x), w, bias, Activations::f32);
    const Tensor y = multiply(LinearInput(x), w, bias, Activations::llm_int8);
    EXPECT_LT(relative_distance(y.data<float>(), exact.data<float>(), t * n), 3e-6) << e->id();
  }
  EXPECT_GT(forms, 10);
}

TEST(Outliers, ValuesThatAreNoNumbersReachTheResult) {
  Tensor x = random_tensor({2, 32}, 1);
  x.mutable_data<float>()[5] = std::numeric_limits<float>::quiet_NaN();
  x.mutable_data<float>()[32 + 6] = std::numeric_limits<float>::infinity();
  const Tensor values = random_tensor({16, 32}, 2);
  const Weight w = encoding("int8_row").encode(values.data<float>(), 16, 32, {});
  const Tensor y = multiply(LinearInput(x), pack_weight(w), {}, Activations::llm_int8);
  for (int64_t i = 0; i < 2 * 16; ++i) EXPECT_FALSE(std::isfinite(y.data<float>()[i])) << i;
}

}  // namespace
}  // namespace hone
