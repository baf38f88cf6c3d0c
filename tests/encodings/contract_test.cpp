// What every encoding of the registry promises. A new encoding is covered by its line there; the
// variants below only add parameters.
#include <algorithm>
#include <memory>

#include "base/threads.h"
#include "encodings/encodings_testing.h"

namespace hone {
namespace {

struct Case {
  const Encoding* encoding;
  WeightParams params;
  std::string name;
};

std::vector<Case> make_cases() {
  std::vector<Case> cases;
  for (const Encoding* e : encodings()) cases.push_back({e, {}, std::string(e->id())});
  auto add = [&](const char* id, const std::string& suffix, WeightParams params) {
    cases.push_back({&encoding(id), params, id + ("_" + suffix)});
  };
  for (int bits = 2; bits <= 8; ++bits) {
    std::string name = std::to_string(bits);
    add("int_group", name + "_sym_row", {.bits = bits});
    add("int_group", name + "_asym_g32", {.bits = bits, .group = 32, .symmetric = false});
    add("int_group", name + "_sym_g48_f32", {.bits = bits, .group = 48, .scale_type = DType::f32});
    add("int_group", name + "_asym_g20_bf16",
        {.bits = bits, .group = 20, .symmetric = false, .scale_type = DType::bf16});
  }
  for (const char* id : {"nf4", "fp4"}) {
    add(id, "block32", {.block = 32});
    add(id, "block4096_double", {.block = 4096, .double_quant = true});
    add(id, "double", {.block = 64, .double_quant = true});
  }
  return cases;
}

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class Contract : public ::testing::TestWithParam<Case> {
 protected:
  const Encoding& e() const { return *GetParam().encoding; }

  Weight encode(const std::vector<float>& x, int64_t n, int64_t k) const {
    return e().encode(x.data(), n, k, with(GetParam().params));
  }
  bool writes(int64_t n, int64_t k) const {
    return e().encode_refusal(n, k, GetParam().params).empty();
  }
  /// Shapes worth trying: K that all formats take, and odd ones.
  std::vector<Shape> shapes() const {
    std::vector<Shape> shapes;
    for (Shape s : {Shape{13, 512}, Shape{7, 96}, Shape{5, 75}, Shape{3, 1}, Shape{1, 256}})
      if (writes(s[0], s[1])) shapes.push_back(s);
    return shapes;
  }
};

bool is_float_type(const Encoding& e) {
  for (const char* id : {"f32", "f64", "f16", "bf16"})
    if (e.id() == id) return true;
  return false;
}

TEST_P(Contract, Describes) {
  EXPECT_FALSE(e().id().empty());
  EXPECT_FALSE(e().description().empty());
  EXPECT_EQ(&encoding(e().id()), &e());
}

// The error of a uniform b-bit quantiser of a normal sample falls like 2^−b; the constant leaves
// room for scales and for one scale to a row. Floats have a relative error instead.
TEST_P(Contract, DecodesWhatItEncodes) {
  if (!writes(64, 512)) GTEST_SKIP() << "read only";
  std::vector<float> x = random_values(64 * 512, 1);
  Weight w = encode(x, 64, 512);
  EXPECT_EQ(w.encoding, e().id());
  EXPECT_EQ(w.shape, (Shape{64, 512}));
  EXPECT_NO_THROW(e().validate(w));
  double bits = static_cast<double>(w.byte_size()) * 8 / static_cast<double>(w.numel());
  double bound = 4 * std::exp2(-bits);
  if (e().id() == "f8_e4m3") bound = 0.03;
  if (e().id() == "f8_e5m2") bound = 0.06;
  if (e().id() == "f16") bound = 3e-4;
  if (e().id() == "bf16") bound = 3e-3;
  EXPECT_LE(rms_error(w, x), bound) << bits << " bits per weight";
}

TEST_P(Contract, ZerosStayZero) {
  for (const Shape& s : shapes()) {
    std::vector<float> x(static_cast<size_t>(s[0] * s[1]), 0.0f);
    Tensor y = decode_weight(encode(x, s[0], s[1]));
    for (float v : elements<float>(y)) ASSERT_EQ(v, 0) << shape_string(s);
  }
}

TEST_P(Contract, TakesExtremeMagnitudes) {
  for (float scale : {1e-44f, 1e-30f, 1e30f, 1e38f})
    for (const Shape& s : shapes()) {
      std::vector<float> x = random_values(s[0] * s[1], 2);
      for (float& v : x) v = std::clamp(v, -3.0f, 3.0f) * scale;
      Weight w = encode(x, s[0], s[1]);
      EXPECT_NO_THROW(decode_weight(w));
    }
}

TEST_P(Contract, RefusesNonFiniteValues) {
  if (is_float_type(e()) || !writes(2, 256)) GTEST_SKIP() << "plain floats keep them";
  for (float bad : {std::nanf(""), -INFINITY}) {
    std::vector<float> x(512, 1.0f);
    x[300] = bad;
    try {
      encode(x, 2, 256);
      FAIL() << "encoded " << bad;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid_argument);
    }
  }
}

TEST_P(Contract, RowsDecodeAlone) {
  for (const Shape& s : shapes()) {
    int64_t n = s[0], k = s[1];
    Weight w = encode(random_values(n * k, 3), n, k);
    Tensor whole = decode_weight(w);
    for (int64_t begin = 0; begin < n; ++begin)
      for (int64_t end : {begin, begin + 1, n}) {
        Tensor part = Tensor::empty({end - begin, k}, DType::f32);
        e().decode(w, begin, end, part.mutable_data<float>());
        ASSERT_TRUE(same_bytes(whole.rows(begin, end), part)) << shape_string(s) << " " << begin;
      }
  }
}

TEST_P(Contract, DoesNotDependOnThreads) {
  if (!writes(300, 512)) GTEST_SKIP() << "read only";
  std::vector<float> x = random_values(300 * 512, 4);
  set_threads(1);
  Weight one = encode(x, 300, 512);
  set_threads(0);
  Weight all = encode(x, 300, 512);
  for (const auto& [name, plane] : one.planes)
    EXPECT_TRUE(same_bytes(plane, all.plane(name))) << name;
}

// The integers that stand for a table's values keep within the error that the table admits, which
// is below that of int8 activations: half of 1/127 of the largest.
void check_steps(const CodeTable& t) {
  const float largest =
      std::fabs(*std::max_element(t.values.begin(), t.values.end(),
                                  [](float a, float b) { return std::fabs(a) < std::fabs(b); }));
  double furthest = 0, squares = 0;
  for (size_t i = 0; i < 16; ++i) {
    double miss = std::fabs(double{t.unit} * (t.steps[i] - 128) - t.values[i]) / largest;
    furthest = std::max(furthest, miss);
    squares += miss * miss;
  }
  EXPECT_FLOAT_EQ(t.error, static_cast<float>(furthest));
  EXPECT_LT(furthest, 0.5 / 127);
  EXPECT_LT(std::sqrt(squares / 16), 0.0018);
}

TEST(CodeTable, KeepsWholeValuesExactly) {
  for (const char* id : {"iq4_nl", "mxfp4"}) {
    Weight none;
    none.shape = {1, 32};
    EXPECT_EQ(encoding(id).code_layout(none).table->error, 0) << id;
  }
}

// One rounding of the largest term for scale·code, one for the sum.
TEST_P(Contract, CodesAgreeWithDecode) {
  for (const Shape& s : shapes()) {
    int64_t n = s[0], k = s[1];
    Weight w = encode(random_values(n * k, 5), n, k);
    CodeLayout layout = e().code_layout(w);
    if (layout.bits == 0) continue;
    ASSERT_TRUE(layout.bits == 4 || layout.bits == 8);
    ASSERT_TRUE(layout.group > 0 && layout.group % 16 == 0 && k % layout.group == 0);
    ASSERT_TRUE(layout.bits == 4 || (layout.table == nullptr && layout.zero == 0));
    if (layout.table != nullptr) check_steps(*layout.table);
    auto groups = static_cast<size_t>(k / layout.group);
    std::vector<uint8_t> codes(static_cast<size_t>(k));
    Tensor y = decode_weight(w);
    for (int64_t r = 0; r < n; ++r) {
      std::vector<float> scales(groups, NAN), mins(groups, layout.mins ? NAN : 0.0f);
      e().codes(w, r, codes.data(), scales.data(), mins.data());
      for (size_t g = 0; g < groups; ++g)
        for (float v : {scales[g], mins[g]})
          ASSERT_TRUE(!layout.f16_exact || to_f32(to_f16(v)) == v);
      for (int64_t i = 0; i < k; ++i) {
        auto g = static_cast<size_t>(i / layout.group);
        uint8_t code = codes[static_cast<size_t>(i)];
        ASSERT_TRUE(layout.bits == 8 || code < 16);
        float unit = layout.table       ? layout.table->values[code]
                     : layout.bits == 8 ? static_cast<float>(static_cast<int8_t>(code))
                                        : static_cast<float>(code - layout.zero);
        float value = scales[g] * unit + mins[g];
        float term = std::max(std::fabs(scales[g] * unit), std::fabs(mins[g]));
        ASSERT_NEAR(value, y.data<float>()[r * k + i], term * 0x1p-22f) << r << ", " << i;
      }
    }
  }
}

TEST_P(Contract, PermutesRowsOrSaysWhyNot) {
  for (const Shape& s : shapes()) {
    int64_t n = s[0], k = s[1];
    Weight w = encode(random_values(n * k, 6), n, k);
    std::vector<int64_t> order;
    for (int64_t r = 0; r < n; ++r) order.push_back((r * 5 + 3) % n);
    order.push_back(0);
    Tensor y = decode_weight(w);
    try {
      Weight permuted = e().permute_rows(w, order);
      e().validate(permuted);
      Tensor z = decode_weight(permuted);
      for (size_t r = 0; r < order.size(); ++r) {
        auto at = static_cast<int64_t>(r);
        ASSERT_TRUE(same_bytes(y.rows(order[r], order[r] + 1), z.rows(at, at + 1))) << r;
      }
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::unsupported) << error.what();
    }
    std::vector<int64_t> outside = {n};
    EXPECT_THROW(e().permute_rows(w, outside), Error);
  }
}

