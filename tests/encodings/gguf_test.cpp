// GGUF's types against gguf-py (decoding, and encoding where it encodes) and against ggml's errors.
#include "encodings/encodings_testing.h"

namespace hone {
namespace {

const std::vector<std::string> kCopied = {"q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "mxfp4"};
const std::vector<std::string> kSearched = {"q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl"};
// Those of encodings_ggml, by the same meaning; and those that search where there are importances.
const std::vector<std::string> kLater = {"tq1_0", "tq2_0", "gguf_nvfp4", "q1_0", "q2_0", "iq4_xs"};
const std::vector<std::string> kLaterCopied = {"tq1_0", "tq2_0", "gguf_nvfp4", "q1_0", "q2_0"};
const std::vector<std::string> kMeasured = {"q2_k", "q3_k",   "q4_k",  "q5_k",
                                            "q6_k", "iq4_nl", "iq4_xs"};

class GgufEncoding : public ::testing::TestWithParam<std::string> {};

TEST_P(GgufEncoding, DecodesAsGgufPy) {
  SafetensorsFile file = golden("gguf");
  Tensor expected = file.tensor(GetParam() + ".decoded");
  Weight w;
  w.shape = expected.shape();
  w.encoding = GetParam();
  w.planes["blocks"] = file.tensor(GetParam() + ".blocks");
  EXPECT_TRUE(same_bytes(expected, decode_weight(w)));
}

// ggml's own test: values 0.1 + 2·cos(i), RMSE / n below .002 (.004 at 3 bits, .0075 at 2).
TEST_P(GgufEncoding, MeetsGgmlsErrorBounds) {
  constexpr int64_t kCount = 32 * 128;
  std::vector<float> x(kCount);
  for (int64_t i = 0; i < kCount; ++i) x[i] = 0.1f + 2 * std::cos(static_cast<float>(i));
  Weight w = encoding(GetParam()).encode(x.data(), 1, kCount, {});
  double bound = GetParam() == "q2_k" ? 0.0075 : GetParam() == "q3_k" ? 0.0040 : 0.0020;
  EXPECT_LT(rms_error(w, x) / std::sqrt(double{kCount}), bound);
}

std::vector<std::string> all_types() {
  std::vector<std::string> all = kCopied;
  all.insert(all.end(), kSearched.begin(), kSearched.end());
  return all;
}
auto type_name = [](const auto& info) { return info.param; };
INSTANTIATE_TEST_SUITE_P(All, GgufEncoding, ::testing::ValuesIn(all_types()), type_name);

class GgufCopied : public ::testing::TestWithParam<std::string> {};

TEST_P(GgufCopied, EncodesToTheReferenceBytes) {
  SafetensorsFile file = golden("gguf");
  Tensor x = file.tensor("x");
  Weight w = encoding(GetParam()).encode(x.data<float>(), x.dim(0), x.dim(1), {});
  EXPECT_TRUE(same_bytes(file.tensor(GetParam() + ".encoded"), w.plane("blocks")));
}
INSTANTIATE_TEST_SUITE_P(All, GgufCopied, ::testing::ValuesIn(kCopied), type_name);

class GgufSearched : public ::testing::TestWithParam<std::string> {};

TEST_P(GgufSearched, IsNoWorseThanGgml) {
  SafetensorsFile file = golden("ggml_errors");
  Tensor x = file.tensor("x");
  std::vector<float> values = elements<float>(x);
  std::vector<float> importance = elements<float>(file.tensor("importance"));
  std::vector<double> ggml = elements<double>(file.tensor(GetParam() + ".error"));
  const Encoding& e = encoding(GetParam());
  Weight plain = e.encode(values.data(), x.dim(0), x.dim(1), {});
  EXPECT_LE(rms_error(plain, values), 1.02 * ggml[0]);
  Weight weighted = e.encode(values.data(), x.dim(0), x.dim(1), with({}, importance));
  EXPECT_LE(rms_error(weighted, values, importance), 1.02 * ggml[1]);
  EXPECT_LT(rms_error(weighted, values, importance), rms_error(plain, values, importance));
}

TEST_P(GgufSearched, IgnoresTheScaleOfImportances) {
  std::vector<float> x = random_values(2 * 512, 8);
  const Encoding& e = encoding(GetParam());
  std::vector<float> same(512, 1e30f), zero(512, 0.0f);
  Weight plain = e.encode(x.data(), 2, 512, {});
  Weight huge = e.encode(x.data(), 2, 512, with({}, same));
  Weight none = e.encode(x.data(), 2, 512, with({}, zero));
  EXPECT_TRUE(same_bytes(plain.plane("blocks"), huge.plane("blocks")));
  EXPECT_TRUE(same_bytes(plain.plane("blocks"), none.plane("blocks")));
}
INSTANTIATE_TEST_SUITE_P(All, GgufSearched, ::testing::ValuesIn(kSearched), type_name);

Weight stored(const SafetensorsFile& file, const std::string& name, const std::string& encoding) {
  Weight w;
  w.shape = file.tensor(name + ".decoded").shape();
  w.encoding = encoding;
  w.planes["blocks"] = file.tensor(name + ".blocks");
  return w;
}

class GgufLater : public ::testing::TestWithParam<std::string> {};

TEST_P(GgufLater, DecodesAsGgml) {
  SafetensorsFile file = golden("ggml");
  EXPECT_TRUE(same_bytes(file.tensor(GetParam() + ".decoded"),
                         decode_weight(stored(file, GetParam(), GetParam()))));
}
INSTANTIATE_TEST_SUITE_P(All, GgufLater, ::testing::ValuesIn(kLater), type_name);

class GgufLaterCopied : public ::testing::TestWithParam<std::string> {};

TEST_P(GgufLaterCopied, EncodesToTheReferenceBytes) {
  SafetensorsFile file = golden("ggml");
  Tensor x = file.tensor("x");
  Weight w = encoding(GetParam()).encode(x.data<float>(), x.dim(0), x.dim(1), {});
  EXPECT_TRUE(same_bytes(file.tensor(GetParam() + ".encoded"), w.plane("blocks")));
}
INSTANTIATE_TEST_SUITE_P(All, GgufLaterCopied, ::testing::ValuesIn(kLaterCopied), type_name);

TEST(Gguf, Nvfp4HasAllScalesOfGgml) {
  SafetensorsFile file = golden("ggml");
  EXPECT_TRUE(same_bytes(file.tensor("nvfp4_scales.decoded"),
                         decode_weight(stored(file, "nvfp4_scales", "gguf_nvfp4"))));
}

class GgufMeasured : public ::testing::TestWithParam<std::string> {};

// Against the ggml of encodings_ggml, on other values than IsNoWorseThanGgml: within 1 %.
TEST_P(GgufMeasured, IsNoWorseThanLaterGgml) {
  SafetensorsFile file = golden("ggml");
  Tensor x = file.tensor("errors.x");
  std::vector<float> values = elements<float>(x);
  std::vector<float> importance = elements<float>(file.tensor("errors.importance"));
  std::vector<double> ggml = elements<double>(file.tensor(GetParam() + ".error"));
  const Encoding& e = encoding(GetParam());
  EXPECT_LE(rms_error(e.encode(values.data(), x.dim(0), x.dim(1), {}), values), 1.01 * ggml[0]);
  Weight weighted = e.encode(values.data(), x.dim(0), x.dim(1), with({}, importance));
  EXPECT_LE(rms_error(weighted, values, importance), 1.01 * ggml[1]);
}
INSTANTIATE_TEST_SUITE_P(All, GgufMeasured, ::testing::ValuesIn(kMeasured), type_name);

TEST(Gguf, RefusesBadImportances) {
  std::vector<float> x(256, 1.0f), few(255, 1.0f), negative(256, 1.0f);
  negative[7] = -1;
  const Encoding& e = encoding("q4_k");
  EXPECT_THROW(e.encode(x.data(), 1, 256, with({}, few)), Error);
  EXPECT_THROW(e.encode(x.data(), 1, 256, with({}, negative)), Error);
  EXPECT_THROW(e.encode(x.data(), 1, 255, {}), Error);
}

}  // namespace
}  // namespace hone
