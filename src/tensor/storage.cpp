#include "tensor/storage.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <new>

#include "base/error.h"

namespace hone {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kPage = 4096;
#ifdef __SANITIZE_ADDRESS__
constexpr size_t kMapped = size_t{1} << 30;  // malloc's red zones see what lies outside a tensor
#else
constexpr size_t kMapped = size_t{128} << 10;  // as malloc, which would not keep them
#endif
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kMostSpare = size_t{64} << 20;
constexpr size_t kShelf = size_t{16} << 20;
constexpr size_t kMostOnShelf = kShelf / 4;

size_t round_up(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

std::atomic<int64_t> live_bytes = 0, peak_bytes = 0;

// Mappings. malloc would keep them in its heap once it has seen a few, where they
// leave holes that never fit again.
class Mappings {
 public:
  // Null where the system has no more memory; `fresh` where it is none that was given back.
  void* take(size_t size, bool& fresh) {
    {
      std::lock_guard lock(mutex_);
      // The youngest first: its pages may still be in the caches.
      for (auto it = spare_.rbegin(); it != spare_.rend(); ++it)
        if (it->size == size) {
          void* p = it->at;
          spare_.erase(std::next(it).base());
          spare_bytes_ -= size;
          return p;
        }
    }
    fresh = true;
    if (void* p = map(size)) return p;
    drop_spares(0);
    return map(size);
  }

  void give_back(void* p, size_t size) noexcept {
    try {
      std::lock_guard lock(mutex_);
      spare_.push_back({p, size});
      spare_bytes_ += size;
    } catch (const std::bad_alloc&) {  // a deleter must not throw
      ::munmap(p, size);
    }
    trim();
  }

  // Spares beyond what may wait go back to the system. What was just taken is counted as live.
  void trim() noexcept {
    const int64_t room = reusers_ > 0 ? peak_bytes + peak_bytes / 16 - live_bytes : 0;
    drop_spares(kMostSpare + static_cast<size_t>(std::max<int64_t>(0, room)));
  }

  int64_t spare() {
    std::lock_guard lock(mutex_);
    return static_cast<int64_t>(spare_bytes_);
  }

  void reuse(int more) {
    reusers_ += more;
    trim();
  }

 private:
  struct Spare {
    void* at;
    size_t size;
  };

  // Unmaps the oldest until at most so many bytes are left.
  void drop_spares(size_t most) noexcept {
    std::lock_guard lock(mutex_);
    for (; spare_bytes_ > most; spare_.pop_front()) {
      ::munmap(spare_.front().at, spare_.front().size);
      spare_bytes_ -= spare_.front().size;
    }
  }

  static void* map(size_t size) {
    size_t unit = size >= kHugePage ? kHugePage : kPage;
    size_t room = size + unit - kPage;
    void* raw = ::mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw == MAP_FAILED) return nullptr;
    auto first = reinterpret_cast<uintptr_t>(raw);
    auto begin = round_up(first, unit), end = begin + size;
    if (begin > first) ::munmap(raw, begin - first);
    if (first + room > end) ::munmap(reinterpret_cast<void*>(end), first + room - end);
    void* p = reinterpret_cast<void*>(begin);
    if (size >= kHugePage) ::madvise(p, size, MADV_HUGEPAGE);
    return p;
  }

  std::mutex mutex_;
  std::deque<Spare> spare_;
  size_t spare_bytes_ = 0;
  std::atomic<int> reusers_ = 0;
};

Mappings& mappings() {
  // Never destroyed: tensors may outlive every static object.
  static auto* all = new Mappings;
  return *all;
}

// The mapping that lasting blocks are put into at present.
struct Shelf {
  std::mutex mutex;
  std::weak_ptr<void> mapping;
  size_t used = 0;
};

Shelf& shelf() {
  static auto* s = new Shelf;
  return *s;
}

void count(size_t more) {
  const int64_t now = live_bytes += static_cast<int64_t>(more);
  int64_t peak = peak_bytes;
  while (now > peak && !peak_bytes.compare_exchange_weak(peak, now)) {
  }
}

void check(const void* p, size_t size) {
  HONE_CHECK(p != nullptr, out_of_memory, "out of memory: {} bytes are needed for one tensor",
             size);
}

}  // namespace

std::shared_ptr<void> allocate_storage(size_t size) {
  HONE_CHECK(size <= PTRDIFF_MAX / 2, out_of_memory,
             "out of memory: {} bytes are needed for one tensor", size);
  if (size >= kMapped) {
    size_t padded = round_up(size, kPage);
    bool fresh = false;
    void* p = mappings().take(padded, fresh);
    check(p, size);
    count(padded);
    if (fresh) mappings().trim();
    return {p, [padded](void* q) {
              live_bytes -= static_cast<int64_t>(padded);
              mappings().give_back(q, padded);
            }};
  }
  const size_t padded = round_up(size == 0 ? 1 : size, kAlignment);
  void* p = std::aligned_alloc(kAlignment, padded);
  check(p, size);
  count(padded);
  return {p, [padded](void* q) {
            std::free(q);
            live_bytes -= static_cast<int64_t>(padded);
          }};
}

StorageReuse::StorageReuse() { mappings().reuse(1); }
StorageReuse::~StorageReuse() { mappings().reuse(-1); }

int64_t storage_bytes() { return live_bytes; }
int64_t storage_peak() { return peak_bytes; }
int64_t storage_spare() { return mappings().spare(); }
void reset_storage_peak() { peak_bytes = live_bytes.load(); }

std::shared_ptr<void> allocate_lasting(size_t size) {
  const size_t padded = round_up(size, kAlignment);
  if (kShelf < kMapped || size > kMostOnShelf) return allocate_storage(size);
  Shelf& s = shelf();
  std::lock_guard lock(s.mutex);
  std::shared_ptr<void> mapping = s.mapping.lock();
  if (mapping == nullptr || padded > kShelf - s.used) {
    mapping = allocate_storage(kShelf);
    s.mapping = mapping;
    s.used = 0;
  }
  void* p = static_cast<std::byte*>(mapping.get()) + s.used;
  s.used += padded;
  return {std::move(mapping), p};
}

}  // namespace hone
