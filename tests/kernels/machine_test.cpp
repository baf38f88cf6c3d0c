// What a machine measurement keeps, for whom it counts, and that it measures something.
#include "kernels/machine.h"

#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/log.h"
#include "base/threads.h"
#include "kernels/kernel_table.h"
#include "kernels/select.h"
#include "testing.h"

namespace hone::kernels {
namespace {

using testing::TemporaryDirectory;

Machine example() {
  Machine m;
  m.cpu = cpu_name();
  m.threads = thread_count();
  m.bandwidths = {{1, true, 9e9}, {m.threads, false, 10e9}, {m.threads, true, 30e9}};
  m.peaks = {{"avx2", "fp32 FMA", 2e11}, {"avx2", "int8 dot", 4e11}, {"avx512", "fp32 FMA", 3e11}};
  m.candidates = {{"avx2", 1e11, 1.1e11, 2e11}};
  m.best_isa = "baseline";
  m.cache_bytes = last_cache_bytes();
  m.cached_bytes_per_second = 9e10;
  return m;
}

TEST(Machine, IsReadBackAsItWasKept) {
  TemporaryDirectory scratch;
  std::filesystem::path file = scratch / "below" / "machine.json";
  EXPECT_FALSE(load_machine(file).has_value());
  save_machine(example(), file);
  auto m = load_machine(file);
  ASSERT_TRUE(m.has_value());
  EXPECT_EQ(machine_json(*m), machine_json(example()));
}

TEST(Machine, PeaksBelowProductsAreADisturbance) {
  Machine m = example();
  m.threads = 2;
  EXPECT_FALSE(is_disturbed(m)) << "2e11 of two threads, 1e11 of one";
  m.peaks[0].per_second = 0.9e11;
  EXPECT_TRUE(is_disturbed(m));
  m.peaks[0].isa = "avx512";  // which has no candidate
  EXPECT_FALSE(is_disturbed(m));
  // Products of bf16 run on tiles where there are any.
  m = example();
  m.threads = 2;
  m.candidates[0].bf16_dot_per_second = 3e11;
  m.peaks.push_back({"avx2", "bf16 dot", 1e11});
  EXPECT_TRUE(is_disturbed(m));
  m.peaks.push_back({"avx2", "bf16 tiles", 2e12});
  EXPECT_FALSE(is_disturbed(m));
}

TEST(Machine, OfAnotherCpuOrInstructionSetOrDamagedIsIgnored) {
  TemporaryDirectory scratch;
  std::filesystem::path file = scratch / "machine.json";
  Machine other = example();
  other.cpu = "another";
  save_machine(other, file);
  EXPECT_FALSE(load_machine(file).has_value());
  other = example();
  other.best_isa = "mmx";
  save_machine(other, file);
  EXPECT_FALSE(load_machine(file).has_value());
  other = example();
  other.cache_bytes += 1024;
  save_machine(other, file);
  EXPECT_FALSE(load_machine(file).has_value());
  for (const char* text : {"", "{", "[]", R"({"cpu": 3})"}) {
    write_text_file(file, text);
    EXPECT_FALSE(load_machine(file).has_value()) << text;
  }
}

TEST(Machine, RoofsAreThoseOfOneInstructionSetWithAllThreads) {
  Machine m = example();
  m.cache_bytes = 1 << 20;
  auto roofs = roofs_of(m, "avx2");
  ASSERT_TRUE(roofs.has_value());
  EXPECT_EQ(roofs->bytes_per_second, 30e9);
  EXPECT_EQ(roofs->read_per_second(1 << 18), 9e10);
  EXPECT_EQ(roofs->read_per_second(1 << 20), 30e9);
  EXPECT_EQ(roofs->f32_per_second, 2e11);
  EXPECT_EQ(roofs->int8_per_second, 4e11);
  EXPECT_FALSE(roofs_of(m, "avx512").has_value()) << "its int8 peak is missing";
  // The roof of a set with matrix tiles is theirs: three products for one with f32 activations.
  for (auto [operation, speed] : {std::pair{"fp32 FMA", 3e11},
                                  {"int8 dot", 1e12},
                                  {"int8 tiles", 8e12},
                                  {"bf16 tiles", 3.6e12}})
    m.peaks.push_back({"avx512_amx", operation, speed});
  roofs = roofs_of(m, "avx512_amx");
  EXPECT_EQ(roofs->f32_per_second, 1.2e12);
  EXPECT_EQ(roofs->int8_per_second, 8e12);
  m.threads += 1;
  EXPECT_FALSE(roofs_of(m, "avx2").has_value()) << "of another number of threads";
}

// A loop that the compiler has emptied would take no time, however many rounds it has.
TEST(Machine, NoPeakIsBeyondWhatAnyCoreCanDo) {
  for (const KernelTable* t : available_tables())
    for (const PeakLoop* p = t->peaks; p->name != nullptr; ++p) {
      if (p->feature != kAnyCpu) continue;
      constexpr int64_t kRounds = 200000;
      double started = monotonic_seconds();
      p->run(kRounds);
      double per_second = p->operations * kRounds / (monotonic_seconds() - started);
      // 6 GHz × 2 operations × 64 bytes (or 16 floats) × 2 units.
      double most = std::string_view(p->name) == "int8 dot" ? 1.6e12 : 4e11;
      // Sixteen cycles for one product of tiles.
      if (std::string_view(p->name).ends_with("tiles")) most = 1.3e13;
      EXPECT_LT(per_second, most) << t->isa << " " << p->name;
      EXPECT_GT(per_second, 1e7) << t->isa << " " << p->name;
    }
}

}  // namespace
}  // namespace hone::kernels
