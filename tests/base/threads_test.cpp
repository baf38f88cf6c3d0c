// The thread pool: every index once, whatever the sizes; errors come out; limits are heeded.
#include "base/threads.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "fake_system.h"

namespace hone {
namespace {

using testing::FakeSystem;

class Threads : public ::testing::Test {
 protected:
  void TearDown() override { set_threads(0); }
};

// Runs a test's body with each number of threads that this machine offers, up to four.
template <typename F>
void with_each_thread_count(F&& body) {
  for (int n = 1; n <= std::min(4, available_threads()); ++n) {
    set_threads(n);
    ASSERT_EQ(thread_count(), n);
    body(n);
  }
}

TEST_F(Threads, EachIndexOnce) {
  with_each_thread_count([](int threads) {
    for (int64_t n : {0, 1, 2, 3, 64, 1000, 1001})
      for (int64_t grain : {-1, 0, 1, 7, 999, 1000, 5000}) {
        std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
        const int64_t step = std::max<int64_t>(grain, 1);
        parallel_for(n, grain, [&](int64_t begin, int64_t end) {
          EXPECT_LT(begin, end);
          EXPECT_EQ(begin % step, 0);
          EXPECT_TRUE(end - begin == step || end == n);
          for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
        });
        for (const auto& count : seen)
          ASSERT_EQ(count, 1) << threads << " threads, n " << n << ", grain " << grain;
      }
  });
}

TEST_F(Threads, NothingToDoCallsNothing) {
  for (int64_t n : {int64_t{0}, int64_t{-5}})
    parallel_for(n, 1, [](int64_t, int64_t) { FAIL() << "no item, no call"; });
  int calls = 0;
  parallel_for(1, INT64_MAX, [&](int64_t begin, int64_t end) { calls += begin == 0 && end == 1; });
  EXPECT_EQ(calls, 1);
}

TEST_F(Threads, AllThreadsWork) {
  with_each_thread_count([](int threads) {
    std::atomic<int> here{0};
    // No item ends before all have begun, which takes as many threads as there are items.
    parallel_for(threads, 1, [&](int64_t, int64_t) {
      ++here;
      while (here < threads) std::this_thread::yield();
    });
    EXPECT_EQ(here, threads);
  });
}

TEST_F(Threads, WakesWorkersThatSleep) {
  for (int i = 0; i < 3; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // past their spinning
    std::atomic<int64_t> sum{0};
    parallel_for(100, 1, [&](int64_t begin, int64_t) { sum += begin; });
    EXPECT_EQ(sum, 4950);
  }
}

TEST_F(Threads, NestedLoopsRunInPlace) {
  with_each_thread_count([](int) {
    std::vector<std::atomic<int>> seen(30 * 40);
    parallel_for(30, 1, [&](int64_t row, int64_t) {
      const auto outer = std::this_thread::get_id();
      parallel_for(40, 3, [&](int64_t begin, int64_t end) {
        EXPECT_EQ(std::this_thread::get_id(), outer);
        for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(row * 40 + i)];
      });
    });
    for (const auto& count : seen) ASSERT_EQ(count, 1);
  });
}

TEST_F(Threads, SeveralCallersTakeTurns) {
  std::vector<std::atomic<int64_t>> sums(4);
  std::vector<std::thread> callers;
  for (auto& sum : sums)
    callers.emplace_back([&sum] {
      for (int k = 0; k < 50; ++k)
        parallel_for(100, 3, [&](int64_t begin, int64_t end) { sum += end - begin; });
    });
  for (auto& c : callers) c.join();
  for (const auto& sum : sums) EXPECT_EQ(sum, 5000);
}

TEST_F(Threads, ErrorsComeOutAndThePoolGoesOn) {
  with_each_thread_count([](int threads) {
    for (int64_t bad : {0, 17, 99}) {
      std::atomic<int> calls{0};
      auto body = [&](int64_t begin, int64_t) {
        ++calls;
        if (begin == bad) throw std::runtime_error("item " + std::to_string(begin));
      };
      try {
        parallel_for(100, 1, body);
        FAIL() << "must throw";
      } catch (const std::runtime_error& e) {
        EXPECT_EQ(e.what(), "item " + std::to_string(bad));
      }
      EXPECT_LE(calls, 100) << threads;
    }
    // All throw: one error comes out. A nested loop's error passes through both.
    EXPECT_THROW(parallel_for(64, 1, [](int64_t, int64_t) { throw std::logic_error("all"); }),
                 std::logic_error);
    EXPECT_THROW(parallel_for(8, 1,
                              [](int64_t, int64_t) {
                                parallel_for(8, 1, [](int64_t begin, int64_t) {
                                  if (begin == 5) throw std::logic_error("inner");
                                });
                              }),
                 std::logic_error);
    std::atomic<int64_t> sum{0};
    parallel_for(100, 1, [&](int64_t begin, int64_t) { sum += begin; });
    EXPECT_EQ(sum, 4950);
  });
}

TEST_F(Threads, ResultsDoNotDependOnTheirNumber) {
  std::vector<std::vector<float>> results;
  with_each_thread_count([&](int) {
    std::vector<float> sums(50);
    parallel_for(50, 4, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        for (int k = 1; k < 1000; ++k)
          sums[static_cast<size_t>(i)] +=
              std::sin(static_cast<float>(i * k)) / static_cast<float>(k);
    });
    results.push_back(sums);
  });
  for (const auto& r : results) EXPECT_EQ(r, results[0]);
}

