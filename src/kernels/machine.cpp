#include "kernels/machine.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/log.h"
#include "base/threads.h"
#include "kernels/kernel_table.h"
#include "kernels/select.h"

namespace hone::kernels {
namespace {

// Far beyond any cache, so that memory is read and not the last of them.
constexpr int64_t kReadBytes = RoofMeter::kBytes;
constexpr int64_t kReadChunk = int64_t{1} << 20;
// How long a pass over memory or an operation is timed.
struct Effort {
  int read_passes, peak_passes;
  double peak_seconds;
};
constexpr Effort kThorough{5, 4, 0.05}, kBrief{2, 2, 0.008};

}  // namespace

// Memory of one page size.
class RoofMeter::Region {
 public:
  explicit Region(bool huge) {
    void* p =
        ::mmap(nullptr, kReadBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    HONE_CHECK(p != MAP_FAILED, out_of_memory, "out of memory: {} bytes are needed to measure it",
               kReadBytes);
    ::madvise(p, kReadBytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    data_ = static_cast<std::byte*>(p);
    parallel_for(kReadBytes, kReadChunk, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; i += 4096) data_[i] = std::byte{1};
    });
  }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region() { ::munmap(data_, kReadBytes); }
  const std::byte* data() const { return data_; }

 private:
  std::byte* data_;
};

namespace {

// The fastest of a few passes: others on the machine only ever slow it down.
double read_speed(const KernelTable& t, const std::byte* data, int64_t bytes = kReadBytes,
                  int passes = kThorough.read_passes) {
  int64_t chunk = std::min(kReadChunk, bytes / 16), times = kReadBytes / bytes;
  double best = 0;
  for (int pass = 0; pass < passes; ++pass) {
    double started = monotonic_seconds();
    parallel_for(times * bytes, chunk,
                 [&](int64_t b, int64_t e) { t.read_memory(data + b % bytes, e - b); });
    best = std::max(best, double(times * bytes) / (monotonic_seconds() - started));
  }
  return best;
}

// So much of the last cache level that it stays there.
int64_t cached_part(int64_t cache) {
  int64_t part = int64_t{1} << 20;
  while (4 * part <= cache / 2 && part < kReadBytes / 2) part *= 2;
  return part;
}

bool cpu_has(int feature) {
#ifdef HONE_X86
  if (feature == kAvx512Bf16) return __builtin_cpu_supports("avx512bf16") != 0;
  if (feature == kAvx512Fp16) return __builtin_cpu_supports("avx512fp16") != 0;
#endif
  return feature == kAnyCpu;
}

// Operations per second of all threads.
double peak_speed(const PeakLoop& loop, Effort effort = kThorough) {
  constexpr int kShares = 16;  // so small that a thread that wakes late costs little
  int64_t rounds = 64;
  auto time = [&] {
    double started = monotonic_seconds();
    parallel_for(kShares * thread_count(), 1, [&](int64_t, int64_t) { loop.run(rounds); });
    return monotonic_seconds() - started;
  };
  double seconds = time();
  while (seconds < effort.peak_seconds) {
    rounds *= seconds < effort.peak_seconds / 8 ? 8 : 2;
    seconds = time();
  }
  for (int pass = 0; pass < effort.peak_passes; ++pass) seconds = std::min(seconds, time());
  return loop.operations * double(rounds) * kShares * thread_count() / seconds;
}

// A product with f32 activations and bf16 weights is three of bf16 tiles.
void raise_roof(Roofs& r, std::string_view operation, double per_second) {
  if (operation == "fp32 FMA") {
    r.fma_per_second = std::max(r.fma_per_second, per_second);
    r.f32_per_second = std::max(r.f32_per_second, per_second);
  }
  if (operation == "bf16 tiles") r.f32_per_second = std::max(r.f32_per_second, per_second / 3);
  if (operation == "bf16 dot" || operation == "bf16 tiles")
    r.bf16_per_second = std::max(r.bf16_per_second, per_second);
  if (operation == "int8 dot" || operation == "int8 tiles")
    r.int8_per_second = std::max(r.int8_per_second, per_second);
}

// One thread's products of 64 tokens with 128 rows of 512 columns: what prefill spends its time on.
Candidate time_candidate(const KernelTable& t) {
  constexpr int64_t kTokens = 64, kRows = 128, kColumns = 512, kGroup = 32;
  constexpr int64_t kRecord = 2 * kPanel + kGroup * kPanel / 2;
  std::vector<float> x(kTokens * kColumns, 0.5f), y(kTokens * kRows),
      panels(kRows * kColumns, 0.5f);
  std::vector<uint8_t> codes(kRows / kPanel * (kColumns / kGroup) * kRecord);
  std::vector<int8_t> xq(kTokens * kColumns);
  std::vector<float> scales(kTokens * kColumns / kChunk);
  std::vector<int32_t> starts(scales.size());
  std::vector<float> lows(scales.size());
  QuantizedRows rows{xq.data(), scales.data(), starts.data(), lows.data()};
  t.quantize_rows(x.data(), kColumns, kTokens, kColumns, kChunk, 8, rows);
  GemmArgs g{};
  g.x = x.data();
  g.ldx = g.k = kColumns;
  g.xq = rows;
  g.chunk = kChunk;
  g.y = y.data();
  g.ldy = g.n = kRows;
  g.t = kTokens;
  g.p1 = kRows / kPanel;
  g.form = {4, 8, 0, 1, kGroup, nullptr, nullptr, 1};
  auto speed = [&](void (*gemm)(const GemmArgs*)) {
    double best = 1e9;
    for (int pass = 0; pass < 12; ++pass) {
      double started = monotonic_seconds();
      gemm(&g);
      best = std::min(best, monotonic_seconds() - started);
    }
    return 2.0 * kTokens * kRows * kColumns / best;
  };
  Candidate c;
  c.isa = t.isa;
  g.panels = panels.data();
  c.f32_per_second = speed(t.gemm_f32);
  c.bf16_per_second = speed(t.gemm_bf16);
  if (t.gemm_bf16_dot != nullptr && cpu_has(kAvx512Bf16)) {
    std::vector<uint16_t> rounded(x.size());
    t.round_to_bf16(x.data(), std::ssize(x), rounded.data(), nullptr);
    g.xb = rounded.data();
    c.bf16_dot_per_second = speed(t.gemm_bf16_dot);
  }
  g.panels = codes.data();
  c.int8_per_second = speed(t.gemm_codes);
  return c;
}

Machine from_json(const Json& j) {
  Machine m;
  m.cpu = j.at("cpu").get<std::string>();
  m.threads = j.at("threads").get<int>();
  for (const Json& b : j.at("read"))
    m.bandwidths.push_back({b.at("threads").get<int>(), b.at("huge_pages").get<bool>(),
                            b.at("bytes_per_second").get<double>()});
  for (const Json& p : j.at("peaks"))
    m.peaks.push_back({p.at("isa").get<std::string>(), p.at("operation").get<std::string>(),
                       p.at("per_second").get<double>()});
  // Older files lack bf16.
  for (const Json& c : j.at("candidates"))
    m.candidates.push_back({c.at("isa").get<std::string>(), c.at("f32_per_second").get<double>(),
                            c.value("bf16_per_second", 0.0), c.at("int8_per_second").get<double>(),
                            c.value("bf16_dot_per_second", 0.0)});
  m.cache_bytes = j.at("cache").at("bytes").get<int64_t>();
  m.cached_bytes_per_second = j.at("cache").at("bytes_per_second").get<double>();
  m.best_isa = j.at("best_isa").get<std::string>();
  return m;
}

}  // namespace

std::string cpu_name() {
  std::ifstream cpu("/proc/cpuinfo");
  std::string line;
  while (std::getline(cpu, line)) {
    size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos)
      return line.substr(colon + 2);
  }
  return "unknown CPU";
}

