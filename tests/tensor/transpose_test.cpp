#include "tensor/transpose.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace hone {
namespace {

TEST(Transpose, MovesEveryItemOfEverySizeFromAnyAddress) {
  for (int64_t item : {1, 2, 4, 8})
    for (auto [rows, columns] : {std::pair<int64_t, int64_t>{1, 1}, {3, 50}, {50, 3}, {33, 65}}) {
      auto size = static_cast<size_t>(rows * columns * item);
      std::vector<std::byte> in(size + 1), out(size);
      for (size_t i = 0; i < size; ++i) in[i + 1] = static_cast<std::byte>(i * 7 + i / 256);
      transpose(in.data() + 1, rows, columns, item, out.data());
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c)
          ASSERT_EQ(0, std::memcmp(&out[static_cast<size_t>((c * rows + r) * item)],
                                   &in[static_cast<size_t>((r * columns + c) * item) + 1],
                                   static_cast<size_t>(item)))
              << item << " bytes, " << r << ", " << c;
    }
}

TEST(Transpose, KeepsTheType) {
  Tensor t = transposed(Tensor::from(std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3}));
  EXPECT_EQ(t.shape(), (Shape{3, 2}));
  EXPECT_EQ(t.data<float>()[1], 4);
  EXPECT_EQ(t.data<float>()[4], 3);
}

}  // namespace
}  // namespace hone
