// What this machine can do at most: read bandwidth and arithmetic peaks, the two roofs under which
// every speed lies (Williams, Waterman, Patterson 2009, "Roofline").
//
// `hone bench --machine` measures everything once and caches it for this CPU; other commands then
// say which fraction of a roof they reach, and take the instruction set that was fastest.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"

namespace hone::kernels {

struct Bandwidth {
  int threads = 0;
  bool huge_pages = false;  ///< 2 MB pages; else 4 KB
  double bytes_per_second = 0;
};

struct Peak {
  std::string isa, operation;  ///< "avx2", "fp32 FMA"
  double per_second = 0;       ///< operations of all threads; a multiply-add counts as two
};

/// How fast one instruction set's products are, on matrices that stay in the caches.
struct Candidate {
  std::string isa;
  /// Operations of one thread, by type of the weight; activations are f32 but for int8.
  double f32_per_second = 0, bf16_per_second = 0, int8_per_second = 0;
  double bf16_dot_per_second = 0;  ///< with activations rounded to bf16; 0 = no such products
};

struct Machine {
  std::string cpu;
  int threads = 0;
  std::vector<Bandwidth> bandwidths;   ///< of memory
  int64_t cache_bytes = 0;             ///< of the last level; 0 where unknown
  double cached_bytes_per_second = 0;  ///< read out of it, by all threads
  std::vector<Peak> peaks;
  std::vector<Candidate> candidates;
  std::string best_isa;  ///< of the candidates
};

/// The roofs for one instruction set with all threads.
struct Roofs {
  double bytes_per_second = 0;
  double f32_per_second = 0;  ///< of f32 activations, by whatever instructions are fastest
  double int8_per_second = 0;
  int64_t cache_bytes = 0;
  double cached_bytes_per_second = 0;
  double bf16_per_second = 0;  ///< of dots of bf16; 0 = none
  double fma_per_second = 0;   ///< of f32 multiply-adds: what f32 weights, attention, training need

  /// Of reading so many bytes again and again.
  double read_per_second(double bytes) const {
    return bytes < double(cache_bytes) / 2 ? cached_bytes_per_second : bytes_per_second;
  }
};

/// As /proc/cpuinfo names it.
std::string cpu_name();
/// As the system says, not the CPU itself: a virtual machine may own a slice of a large cache. 0
/// where nothing is known.
int64_t last_cache_bytes();

/// Times everything with the current number of threads; takes some seconds. `progress` gets a
/// fraction.
Machine measure_machine(const std::function<void(double fraction)>& progress);
/// Measures the roofs of the current table: all in about a second, briefly in a tenth, memory alone
/// in some hundredths. On a shared machine the bandwidth changes from second to second: what is
/// compared with it must run between two measurements. Holds 256 MB.
class RoofMeter {
 public:
  static constexpr int64_t kBytes = int64_t{256} << 20;  ///< that it holds
  class Region;
  RoofMeter();
  ~RoofMeter();
  RoofMeter(const RoofMeter&) = delete;
  RoofMeter& operator=(const RoofMeter&) = delete;
  Roofs measure(bool brief = false) const;
  /// Bytes a second, read by all threads.
  double read_per_second() const;

 private:
  std::unique_ptr<Region> region_;
};
/// Those of `isa` with the current number of threads; nothing where that was not measured.
std::optional<Roofs> roofs_of(const Machine& m, const std::string& isa);

/// Whether other work on the machine spoilt the measurement: all threads together do less in a loop
/// on registers than half of what one thread's products do on each of them.
bool is_disturbed(const Machine& m);
/// Whether dots of bf16 made products of `isa` faster than f32 multiply-adds.
bool bf16_dots_are_faster(const Machine& m, const std::string& isa);

/// Where measurements are kept: the user's cache directory.
std::filesystem::path machine_cache();
/// What a cache file holds.
Json machine_json(const Machine& m);
/// Raises io.
void save_machine(const Machine& m, const std::filesystem::path& file);
/// Nothing where there is none, it is not readable, it is of another CPU or one with another cache,
/// or chooses an instruction set that does not run here.
std::optional<Machine> load_machine(const std::filesystem::path& file);

}  // namespace hone::kernels
