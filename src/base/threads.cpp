#include "base/threads.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <exception>
#include <fstream>
#include <limits>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "base/cgroup.h"

namespace hone {
namespace {

namespace fs = std::filesystem;
constexpr int kMaxThreads = 1 << 16;

// Workers spin this many polls before they sleep: a decode step is hundreds of short loops, and a
// futex wake-up costs more than many of them.
constexpr int kSpinPolls = 4000;

thread_local bool t_in_loop = false;

inline void cpu_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// CPUs' worth of time that one control group allows: "cpu.max" holds "quota period" or "max period"
// (version 2); version 1 has a file for each, and -1 for no quota.
double cpu_quota(const fs::path& group) {
  double quota = 0, period = 0;
  std::ifstream file(group / "cpu.max");
  if (!(file >> quota >> period)) {
    quota = read_limit(group / "cpu.cfs_quota_us").value_or(0);
    period = read_limit(group / "cpu.cfs_period_us").value_or(0);
  }
  return quota > 0 && period > 0 ? quota / period : std::numeric_limits<double>::infinity();
}

int affinity_count() {
  // The set has as many bits as the kernel was built for; a fixed cpu_set_t ends at 1024.
  for (int bits = 1024; bits <= 1 << 20; bits *= 2) {
    const size_t size = CPU_ALLOC_SIZE(bits);
    std::vector<unsigned long> set(size / sizeof(unsigned long));
    auto* cpus = reinterpret_cast<cpu_set_t*>(set.data());
    if (::sched_getaffinity(0, size, cpus) == 0) return CPU_COUNT_S(size, cpus);
    if (errno != EINVAL) break;
  }
  return 1;
}

// The steps of a loop that one thread begins with: neighbours, so that it reads memory in one
// stream. Who is through with its own takes steps from the others' shares.
struct alignas(64) Share {
  std::atomic<int64_t> next{0};
  int64_t end = 0;
};

class Pool {
 public:
  explicit Pool(int n) : shares_(static_cast<size_t>(std::max(n, 1))) {
    try {
      for (int i = 1; i < n; ++i) workers_.emplace_back([this, i] { work(i); });
    } catch (const std::system_error&) {
      // No more threads are to be had (a limit on processes or memory): go on with those there are.
    }
  }
  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      ++generation_;
    }
    wake_.notify_all();
    for (auto& w : workers_) w.join();
  }
  int size() const { return static_cast<int>(workers_.size()) + 1; }

  void run(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
    std::lock_guard one_loop(loop_mutex_);
    body_ = &body;
    n_ = n;
    grain_ = grain;
    const int64_t steps = (n - 1) / grain + 1, threads = size();
    for (int64_t i = 0; i < threads; ++i) {
      shares_[i].next = steps / threads * i + std::min(i, steps % threads);
      shares_[i].end = steps / threads * (i + 1) + std::min(i + 1, steps % threads);
    }
    error_ = nullptr;
    active_ = static_cast<int>(workers_.size());
    {
      std::lock_guard lock(mutex_);
      ++generation_;
    }
    if (sleeping_.load() > 0) wake_.notify_all();
    take(0);
    for (int polls = 0; active_.load(std::memory_order_acquire) > 0; ++polls) {
      if (polls < kSpinPolls)
        cpu_pause();
      else
        std::this_thread::yield();
    }
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void take(int self) {
    t_in_loop = true;
    try {
      for (int i = 0; i < size(); ++i) {
        Share& share = shares_[static_cast<size_t>((self + i) % size())];
        while (true) {
          int64_t step = share.next.fetch_add(1, std::memory_order_relaxed);
          if (step >= share.end) break;
          (*body_)(step * grain_, n_ - step * grain_ > grain_ ? (step + 1) * grain_ : n_);
        }
      }
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      for (Share& share : shares_) share.next = share.end;
    }
    t_in_loop = false;
  }

  void work(int self) {
    uint64_t seen = 0;
    while (true) {
      for (int polls = 0; polls < kSpinPolls && generation_.load(std::memory_order_acquire) == seen;
           ++polls)
        cpu_pause();
      if (generation_.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(mutex_);
        ++sleeping_;
        wake_.wait(lock, [&] { return generation_.load() != seen; });
        --sleeping_;
      }
      seen = generation_.load(std::memory_order_acquire);
      if (stop_.load()) return;
      take(self);
      active_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> workers_;
  std::mutex loop_mutex_, mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> active_{0}, sleeping_{0};
  std::atomic<bool> stop_{false};
  std::vector<Share> shares_;  // of each thread
  const std::function<void(int64_t, int64_t)>* body_ = nullptr;
  int64_t n_ = 0, grain_ = 1;
  std::exception_ptr error_;
};

std::unique_ptr<Pool>& pool() {
  static std::unique_ptr<Pool> p = std::make_unique<Pool>(available_threads());
  return p;
}

}  // namespace

int quota_threads(const fs::path& root) {
  double cpus = kMaxThreads;
  for (const fs::path& group : cgroup_directories(root, "cpu"))
    cpus = std::min(cpus, cpu_quota(group));
  return std::max(1, static_cast<int>(cpus));
}

int available_threads() { return std::clamp(quota_threads("/"), 1, std::max(1, affinity_count())); }

void set_threads(int n) {
  int limit = available_threads();
  n = n <= 0 ? limit : std::min(n, limit);
  if (pool()->size() == n) return;
  pool().reset();
  pool() = std::make_unique<Pool>(n);
}

int thread_count() { return pool()->size(); }

void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  if (n <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  if (t_in_loop || n <= grain || pool()->size() == 1) {
    for (int64_t begin = 0; begin < n; begin += grain) body(begin, std::min(n, begin + grain));
    return;
  }
  pool()->run(n, grain, body);
}

}  // namespace hone
