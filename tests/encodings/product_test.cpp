// Products with packed weights of every encoding against the decoded weight, on every instruction
// set: the code panels, their expansion, and int8 activations.
#include "encodings/product.h"

#include <fstream>

#include "base/files.h"
#include "base/threads.h"
#include "gradients.h"
#include "kernels/ref/ref.h"
#include "kernels/select.h"
#include "ops/dense.h"
#include "tables.h"
#include "testing.h"

namespace hone {
namespace {

using testing::Doubles;
using testing::expect_gradients;
using testing::random_tensor;
using testing::relative_distance;

struct ProductCase {
  std::string encoding;
  WeightParams params;
};

std::vector<ProductCase> cases() {
  std::vector<ProductCase> all;
  for (const Encoding* e : encodings()) {
    WeightParams p;
    if (e->id() == "nf4" || e->id() == "fp4") p.block = 64;
    if (e->id() != "int_group") {
      if (e->encode_refusal(50, 256, p).empty()) all.push_back({std::string(e->id()), p});
      continue;
    }
    for (int bits : {2, 3, 4, 5, 8})
      for (bool symmetric : {true, false})
        for (int64_t group : {0, 64, 48}) {
          p.bits = bits;
          p.symmetric = symmetric;
          p.group = group;
          all.push_back({"int_group", p});
        }
  }
  return all;
}

class ProductTest : public ::testing::TestWithParam<ProductCase> {
 protected:
  void TearDown() override { kernels::set_table(table_); }
  const kernels::KernelTable& table_ = kernels::table();  // what --isa may have forced
};

TEST_P(ProductTest, EqualsTheDecodedWeightOnEveryInstructionSet) {
  // 144 columns are chunks of 16 in groups of 48 and of 144.
  for (int64_t k : {256, 144}) {
    const int64_t t = 15, n = 50;
    if (!encoding(GetParam().encoding).encode_refusal(n, k, GetParam().params).empty()) continue;
    Tensor values = random_tensor({n, k}, 1), x = random_tensor({t, k}, 2),
           bias = random_tensor({n}, 3);
    EncodeOptions options;
    options.params = GetParam().params;
    Weight w = encoding(GetParam().encoding).encode(values.data<float>(), n, k, options);
    Tensor decoded = decode_weight(w);
    std::vector<float> expected(t * n);
    kernels::ref::gemm(x.data<float>(), decoded.data<float>(), bias.data<float>(), t, n, k,
                       expected.data());
    for (const auto* table : testing::tested_tables()) {
      kernels::set_table(*table);
      PackedWeight packed = pack_weight(w);
      EXPECT_EQ(packed.bytes.byte_size(), packed_bytes(w));
      Tensor y = multiply(LinearInput(x), packed, bias, Activations::f32);
      EXPECT_LT(relative_distance(y.data<float>(), expected.data(), t * n), 3e-6)
          << table->isa << " " << k;
      // int8 activations: the error of rounding x to 1/254 of its largest value in 32 columns.
      Tensor z = multiply(LinearInput(x), packed, bias, Activations::int8);
      EXPECT_LT(relative_distance(z.data<float>(), expected.data(), t * n), 0.012)
          << table->isa << " " << k;
    }
  }
}

// Groups of every kind that the integer kernels tell apart do reach them.
TEST(Product, GroupsOfAnyMultipleOf16HaveAnIntegerForm) {
  for (auto [group, k] :
       {std::pair<int64_t, int64_t>{16, 144}, {48, 144}, {0, 144}, {32, 256}, {64, 256}}) {
    Tensor values = random_tensor({20, k}, 1);
    EncodeOptions options;
    options.params.bits = 4;
    options.params.group = group;
    PackedWeight p =
        pack_weight(encoding("int_group").encode(values.data<float>(), 20, k, options));
    EXPECT_TRUE(p.coded) << group << " of " << k;
  }
}

// A gated product is the gate of two whole products, in blocks of tokens and with rests.
TEST(Product, GatedIsThePairOfTheTwo) {
  const int64_t t = 300, n = 150, k = 64;
  Tensor x = random_tensor({t, k}, 1), none;
  auto pack = [&](uint32_t seed) {
    Tensor values = random_tensor({n, k}, seed);
    EncodeOptions options;
    options.params.bits = 4;
    options.params.group = 32;
    return pack_weight(encoding("int_group").encode(values.data<float>(), n, k, options));
  };
  PackedWeight gate = pack(2), up = pack(3);
  for (Activations a : {Activations::f32, Activations::int8}) {
    LinearInput in(x);
    Tensor g = multiply(in, gate, none, a), u = multiply(in, up, none, a);
    Tensor expected = Tensor::empty({t, n}, DType::f32);
    for (int64_t r = 0; r < t; ++r)
      kernels::table().silu_mul(g.data<float>() + r * n, u.data<float>() + r * n, n,
                                expected.mutable_data<float>() + r * n);
    Tensor y = multiply_gated(in, {&gate, &none}, {&up, &none}, kernels::table().silu_mul, a);
    EXPECT_LT(relative_distance(y.data<float>(), expected.data<float>(), t * n), 1e-6);
  }
}

// An activation that is not a number must not vanish in a rounding.
TEST(Product, ActivationsThatAreNoNumbersComeOutAsNone) {
  const int64_t t = 3, n = 20, k = 64;
  Tensor values = random_tensor({n, k}, 4), none;
  EncodeOptions options;
  options.params.bits = 4;
  options.params.group = 32;
  PackedWeight w = pack_weight(encoding("int_group").encode(values.data<float>(), n, k, options));
  const kernels::KernelTable& before = kernels::table();
  for (const auto* table : testing::tested_tables()) {
    kernels::set_table(*table);
    for (float bad : {NAN, INFINITY, -INFINITY})
      for (int64_t at : {0, 5, 31, 40}) {
        Tensor x = random_tensor({t, k}, 5);
        x.mutable_data<float>()[k + at] = bad;
        Tensor y = multiply(LinearInput(x), w, none, Activations::int8);
        for (int64_t i = 0; i < n; ++i) {
          EXPECT_TRUE(std::isfinite(y.data<float>()[i]));
          EXPECT_FALSE(std::isfinite(y.data<float>()[n + i]))
              << table->isa << " " << bad << " " << at;
        }
      }
    // Subnormal activations count as zeros, and do no harm.
    Tensor x = Tensor::zeros({1, k}, DType::f32);
    x.mutable_data<float>()[3] = 1e-40f;
    Tensor y = multiply(LinearInput(x), w, none, Activations::int8);
    for (int64_t i = 0; i < n; ++i) EXPECT_EQ(y.data<float>()[i], 0) << table->isa;
  }
  kernels::set_table(before);
}

TEST_P(ProductTest, IntegerSumsAreTheSameOnEveryInstructionSet) {
  const int64_t t = 5, n = 20, k = 256;
  Tensor values = random_tensor({n, k}, 4), x = random_tensor({t, k}, 5);
  EncodeOptions options;
  options.params = GetParam().params;
  Weight w = encoding(GetParam().encoding).encode(values.data<float>(), n, k, options);
  std::vector<float> first;
  for (const auto* table : testing::tested_tables()) {
    kernels::set_table(*table);
    Tensor y = multiply(LinearInput(x), pack_weight(w), {}, Activations::int8);
    std::vector<float> now(y.data<float>(), y.data<float>() + y.numel());
    if (first.empty()) first = now;
    EXPECT_LT(relative_distance(now.data(), first.data(), t * n), 2e-6) << table->isa;
  }
}

TEST_P(ProductTest, RowsDoNotDependOnBatchOrThreads) {
  const int64_t t = 37, n = 300, k = 256;
  Tensor values = random_tensor({n, k}, 6), x = random_tensor({t, k}, 7);
  EncodeOptions options;
  options.params = GetParam().params;
  PackedWeight w =
      pack_weight(encoding(GetParam().encoding).encode(values.data<float>(), n, k, options));
  kernels::prefer_bf16_dots(true);  // else bf16 runs as f32 does
  for (const auto* table : testing::tested_tables())
    for (Activations a : {Activations::f32, Activations::int8}) {
      kernels::set_table(*table);
      set_threads(1);
      Tensor all = multiply(LinearInput(x), w, {}, a);
      set_threads(0);
      // Batches of one, two and four tokens, which have code of their own.
      for (int64_t r = 0, rows = 1; r + rows <= t; r += rows, rows = r == 2 ? 4 : r == 6 ? 2 : 1) {
        Tensor some = multiply(LinearInput(x.rows(r, r + rows).clone()), w, {}, a);
        ASSERT_EQ(0, std::memcmp(some.raw(), all.rows(r, r + rows).raw(), rows * n * 4))
            << table->isa << ", " << rows << " rows from " << r;
      }
    }
  kernels::prefer_bf16_dots(false);
}

// dy·W of what the codes stand for, on odd numbers of rows and beyond the part that is expanded at
// once.
TEST_P(ProductTest, WhatFlowsBackIsTheExactWeight) {
  EncodeOptions options;
  options.params = GetParam().params;
  for (auto [t, n, k] : {std::tuple(1, 5, 256), {7, 37, 512}, {3, 1040, 256}}) {
    Tensor values = random_tensor({n, k}, 8), dy = random_tensor({t, n}, 9);
    Weight w = encoding(GetParam().encoding).encode(values.data<float>(), n, k, options);
    Tensor decoded = decode_weight(w);
    std::vector<float> expected(static_cast<size_t>(t * k));
    for (int64_t r = 0; r < t; ++r)
      for (int64_t c = 0; c < k; ++c) {
        double sum = 0;
        for (int64_t i = 0; i < n; ++i)
          sum += double{dy.data<float>()[r * n + i]} * decoded.data<float>()[i * k + c];
        expected[r * k + c] = static_cast<float>(sum);
      }
    for (const auto* table : testing::tested_tables()) {
      kernels::set_table(*table);
      Tensor dx = multiply_transposed(dy, pack_weight(w));
      EXPECT_LT(relative_distance(dx.data<float>(), expected.data(), t * k), 2e-6)
          << table->isa << " " << t << " " << n;
    }
  }
}

// Mixed precision of bf16 by dots of bf16 and by f32 of rounded operands: results, and what flows
// back to the input, the weight and the bias. Sums are in another order, and what codes stand for
// is rounded to bf16 for dots alone: half of its 8 bits of fraction.
TEST_P(ProductTest, DotsOfBf16AreRoundedProducts) {
  EncodeOptions options;
  options.params = GetParam().params;
  for (auto [t, n, k] : {std::tuple(2, 6, 256), {34, 1042, 512}, {6, 37, 256}, {7, 96, 256}}) {
    Tensor x = random_tensor({t, k}, 1), values = random_tensor({n, k}, 2, 0.3f);
    Tensor dy = random_tensor({t, n}, 3);
    const Weight w = encoding(GetParam().encoding).encode(values.data<float>(), n, k, options);
    auto run = [&](bool dots, bool narrowed) {
      kernels::prefer_bf16_dots(dots);
      PackedWeight packed = pack_weight(w);
      // Panels of f32 are rounded when they are packed, or as adapters' are, when they multiply.
      if (narrowed) narrow(packed, kernels::kRoundBf16, "weight");
      EXPECT_EQ(packed.activations(Activations::bf16),
                kernels::uses_bf16_dots() && !(packed.type == DType::f16) ? "bf16" : "f32");
      Tensor trained = decode_weight(w), bias = random_tensor({n}, 4);
      trained.require_gradient();
      bias.require_gradient();
      const Product product{&packed, &bias, &trained};
      std::vector<Tensor> all = multiply_all(LinearInput(x), {&product, 1}, Activations::bf16);
      all.push_back(
          product_backward(dy.clone(), x, packed, trained, bias, true, Activations::bf16, "it"));
      all.push_back(gradient_of(trained).clone());
      all.push_back(gradient_of(bias).clone());
      kernels::prefer_bf16_dots(false);
      return all;
    };
    for (const auto* table : testing::tested_tables()) {
      kernels::set_table(*table);
      const auto plain = run(false, true);
      for (bool narrowed : {true, false}) {
        const auto dots = run(true, narrowed);
        for (size_t i = 0; i < plain.size(); ++i)
          EXPECT_LT(
              relative_distance(dots[i].data<float>(), plain[i].data<float>(), plain[i].numel()),
              8e-3)  // the last of 8 bits, and what codes lost
              << table->isa << " " << i << " " << n << " " << narrowed;
      }
    }
  }
}

// Gradients of x, the weight and the bias; several products of one input add up.
TEST(Products, GradientsEqualDifferences) {
  for (auto [t, n, k] : {std::tuple(1, 3, 5), {9, 20, 33}}) {
    expect_gradients(
        [&](const std::vector<Tensor>& in) {
          PackedWeight w = pack_weight(float_weight(in[1])), u = pack_weight(float_weight(in[3]));
          const Tensor none;
          const Product both[] = {{&w, &in[2], &in[1]}, {&u, &none, &in[3]}};
          std::vector<Tensor> y = multiply_all(LinearInput(in[0]), both, Activations::f32);
          return ops::silu_mul(y[0], y[1]);
        },
        [&](const std::vector<Doubles>& v) {
          Doubles y;
          for (int64_t r = 0; r < t; ++r)
            for (int64_t i = 0; i < n; ++i) {
              double a = v[2][i], b = 0;
              for (int64_t c = 0; c < k; ++c) {
                a += v[0][r * k + c] * v[1][i * k + c];
                b += v[0][r * k + c] * v[3][i * k + c];
              }
              y.push_back(a / (1 + std::exp(-a)) * b);
            }
          return y;
        },
        {random_tensor({t, k}, 1), random_tensor({n, k}, 2, 0.3f), random_tensor({n}, 3),
         random_tensor({n, k}, 4, 0.3f)});
  }
}

INSTANTIATE_TEST_SUITE_P(AllEncodings, ProductTest, ::testing::ValuesIn(cases()),
                         [](const auto& info) {
                           const ProductCase& c = info.param;
                           if (c.encoding != "int_group") return c.encoding;
                           return fmt::format("int{}_{}_g{}", c.params.bits,
                                              c.params.symmetric ? "sym" : "asym", c.params.group);
                         });

// Bytes of mapped files that are in this process's memory.
int64_t file_bytes_resident() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("RssFile:")) return 1024 * std::stoll(line.substr(8));
  return 0;
}

