#include "base/threads.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <fstream>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace hone {
namespace {

// Workers spin this many polls before they sleep: a decode step is hundreds of short loops, and a
// futex wake-up costs more than many of them.
constexpr int kSpinPolls = 4000;

thread_local bool t_in_loop = false;

inline void cpu_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// cgroup v2 cpu.max holds "quota period" or "max period".
int cgroup_limit() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return 1 << 20;
  double q = std::atof(quota.c_str());
  return q > 0 ? std::max(1, static_cast<int>(q / period + 0.5)) : 1 << 20;
}

class Pool {
 public:
  explicit Pool(int n) {
    for (int i = 1; i < n; ++i) workers_.emplace_back([this] { work(); });
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
    next_ = 0;
    error_ = nullptr;
    active_ = static_cast<int>(workers_.size());
    {
      std::lock_guard lock(mutex_);
      ++generation_;
    }
    if (sleeping_.load() > 0) wake_.notify_all();
    take();
    for (int polls = 0; active_.load(std::memory_order_acquire) > 0; ++polls) {
      if (polls < kSpinPolls)
        cpu_pause();
      else
        std::this_thread::yield();
    }
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void take() {
    t_in_loop = true;
    try {
      while (true) {
        int64_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
        if (begin >= n_) break;
        (*body_)(begin, std::min(n_, begin + grain_));
      }
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      next_ = n_;
    }
    t_in_loop = false;
  }

  void work() {
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
      take();
      active_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> workers_;
  std::mutex loop_mutex_, mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> active_{0}, sleeping_{0};
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> next_{0};
  const std::function<void(int64_t, int64_t)>* body_ = nullptr;
  int64_t n_ = 0, grain_ = 1;
  std::exception_ptr error_;
};

std::unique_ptr<Pool>& pool() {
  static std::unique_ptr<Pool> p = std::make_unique<Pool>(available_threads());
  return p;
}

}  // namespace

int available_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int n = 1;
  if (::sched_getaffinity(0, sizeof(set), &set) == 0) n = CPU_COUNT(&set);
  return std::max(1, std::min(n, cgroup_limit()));
}

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