int64_t last_cache_bytes() {
  int64_t last = 0;
  for (int index = 0; index < 8; ++index) {
    std::ifstream file(fmt::format("/sys/devices/system/cpu/cpu0/cache/index{}/size", index));
    int64_t size = 0;
    char unit = 'K';
    if (file >> size >> unit) last = std::max(last, size << (unit == 'M' ? 20 : 10));
  }
  return last;
}

Machine measure_machine(const std::function<void(double)>& progress) {
  Machine m;
  m.cpu = cpu_name();
  m.threads = thread_count();
  m.cache_bytes = last_cache_bytes();
  auto tables = available_tables();
  double done = 0, all = 2 * m.threads + 3 * double(tables.size());
  auto step = [&] { progress(++done / all); };
  for (bool huge : {false, true}) {
    RoofMeter::Region region(huge);
    for (int n = 1; n <= m.threads; ++n) {
      set_threads(n);
      m.bandwidths.push_back({n, huge, read_speed(*tables.back(), region.data())});
      step();
    }
    if (huge)
      m.cached_bytes_per_second =
          read_speed(*tables.back(), region.data(), cached_part(m.cache_bytes));
  }
  for (const KernelTable* t : tables) {
    for (const PeakLoop* p = t->peaks; p->name != nullptr; ++p)
      if (cpu_has(p->feature)) m.peaks.push_back({t->isa, p->name, peak_speed(*p)});
    step();
    step();
    m.candidates.push_back(time_candidate(*t));
    step();
  }
  // Prefill of quantised weights, of bf16 and of other floats count the same.
  auto seconds = [](const Candidate& c) {
    return 1 / c.f32_per_second + 1 / std::max(c.bf16_per_second, c.bf16_dot_per_second) +
           1 / c.int8_per_second;
  };
  m.best_isa = std::min_element(
                   m.candidates.begin(), m.candidates.end(),
                   [&](const Candidate& a, const Candidate& b) { return seconds(a) < seconds(b); })
                   ->isa;
  return m;
}