void expect_corrupt(const Encoding& e, const Weight& w, const std::string& what) {
  try {
    e.validate(w);
    ADD_FAILURE() << what << " was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::corrupt) << what << ": " << error.what();
  }
}

TEST_P(Contract, RefusesPlanesThatDoNotFit) {
  if (!writes(6, 512)) GTEST_SKIP() << "read only";
  const Weight good = encode(random_values(6 * 512, 7), 6, 512);
  e().validate(good);
  for (const auto& [name, plane] : good.planes) {
    Weight w = good;
    w.planes.erase(name);
    if (!(name == "scale" || name == "nested_map")) expect_corrupt(e(), w, "no " + name);
    w = good;
    w.planes[name] = plane.reshape({plane.numel()}).rows(0, plane.numel() - 1);
    expect_corrupt(e(), w, "a shorter " + name);
    w.planes[name] = Tensor::zeros(plane.shape(), DType::i64);
    expect_corrupt(e(), w, "another type of " + name);
  }
  for (Shape shape : {Shape{}, Shape{6, 513}, Shape{7, 512}, Shape{6, 1024}, Shape{-6, -512},
                      Shape{int64_t{1} << 40, int64_t{1} << 40}, Shape{6, INT64_MAX}}) {
    Weight w = good;
    w.shape = shape;
    expect_corrupt(e(), w, "the shape " + shape_string(shape));
  }
}

