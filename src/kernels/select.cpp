#include "kernels/select.h"

#include <fmt/ranges.h>

#ifdef HONE_X86
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
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
#endif
#ifdef HONE_AVX512_ALONE
namespace avx512 {
extern const KernelTable kTable;
}
#endif
#ifdef HONE_AVX512
namespace avx512_vnni {
extern const KernelTable kTable;
}
#endif
#ifdef HONE_AMX
namespace avx512_amx {
extern const KernelTable kTable;
}
#endif

namespace {

std::atomic<const KernelTable*> g_table{nullptr};
std::atomic<bool> g_bf16_dots{false};

#ifdef HONE_AMX
// Matrix tiles for int8 and bf16, and the system's leave to use them: their registers are so large
// that Linux keeps them only for processes that ask. Asked once, for all threads.
bool has_tiles() {
  static const bool has = [] {
    constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
    if ((d & kBf16) == 0 || (d & kTile) == 0 || (d & kInt8) == 0) return false;
    return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return has;
}
#endif

// What runs where nothing was measured.
const KernelTable* unmeasured_choice() {
  auto tables = available_tables();
  return *std::max_element(
      tables.begin(), tables.end(),
      [](const KernelTable* a, const KernelTable* b) { return a->rank < b->rank; });
}

}  // namespace

std::vector<const KernelTable*> available_tables() {
  std::vector<const KernelTable*> out{&baseline::kTable};
#ifdef HONE_X86
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
              __builtin_cpu_supports("f16c");
  if (avx2) out.push_back(&avx2::kTable);
#endif
#ifdef HONE_AVX512
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#ifdef HONE_AVX512_ALONE
  if (avx512) out.push_back(&avx512::kTable);
#endif
  bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  if (vnni) out.push_back(&avx512_vnni::kTable);
#ifdef HONE_AMX
  if (vnni && has_tiles()) out.push_back(&avx512_amx::kTable);
#endif
#endif
  return out;
}

std::vector<std::string> isa_names() {
  return {"baseline", "avx2", "avx512", "avx512_vnni", "avx512_amx"};
}

const KernelTable& table() {
  const KernelTable* t = g_table.load(std::memory_order_acquire);
  if (t == nullptr) {
    t = unmeasured_choice();
    g_table.store(t, std::memory_order_release);
  }
  return *t;
}

bool uses_bf16_dots() { return g_bf16_dots && table().gemm_bf16_dot != nullptr; }

void prefer_bf16_dots(bool on) {
#ifdef HONE_X86
  g_bf16_dots = on && __builtin_cpu_supports("avx512bf16");
#else
  g_bf16_dots = false && on;
#endif
}

void set_table(const KernelTable& t) { g_table = &t; }

void set_isa(const std::string& name) {
  if (name == "auto") return set_table(*unmeasured_choice());
  std::vector<std::string> names;
  for (const KernelTable* t : available_tables()) {
    if (name == t->isa) return set_table(*t);
    names.push_back(t->isa);
  }
  fail(ErrorKind::unsupported, "instruction set '{}': this CPU can run {} (or auto)", name,
       fmt::join(names, ", "));
}

}  // namespace hone::kernels
