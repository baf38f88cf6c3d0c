#include "kernels/select.h"

#include <fmt/ranges.h>

#include <atomic>

#include "base/error.h"

namespace hone::kernels {

namespace baseline {
extern const KernelTable kTable;
}
#ifdef HONE_X86
namespace avx2 {
extern const KernelTable kTable;
}
namespace avx512 {
extern const KernelTable kTable;
}
namespace avx512_vnni {
extern const KernelTable kTable;
}
#endif

namespace {
std::atomic<const KernelTable*> g_table{nullptr};
}

std::vector<const KernelTable*> available_tables() {
  std::vector<const KernelTable*> out{&baseline::kTable};
#ifdef HONE_X86
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
              __builtin_cpu_supports("f16c");
  if (avx2) out.push_back(&avx2::kTable);
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512) out.push_back(&avx512::kTable);
  if (avx512 && __builtin_cpu_supports("avx512vnni")) out.push_back(&avx512_vnni::kTable);
#endif
  return out;
}

const KernelTable& table() {
  const KernelTable* t = g_table.load(std::memory_order_acquire);
  if (t == nullptr) {
    t = available_tables().back();
    g_table.store(t, std::memory_order_release);
  }
  return *t;
}

void set_isa(const std::string& name) {
  std::vector<std::string> names;
  auto tables = available_tables();
  if (name == "auto") {
    g_table = tables.back();
    return;
  }
  for (const KernelTable* t : tables) {
    if (name == t->isa) {
      g_table = t;
      return;
    }
    names.push_back(t->isa);
  }
  fail(ErrorKind::unsupported, "instruction set '{}': this CPU can run {} (or auto)", name,
       fmt::join(names, ", "));
}

}  // namespace hone::kernels
