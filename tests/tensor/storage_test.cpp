#include "tensor/storage.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace hone {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

TEST(Storage, SmallIsAlignedAndWritable) {
  for (size_t size : {size_t{0}, size_t{1}, size_t{63}, size_t{65}, kHugePage - 1}) {
    auto p = allocate_storage(size);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p.get()) % 64, 0u) << size;
    std::memset(p.get(), 1, size);
  }
}

TEST(Storage, LargeStartsOnAHugePageAndIsHandedOutAgain) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer's own allocator, with its red zones, gives all but the largest";
#endif
  const void* first = nullptr;
  {
    auto p = allocate_storage(kHugePage + 5);
    first = p.get();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % kHugePage, 0u);
    std::memset(p.get(), 1, kHugePage + 5);
  }
  auto other = allocate_storage(3 * kHugePage);
  EXPECT_NE(other.get(), first);
  auto again = allocate_storage(kHugePage + 7);  // the same pages hold it
  EXPECT_EQ(again.get(), first);
}

TEST(Storage, ManyLiveBlocksDoNotOverlap) {
  std::vector<std::shared_ptr<void>> live;
  for (int i = 0; i < 20; ++i) {
    live.push_back(allocate_storage(kHugePage + 4096));
    std::memset(live.back().get(), i, kHugePage + 4096);
    if (i % 3 == 2) live[i - 1] = nullptr;
  }
  for (int i = 0; i < 20; ++i) {
    if (live[i] == nullptr) continue;
    auto* bytes = static_cast<const uint8_t*>(live[i].get());
    for (size_t at = 0; at < kHugePage + 4096; at += 1000) ASSERT_EQ(bytes[at], i);
  }
}

TEST(Storage, SmallLastingBlocksShareHugePages) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer's own allocator, with its red zones, gives all but the largest";
#endif
  constexpr size_t kSize = 100'001;
  std::vector<std::shared_ptr<void>> live;
  for (int i = 0; i < 400; ++i) {  // more than one mapping of 16 MB
    live.push_back(allocate_lasting(kSize));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(live.back().get()) % 64, 0u);
    std::memset(live.back().get(), i % 251, kSize);
  }
  int neighbours = 0;
  for (int i = 1; i < 400; ++i) {
    auto gap = static_cast<uint8_t*>(live[i].get()) - static_cast<uint8_t*>(live[i - 1].get());
    neighbours += gap >= static_cast<ptrdiff_t>(kSize) && gap < static_cast<ptrdiff_t>(kSize) + 64;
  }
  EXPECT_GE(neighbours, 395);
  // The others stay when some are freed.
  for (int i = 0; i < 400; ++i)
    if (i % 7 != 0) live[i] = nullptr;
  auto fresh = allocate_lasting(kSize);
  std::memset(fresh.get(), 255, kSize);
  for (int i = 0; i < 400; i += 7)
    for (size_t at = 0; at < kSize; at += 1000)
      ASSERT_EQ(static_cast<const uint8_t*>(live[i].get())[at], i % 251);
}

// More than waits otherwise: 80 blocks of 1 MB, each with pages of its own.
TEST(Storage, WhileReusedAllThatWasFreedIsHandedOutAgain) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer's own allocator, with its red zones, gives all but the largest";
#endif
  constexpr int kBlocks = 80;
  constexpr size_t kSize = size_t{1} << 20;
  auto again = [] {
    int same = 0;
    for (int pass = 0; pass < 2; ++pass) {
      std::vector<std::shared_ptr<void>> live;
      for (int i = 0; i < kBlocks; ++i) {
        live.push_back(allocate_storage(kSize));
        // A page that has been written to says so.
        auto* marks = static_cast<int*>(live.back().get());
        same += pass == 1 && *marks == 77;
        *marks = 77;
      }
    }
    return same;
  };
  reset_storage_peak();
  EXPECT_LE(again(), 64);
  {
    StorageReuse reuse;
    EXPECT_EQ(again(), kBlocks);
  }
  // Back to what waits otherwise.
  EXPECT_LT(again(), kBlocks);
}

TEST(Storage, RefusesWhatCannotBe) {
  for (size_t size : {SIZE_MAX, SIZE_MAX / 2, size_t{1} << 55}) {
    try {
      allocate_storage(size);
      FAIL() << size;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::out_of_memory);
    }
  }
}

}  // namespace
}  // namespace hone