RoofMeter::RoofMeter() : region_(std::make_unique<Region>(true)) {}
RoofMeter::~RoofMeter() = default;

Roofs RoofMeter::measure(bool brief) const {
  const Effort effort = brief ? kBrief : kThorough;
  const KernelTable& t = table();
  Roofs r;
  r.bytes_per_second = read_speed(t, region_->data(), kReadBytes, effort.read_passes);
  for (const PeakLoop* p = t.peaks; p->name != nullptr; ++p)
    if (p->feature == kAnyCpu || (p->feature == kAvx512Bf16 && cpu_has(p->feature)))
      raise_roof(r, p->name, peak_speed(*p, effort));
  r.cache_bytes = last_cache_bytes();
  r.cached_bytes_per_second =
      read_speed(t, region_->data(), cached_part(r.cache_bytes), effort.read_passes);
  return r;
}

double RoofMeter::read_per_second() const {
  return read_speed(table(), region_->data(), kReadBytes, kBrief.read_passes);
}

std::optional<Roofs> roofs_of(const Machine& m, const std::string& isa) {
  if (m.threads != thread_count()) return {};
  Roofs r;
  r.cache_bytes = m.cache_bytes;
  r.cached_bytes_per_second = m.cached_bytes_per_second;
  for (const Bandwidth& b : m.bandwidths)
    if (b.threads == m.threads)
      r.bytes_per_second = std::max(r.bytes_per_second, b.bytes_per_second);
  for (const Peak& p : m.peaks)
    if (p.isa == isa) raise_roof(r, p.operation, p.per_second);
  if (r.bytes_per_second <= 0 || r.fma_per_second <= 0 || r.int8_per_second <= 0) return {};
  return r;
}

bool is_disturbed(const Machine& m) {
  return std::any_of(m.candidates.begin(), m.candidates.end(), [&](const Candidate& c) {
    // Products run on the fastest of what an instruction set has: dots or tiles.
    auto peak = [&](std::initializer_list<std::string_view> operations) {
      double most = 0;
      for (const Peak& p : m.peaks)
        if (p.isa == c.isa &&
            std::find(operations.begin(), operations.end(), p.operation) != operations.end())
          most = std::max(most, p.per_second);
      return most;
    };
    auto below = [&](double peak, double product) {
      return peak > 0 && peak < 0.5 * product * m.threads;
    };
    return below(peak({"fp32 FMA"}), c.f32_per_second) ||
           below(peak({"int8 dot", "int8 tiles"}), c.int8_per_second) ||
           below(peak({"bf16 dot", "bf16 tiles"}), c.bf16_dot_per_second);
  });
}

bool bf16_dots_are_faster(const Machine& m, const std::string& isa) {
  return std::any_of(m.candidates.begin(), m.candidates.end(), [&](const Candidate& c) {
    return c.isa == isa && c.bf16_dot_per_second > c.bf16_per_second;
  });
}

std::filesystem::path machine_cache() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  fs::path folder = cache != nullptr && *cache != 0 ? fs::path(cache)
                    : home != nullptr && *home != 0 ? fs::path(home) / ".cache"
                                                    : fs::temp_directory_path();
  return folder / "hone" / "machine.json";
}

Json machine_json(const Machine& m) {
  Json j = {{"format", "hone machine"}, {"cpu", m.cpu}, {"threads", m.threads}};
  for (const Bandwidth& b : m.bandwidths)
    j["read"].push_back({{"threads", b.threads},
                         {"huge_pages", b.huge_pages},
                         {"bytes_per_second", b.bytes_per_second}});
  for (const Peak& p : m.peaks)
    j["peaks"].push_back(
        {{"isa", p.isa}, {"operation", p.operation}, {"per_second", p.per_second}});
  for (const Candidate& c : m.candidates)
    j["candidates"].push_back({{"isa", c.isa},
                               {"f32_per_second", c.f32_per_second},
                               {"bf16_per_second", c.bf16_per_second},
                               {"bf16_dot_per_second", c.bf16_dot_per_second},
                               {"int8_per_second", c.int8_per_second}});
  j["cache"] = {{"bytes", m.cache_bytes}, {"bytes_per_second", m.cached_bytes_per_second}};
  j["best_isa"] = m.best_isa;
  return j;
}

void save_machine(const Machine& m, const std::filesystem::path& file) {
  fs::create_directories(file.parent_path());
  write_text_file(file, machine_json(m).dump(2) + "\n");
}

std::optional<Machine> load_machine(const std::filesystem::path& file) {
  try {
    if (!fs::is_regular_file(file)) return {};
    Machine m = from_json(parse_json(read_text_file(file), file.string()));
    bool runs = false;
    for (const KernelTable* t : available_tables()) runs |= m.best_isa == t->isa;
    if (m.cpu == cpu_name() && m.cache_bytes == last_cache_bytes() && runs) return m;
  } catch (const std::exception& e) {
    log_info("{}: not used: {}", file.string(), e.what());
  }
  return {};
}

}  // namespace hone::kernels