TEST_F(Threads, SetThreadsKeepsToWhatThereIs) {
  const int all = available_threads();
  EXPECT_GE(all, 1);
  EXPECT_LE(all, static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  for (int n : {0, -3, all, all + 1, 1 << 30}) {
    set_threads(n);
    EXPECT_EQ(thread_count(), all);
  }
  set_threads(1);
  EXPECT_EQ(thread_count(), 1);
}

TEST_F(Threads, FollowsAffinity) {
  cpu_set_t before;
  ASSERT_EQ(::sched_getaffinity(0, sizeof(before), &before), 0);
  int first = 0;
  while (!CPU_ISSET(first, &before)) ++first;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  ASSERT_EQ(::sched_setaffinity(0, sizeof(one), &one), 0);
  EXPECT_EQ(available_threads(), 1);
  ASSERT_EQ(::sched_setaffinity(0, sizeof(before), &before), 0);
}

TEST_F(Threads, GoesOnWithFewerWhereNoMoreCanStart) {
  set_threads(1);
  pthread_attr_t before, huge;
  ASSERT_EQ(::pthread_getattr_default_np(&before), 0);
  ASSERT_EQ(::pthread_getattr_default_np(&huge), 0);
  // A stack beyond the address space: what a machine out of memory answers.
  ASSERT_EQ(::pthread_attr_setstacksize(&huge, size_t{1} << 50), 0);
  ASSERT_EQ(::pthread_setattr_default_np(&huge), 0);
  set_threads(2);
  ASSERT_EQ(::pthread_setattr_default_np(&before), 0);
  EXPECT_EQ(thread_count(), 1);
  std::atomic<int64_t> sum{0};
  parallel_for(100, 1, [&](int64_t begin, int64_t) { sum += begin; });
  EXPECT_EQ(sum, 4950);
}

TEST(QuotaThreads, AreAllWithoutAQuota) {
  FakeSystem system;
  EXPECT_GE(quota_threads(system.root()), 1 << 12);
  system.unified("/");
  EXPECT_GE(quota_threads(system.root()), 1 << 12);
  system.put("sys/fs/cgroup/cpu.max", "max 100000\n");
  EXPECT_GE(quota_threads(system.root()), 1 << 12);
}

TEST(QuotaThreads, AreTheLeastOverNestedGroupsOfVersion2) {
  FakeSystem system;
  system.unified("/user.slice/job.scope/inner");
  system.put("sys/fs/cgroup/user.slice/cpu.max", "400000 100000\n");
  EXPECT_EQ(quota_threads(system.root()), 4);
  system.put("sys/fs/cgroup/user.slice/job.scope/inner/cpu.max", "max 100000\n");
  EXPECT_EQ(quota_threads(system.root()), 4);
  system.put("sys/fs/cgroup/user.slice/job.scope/cpu.max", "140000 50000\n");
  EXPECT_EQ(quota_threads(system.root()), 2);
  system.put("sys/fs/cgroup/user.slice/job.scope/inner/cpu.max", "1000 100000\n");
  EXPECT_EQ(quota_threads(system.root()), 1);
  system.put("sys/fs/cgroup/other/cpu.max", "1 100000\n");
  EXPECT_EQ(quota_threads(system.root()), 1);
}

TEST(QuotaThreads, KnowVersion1) {
  FakeSystem system;
  system.version1("cpu", "/docker/abc", "/docker/abc");
  system.put("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  system.put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  EXPECT_GE(quota_threads(system.root()), 1 << 12);
  system.put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "300000\n");
  EXPECT_EQ(quota_threads(system.root()), 3);
}

TEST(QuotaThreads, IgnoreNonsense) {
  FakeSystem system;
  system.unified("/");
  for (const char* text : {"", "max", "100000", "-5 100000", "100000 0", "x y", "nan nan"}) {
    system.put("sys/fs/cgroup/cpu.max", text);
    EXPECT_GE(quota_threads(system.root()), 1 << 12) << text;
  }
}

}  // namespace
}  // namespace hone