TEST(Product, APackedFileDoesNotStayInMemory) {
  constexpr int64_t kRows = 9001, kColumns = 640;
  testing::TemporaryDirectory scratch;
  Tensor values = random_tensor({kRows, kColumns}, 3);
  for (const char* id : {"f32", "q8_0", "q4_0"}) {
    Weight owned = id == std::string("f32")
                       ? float_weight(values)
                       : encoding(id).encode(values.data<float>(), kRows, kColumns, {});
    ASSERT_EQ(owned.planes.size(), 1u);
    const auto& [name, plane] = *owned.planes.begin();
    write_text_file(scratch / id,
                    {reinterpret_cast<const char*>(plane.raw()), size_t(plane.byte_size())});
    auto map = MappedFile::open(scratch / id);
    Weight mapped = owned;
    mapped.planes[name] = Tensor::borrow(plane.shape(), plane.dtype(), map->bytes(), map);
    PackedWeight expected = pack_weight(owned);
    int64_t before = file_bytes_resident();
    PackedWeight packed = pack_weight(mapped, true);
    EXPECT_LT(file_bytes_resident() - before, plane.byte_size() / 3) << id;
    ASSERT_EQ(packed.byte_size(), expected.byte_size());
    EXPECT_EQ(0, std::memcmp(packed.bytes.raw(), expected.bytes.raw(), size_t(packed.byte_size())))
        << id;
  }
}

}  // namespace
}  // namespace hone