// Planes of exactly their size and, where they are bytes, of any content: under AddressSanitizer a
// read outside them ends the test.
TEST_P(Contract, ReadsNothingOutsideItsPlanes) {
  for (const Shape& s : shapes()) {
    Weight w = encode(random_values(s[0] * s[1], 8), s[0], s[1]);
    std::mt19937 bits(9);
    for (auto& [name, plane] : w.planes) {
      auto bytes =
          std::make_shared<std::vector<std::byte>>(plane.raw(), plane.raw() + plane.byte_size());
      if (plane.dtype() == DType::u8)
        for (std::byte& b : *bytes) b = static_cast<std::byte>(bits());
      plane = Tensor::borrow(plane.shape(), plane.dtype(), *bytes, bytes);
    }
    EXPECT_NO_THROW(decode_weight(w));
    CodeLayout layout = e().code_layout(w);
    if (layout.bits == 0) continue;
    auto groups = static_cast<size_t>(s[1] / layout.group);
    std::vector<uint8_t> codes(static_cast<size_t>(s[1]));
    std::vector<float> scales(groups), mins(groups);
    for (int64_t r = 0; r < s[0]; ++r) e().codes(w, r, codes.data(), scales.data(), mins.data());
  }
}

INSTANTIATE_TEST_SUITE_P(Encodings, Contract, ::testing::ValuesIn(make_cases()),
                         [](const auto& info) { return info.param.name; });

TEST(Registry, NamesTheKnownOnesInItsError) {
  try {
    encoding("q9_z");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unsupported);
    EXPECT_NE(std::string(error.what()).find("q4_0"), std::string::npos);
  }
}

}  // namespace
}  // namespace hone
