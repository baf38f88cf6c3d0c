// Tensor: who owns bytes, who shares them, and what is refused.
#include "tensor/tensor.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

#include "testing.h"

namespace hone {
namespace {

TEST(Tensor, CopiesOfAHandleShareBytes) {
  Tensor a = Tensor::from<float>({1, 2, 3, 4, 5, 6}, {3, 2});
  Tensor b = a, c = a.clone();
  b.mutable_data<float>()[0] = 9;
  EXPECT_EQ(a.data<float>()[0], 9);
  EXPECT_EQ(c.data<float>()[0], 1);
  EXPECT_EQ(c.shape(), a.shape());
  EXPECT_EQ(a.dim(-1), 2);
  EXPECT_EQ(a.byte_size(), 24);
}

TEST(Tensor, RowsAreAView) {
  Tensor a = Tensor::from<int32_t>({0, 1, 2, 3, 4, 5, 6, 7}, {4, 2});
  Tensor middle = a.rows(1, 3);
  EXPECT_EQ(middle.shape(), (Shape{2, 2}));
  EXPECT_EQ(middle.data<int32_t>(), a.data<int32_t>() + 2);
  middle.mutable_data<int32_t>()[3] = 50;
  EXPECT_EQ(a.data<int32_t>()[5], 50);
  EXPECT_EQ(middle.clone().data<int32_t>()[3], 50);
  EXPECT_EQ(a.rows(4, 4).numel(), 0);
  EXPECT_EQ(a.reshape({8}).rows(7, 8).data<int32_t>()[0], 7);
  EXPECT_THROW(a.rows(3, 5), Error);
  EXPECT_THROW(a.rows(3, 2), Error);
  EXPECT_THROW(a.rows(-1, 2), Error);
  EXPECT_THROW(a.reshape({3, 3}), Error);
}

TEST(Tensor, ViewsKeepTheirStorage) {
  Tensor row;
  {
    Tensor a = Tensor::from<float>(std::vector<float>(1 << 20, 3.0f), {1 << 10, 1 << 10});
    row = a.rows(1023, 1024);
  }
  EXPECT_EQ(row.data<float>()[1023], 3.0f);
}

TEST(Tensor, BorrowsReadOnlyAndKeepsTheOwner) {
  auto owner = std::make_shared<std::vector<float>>(6, 2.0f);
  std::weak_ptr<std::vector<float>> watch = owner;
  auto bytes = std::as_bytes(std::span(*owner));
  Tensor a = Tensor::borrow({2, 3}, DType::f32, bytes, owner);
  owner.reset();
  EXPECT_FALSE(watch.expired());
  EXPECT_TRUE(a.borrowed());
  EXPECT_TRUE(a.rows(0, 1).borrowed());
  EXPECT_THROW(a.mutable_data<float>(), Error);
  EXPECT_THROW(a.mutable_raw(), Error);
  Tensor copy = a.clone();
  EXPECT_FALSE(copy.borrowed());
  copy.mutable_data<float>()[0] = 1;
  EXPECT_EQ(a.data<float>()[0], 2);
  a = Tensor();
  EXPECT_TRUE(watch.expired());
}

TEST(Tensor, RefusesToBorrowWhatDoesNotFit) {
  alignas(8) std::byte bytes[17] = {};
  EXPECT_THROW(Tensor::borrow({3}, DType::f32, {bytes, 16}, nullptr), Error);
  EXPECT_THROW(Tensor::borrow({5}, DType::f32, {bytes, 16}, nullptr), Error);
  EXPECT_THROW(Tensor::borrow({2}, DType::f64, {bytes + 1, 16}, nullptr), Error);
  EXPECT_THROW(Tensor::borrow({-4}, DType::f32, {bytes, 16}, nullptr), Error);
  EXPECT_THROW(Tensor::borrow({int64_t{1} << 62, 16}, DType::u8, {bytes, 0}, nullptr), Error);
  EXPECT_NO_THROW(Tensor::borrow({16}, DType::u8, {bytes + 1, 16}, nullptr));
}

TEST(Tensor, RefusesSizesThatCannotBe) {
  EXPECT_THROW(Tensor::empty({-1}, DType::f32), Error);
  EXPECT_THROW(Tensor::empty({int64_t{1} << 40, int64_t{1} << 40}, DType::u8), Error);
  EXPECT_THROW(Tensor::empty({int64_t{1} << 61}, DType::f64), Error);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  try {  // 4 EB: more than any address space
    Tensor::empty({int64_t{1} << 60}, DType::f32);
    FAIL() << "must throw";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::out_of_memory);
  }
#endif
}

TEST(Tensor, IsAlignedAndMayBeEmpty) {
  for (int64_t n : {1, 100, 1 << 22}) {
    Tensor a = Tensor::zeros({n}, DType::u8);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(a.raw()) % 64, 0u);
    for (int64_t i = 0; i < n; i += 997) EXPECT_EQ(a.data<uint8_t>()[i], 0);
  }
  Tensor none = Tensor::zeros({0, 5}, DType::f32);
  EXPECT_TRUE(none.defined());
  EXPECT_EQ(none.clone().shape(), (Shape{0, 5}));
  EXPECT_EQ(none.rows(0, 0).numel(), 0);
  Tensor scalar = Tensor::zeros({}, DType::f32);
  EXPECT_EQ(scalar.numel(), 1);
  EXPECT_EQ(scalar.data<float>()[0], 0);
  EXPECT_TRUE(Tensor().empty_handle());
  EXPECT_THROW(scalar.data<int32_t>(), Error);
}

TEST(Tensor, ConvertsBetweenAllFloatTypes) {
  // Values that every type holds exactly.
  const std::vector<float> values = {0, -0.0f, 1, -1.5f, 0.25f, -448, 0.015625f};
  const DType types[] = {DType::f32,  DType::f64,     DType::f16,
                         DType::bf16, DType::f8_e4m3, DType::f8_e5m2};
  Tensor a = Tensor::from(values);
  for (DType from : types)
    for (DType to : types) {
      Tensor b = a.to(from).to(to).to(DType::f32);
      EXPECT_EQ(std::memcmp(b.raw(), a.raw(), static_cast<size_t>(a.byte_size())), 0)
          << dtype_name(from) << " to " << dtype_name(to);
    }
  EXPECT_THROW(a.to(DType::i32), Error);
  EXPECT_THROW(Tensor::from<int32_t>({1}).to(DType::f32), Error);
}

TEST(Tensor, DoublesKeepTheirBits) {
  const std::vector<double> values = {1e300, -1e-300, 0.1, std::nan(""), INFINITY};
  Tensor a = Tensor::from(values);
  EXPECT_EQ(std::memcmp(a.clone().raw(), a.raw(), 40), 0);
  Tensor b = a.to(DType::f32);
  EXPECT_EQ(b.data<float>()[0], INFINITY);
  EXPECT_EQ(b.data<float>()[1], 0);
  EXPECT_EQ(b.data<float>()[2], 0.1f);
  EXPECT_TRUE(std::isnan(b.data<float>()[3]));
}

}  // namespace
}  // namespace hone
