// int_group and its grid: GPTQ's conventions, the bit stream, act-order.
#include "encodings/encodings_testing.h"
#include "encodings/int_grid.h"

namespace hone {
namespace {

TEST(IntGrid, FollowsGptqsReference) {
  SafetensorsFile file = golden("int_grid");
  Tensor x = file.tensor("x");
  int64_t n = x.dim(0), k = x.dim(1);
  for (int bits : {2, 3, 4, 8})
    for (bool symmetric : {true, false})
      for (bool mse : {true, false}) {
        std::string key =
            std::to_string(bits) + (symmetric ? ".sym" : ".asym") + (mse ? ".mse" : ".range");
        Tensor scales = file.tensor(key + ".scales"), zeros = file.tensor(key + ".zeros");
        Tensor codes = file.tensor(key + ".codes");
        for (int64_t r = 0; r < n; ++r) {
          const float* row = x.data<float>() + r * k;
          Grid grid = find_grid(row, k, 1, {.bits = bits, .symmetric = symmetric, .mse = mse});
          ASSERT_EQ(grid.scale, scales.data<float>()[r]) << key << " row " << r;
          ASSERT_EQ(grid.zero, zeros.data<uint8_t>()[r]) << key << " row " << r;
          for (int64_t i = 0; i < k; ++i)
            ASSERT_EQ(grid_code(row[i], grid, (1 << bits) - 1), codes.data<uint8_t>()[r * k + i])
                << key << " row " << r << " column " << i;
        }
      }
}

TEST(IntGrid, ReadsAColumnByItsStride) {
  std::vector<float> x = random_values(60, 1), column;
  for (int i = 0; i < 20; ++i) column.push_back(x[i * 3]);
  Grid strided = find_grid(x.data(), 20, 3, {}), plain = find_grid(column.data(), 20, 1, {});
  EXPECT_EQ(strided.scale, plain.scale);
}

TEST(IntGrid, ScalesStayUsable) {
  for (DType type : {DType::f16, DType::bf16, DType::f32})
    for (float value : {0.0f, 1e-45f, 1e-12f, 3e38f}) {
      std::vector<float> x(8, value);
      x[1] = -value;
      Grid grid = find_grid(x.data(), 8, 1, {.bits = 4, .symmetric = false, .scale_type = type});
      EXPECT_GT(grid.scale, 0);
      EXPECT_TRUE(std::isfinite(grid.scale));
      EXPECT_EQ(grid.scale, round_scale(grid.scale, type));
      EXPECT_GE(grid.zero, 0);
      EXPECT_LE(grid.zero, 15);
    }
}

TEST(IntGrid, PackedCodesAreABitStream) {
  for (int bits = 2; bits <= 8; ++bits)
    for (int64_t n : {1, 7, 8, 9, 33, 64}) {
      std::vector<uint8_t> codes(static_cast<size_t>(n));
      for (int64_t i = 0; i < n; ++i) codes[i] = static_cast<uint8_t>((i * 37 + 11) % (1 << bits));
      std::vector<uint8_t> bytes(static_cast<size_t>(packed_size(n, bits)), 0xff);
      pack_codes(codes.data(), n, bits, bytes.data());
      for (int64_t i = 0; i < n * bits; ++i) {
        int expected = codes[i / bits] >> (i % bits) & 1;
        ASSERT_EQ(bytes[i / 8] >> (i % 8) & 1, expected) << bits << " bits, bit " << i;
      }
      std::vector<uint8_t> back(codes.size());
      unpack_codes(bytes.data(), n, bits, back.data());
      EXPECT_EQ(back, codes) << bits << " bits";
    }
}

/// 3 rows of 40 columns in 3 groups of 16, the last one shorter.
Weight small_weight(bool symmetric) {
  std::vector<float> x = random_values(120, 2);
  return encoding("int_group")
      .encode(x.data(), 3, 40, with({.bits = 3, .group = 16, .symmetric = symmetric}));
}

TEST(IntGroup, DecodesByItsDefinition) {
  for (bool symmetric : {true, false}) {
    Weight w = small_weight(symmetric);
    EXPECT_EQ(w.plane("scales").shape(), (Shape{3, 3}));
    EXPECT_EQ(w.planes.count("zeros"), symmetric ? 0u : 1u);
    Tensor y = decode_weight(w);
    for (int64_t r = 0; r < 3; ++r) {
      std::vector<uint8_t> codes(40);
      unpack_codes(w.plane("codes").data<uint8_t>() + r * 15, 40, 3, codes.data());
      for (int64_t i = 0; i < 40; ++i) {
        float scale = to_f32(w.plane("scales").data<f16>()[r * 3 + i / 16]);
        int zero = symmetric ? 4 : w.plane("zeros").data<uint8_t>()[r * 3 + i / 16];
        EXPECT_EQ(y.data<float>()[r * 40 + i], scale * static_cast<float>(codes[i] - zero));
      }
    }
  }
}

TEST(IntGroup, ActOrderAssignsColumnsToGroups) {
  Weight w = small_weight(false);
  Tensor natural = decode_weight(w);
  std::vector<int32_t> g_idx(40);
  for (int i = 0; i < 40; ++i) g_idx[i] = i / 16;
  w.params.act_order = true;
  EXPECT_THROW(encoding("int_group").validate(w), Error);  // the plane is missing
  w.planes["g_idx"] = Tensor::from(g_idx);
  EXPECT_TRUE(same_bytes(natural, decode_weight(w)));
  EXPECT_EQ(encoding("int_group").code_layout(w).bits, 0);

  std::swap(g_idx[0], g_idx[39]);
  w.planes["g_idx"] = Tensor::from(g_idx);
  EXPECT_FALSE(same_bytes(natural, decode_weight(w)));
  for (int32_t outside : {-1, 3}) {
    g_idx[5] = outside;
    w.planes["g_idx"] = Tensor::from(g_idx);
    EXPECT_THROW(decode_weight(w), Error) << outside;
  }
}

TEST(IntGroup, PermutingRowsKeepsTheColumnsGroups) {
  std::vector<float> x = random_values(16 * 16, 3);
  Weight w = encoding("int_group").encode(x.data(), 16, 16, with({.bits = 4, .group = 4}));
  std::vector<int32_t> g_idx(16);
  for (int i = 0; i < 16; ++i) g_idx[i] = i % 4;
  w.params.act_order = true;
  w.planes["g_idx"] = Tensor::from(g_idx);
  std::vector<int64_t> order;
  for (int64_t r = 15; r >= 0; --r) order.push_back(r);
  Weight permuted = encoding("int_group").permute_rows(w, order);
  Tensor y = decode_weight(w), z = decode_weight(permuted);
  for (int64_t r = 0; r < 16; ++r)
    EXPECT_TRUE(same_bytes(y.rows(15 - r, 16 - r), z.rows(r, r + 1)));
}

TEST(IntGroup, RefusesParametersThatMakeNoSense) {
  std::vector<float> x(64, 1.0f);
  const Encoding& e = encoding("int_group");
  std::vector<WeightParams> bad = {{.bits = 1},
                                   {.bits = 9},
                                   {.bits = 4, .group = -1},
                                   {.bits = 4, .act_order = true},
                                   {.bits = 4, .scale_type = DType::u8}};
  for (const WeightParams& params : bad) {
    EXPECT_FALSE(e.encode_refusal(1, 64, params).empty());
    EXPECT_THROW(e.encode(x.data(), 1, 64, with(params)), Error);
  }
  Weight w = small_weight(true);
  for (int64_t group : {int64_t{-1}, int64_t{8}, INT64_MAX}) {
    w.params.group = group;
    EXPECT_THROW(e.validate(w), Error) << group;
  }
  w = small_weight(true);
  w.params.bits = 70;
  EXPECT_THROW(e.validate(w), Error);
}

}  // namespace
}  // namespace hone
