// Products y = x·Wᵀ of every encoding on every instruction set of this CPU, beside the roofline.
//   products [--json FILE] [--isa NAME] [ENCODING...]
// Prints the Markdown tables of docs/performance.md; the file gets every figure, for
// plot_roofline.py. Each product is compared with kernels/ref first.
//
// The weights of decode and batches are several times the last-level cache: copies of one matrix,
// multiplied in one parallel loop. The roofs are measured with each instruction set for each
// encoding, and the bandwidth also before and after each pass: on a shared machine it changes from
// second to second. What a product is said to reach is the median of its passes' fractions.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/median.h"
#include "base/threads.h"
#include "encodings/product.h"
#include "kernels/machine.h"
#include "kernels/ref/ref.h"
#include "kernels/select.h"
#include "random_tensor.h"

namespace hone {
namespace {

constexpr int64_t kRows = 1024, kColumns = 4096;
constexpr double kSeconds = 0.12;  // of one cell, where a pass is not longer
constexpr size_t kLeastPasses = 3, kMostPasses = 7;

using Tables = std::vector<const kernels::KernelTable*>;

struct Phase {
  const char* name;
  int64_t tokens;
};
constexpr Phase kPhases[] = {{"decode", 1}, {"batch 8", 8}, {"prefill", 512}};

// An encoding with parameters; several where the compute layout depends on them.
struct Variant {
  std::string name, encoding;
  WeightParams params;
};

std::vector<Variant> variants(const std::set<std::string>& wanted) {
  std::vector<Variant> all;
  for (const Encoding* e : encodings()) {
    std::string id(e->id());
    if (!wanted.empty() && wanted.count(id) == 0) continue;
    if (id != "int_group") {
      all.push_back({id, id, {}});
      continue;
    }
    for (int bits : {4, 8})
      for (bool symmetric : {true, false})
        all.push_back({fmt::format("int_group, {} bits{}", bits, symmetric ? "" : ", zeros"),
                       id,
                       {.bits = bits, .group = 64, .symmetric = symmetric}});
  }
  return all;
}

std::string layout_name(const PackedWeight& w) {
  if (!w.coded) return fmt::format("{} panel", dtype_name(w.type));
  std::string text = fmt::format("{}-bit codes", w.form.bits);
  if (w.form.table != nullptr) text += ", table";
  text += fmt::format(", {} scale", w.form.scale_is_f16 ? "f16" : "f32");
  if (w.form.has_mins != 0) text += " + min";
  return text + (w.form.group == w.k ? " of a row" : fmt::format(" of {}", w.form.group));
}

struct Cell {
  std::string variant, layout, isa, phase;
  int64_t tokens;
  Activations activations;
  double bits;                    // of a weight, with its share of scales
  double operations, bytes;       // of one pass
  double seconds;                 // the median
  double memory_roof, peak_roof;  // bytes and operations a second
  double fraction;
};

// The same weight many times, so that it comes from memory.
std::vector<PackedWeight> copies_of(const PackedWeight& w, int64_t bytes) {
  std::vector<PackedWeight> all{w};
  while (w.byte_size() * int64_t(all.size()) < bytes) {
    all.push_back(w);
    all.back().bytes = w.bytes.clone();
  }
  return all;
}

void check(const Variant& v, const Tensor& decoded, const PackedWeight& w, Activations a) {
  constexpr int64_t kTokens = 3, kChecked = 160;
  Tensor x = random_tensor({kTokens, kColumns}, 3);
  Tensor y = multiply(LinearInput(x), w, {}, a);
  std::vector<float> expected(kTokens * kChecked);
  kernels::ref::gemm(x.data<float>(), decoded.data<float>(), nullptr, kTokens, kChecked, kColumns,
                     expected.data());
  double miss = 0, all = 0;
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t i = 0; i < kChecked; ++i) {
      double e = expected[t * kChecked + i], d = y.data<float>()[t * kRows + i] - e;
      miss += d * d;
      all += e * e;
    }
  const double error = std::sqrt(miss / all), bound = a == Activations::int8 ? 0.012 : 3e-6;
  HONE_CHECK(error < bound, internal, "{} on {} with {} activations: the relative error is {:.2g}",
             v.name, kernels::table().isa, activations_name(a), error);
}

// Times one cell; `cell` brings what is known beforehand.
Cell timed(Cell cell, std::span<const PackedWeight> copies, const kernels::RoofMeter& meter) {
  Tensor none, x = random_tensor({cell.tokens, kColumns}, 4);
  std::vector<Product> products;
  for (const PackedWeight& w : copies) products.push_back({&w, &none});
  const bool cached = cell.bytes < double(16 << 20);  // a lone weight may stay in a cache
  auto pass = [&] {
    double started = monotonic_seconds();
    multiply_all(LinearInput(x), products, cell.activations);
    return monotonic_seconds() - started;
  };
  pass();
  std::vector<double> seconds, fractions, reads{meter.read_per_second()};
  double spent = 0;
  while (seconds.size() < kLeastPasses || (spent < kSeconds && seconds.size() < kMostPasses)) {
    seconds.push_back(pass());
    spent += seconds.back();
    reads.push_back(meter.read_per_second());
    double read = (reads.back() + reads[reads.size() - 2]) / 2;
    double least = std::max(cached ? 0.0 : cell.bytes / read, cell.operations / cell.peak_roof);
    fractions.push_back(least / seconds.back());
  }
  cell.seconds = median(seconds);
  cell.memory_roof = median(reads);
  cell.fraction = median(fractions);
  return cell;
}

// A prefill is limited by its operations, whether its weights come from memory or not.
size_t few(size_t copies, double peak) {
  const double one = 2.0 * kRows * kColumns * double(kPhases[2].tokens);
  return std::clamp<size_t>(size_t(kSeconds / 3 * peak / one), 1, copies);
}

std::vector<Cell> cells_of(const Variant& v, const Tables& tables,
                           const kernels::RoofMeter& meter) {
  Tensor values = random_tensor({kRows, kColumns}, 1);
  EncodeOptions options;
  options.params = v.params;
  Weight w = encoding(v.encoding).encode(values.data<float>(), kRows, kColumns, options);
  PackedWeight packed = pack_weight(w);
  Tensor decoded = decode_weight(w);
  std::vector<PackedWeight> copies;
  std::vector<Cell> cells;
  for (const auto* table : tables) {
    kernels::set_isa(table->isa);
    const kernels::Roofs roofs = meter.measure();
    if (copies.empty()) copies = copies_of(packed, 4 * roofs.cache_bytes);
    for (Activations a : {Activations::int8, Activations::f32}) {
      if (a == Activations::int8 && !packed.coded) continue;
      check(v, decoded, packed, a);
      for (const Phase& phase : kPhases) {
        const double peak = a == Activations::int8 ? roofs.int8_per_second : roofs.f32_per_second;
        const size_t count = phase.tokens < 64 ? copies.size() : few(copies.size(), peak);
        const double weights = double(count) * kRows * kColumns;
        const double bytes = double(count) * double(packed.byte_size());
        Cell cell{v.name,
                  layout_name(packed),
                  table->isa,
                  phase.name,
                  phase.tokens,
                  a,
                  8 * bytes / weights,
                  2 * weights * double(phase.tokens),
                  bytes,
                  0,
                  0,
                  peak,
                  0};
        cells.push_back(timed(cell, std::span(copies).first(count), meter));
      }
    }
  }
  return cells;
}

// One row for each variant of these activations; `rest`: those that have no int8 products as well.
void print_table(const std::vector<Cell>& cells, const Tables& tables, Activations a, bool rest) {
  std::string head = "| Encoding | Compute layout | Bits |", line = "|---|---|---|";
  for (const auto* table : tables) {
    head += fmt::format(" {} |", table->isa);
    line += "---|";
  }
  fmt::print("{}\n{}\n", head, line);
  std::set<std::string> integer;
  for (const Cell& c : cells)
    if (c.activations == Activations::int8) integer.insert(c.variant);
  for (size_t i = 0; i < cells.size();) {
    const Cell& first = cells[i];
    std::string row = fmt::format("| {} | {} | {:.4g} |", first.variant, first.layout, first.bits),
                isa;
    const bool shown = rest || integer.count(first.variant) != 0;
    for (; i < cells.size() && cells[i].variant == first.variant; ++i) {
      const Cell& c = cells[i];
      if (c.activations != a && (!rest || integer.count(c.variant) != 0)) continue;
      row += fmt::format("{}{:.0f}", c.isa != isa ? (isa.empty() ? " " : " | ") : " / ",
                         100 * c.fraction);
      isa = c.isa;
    }
    if (shown) fmt::print("{} |\n", row);
  }
}

Json to_json(const std::vector<Cell>& cells) {
  Json all = Json::array();
  for (const Cell& c : cells)
    all.push_back({{"encoding", c.variant},
                   {"layout", c.layout},
                   {"isa", c.isa},
                   {"phase", c.phase},
                   {"tokens", c.tokens},
                   {"activations", activations_name(c.activations)},
                   {"bits_per_weight", c.bits},
                   {"operations", c.operations},
                   {"bytes", c.bytes},
                   {"seconds", c.seconds},
                   {"read_per_second", c.memory_roof},
                   {"peak_per_second", c.peak_roof},
                   {"fraction", c.fraction}});
  return {{"cpu", kernels::cpu_name()}, {"threads", thread_count()}, {"cells", all}};
}

// The word behind `flag`, which is taken out of the arguments; empty where it is not there.
std::string take(std::vector<std::string>& args, const std::string& flag) {
  auto at = std::find(args.begin(), args.end(), flag);
  if (at == args.end()) return {};
  HONE_CHECK(at + 1 != args.end(), invalid_argument, "{}: a word is missing", flag);
  std::string word = at[1];
  args.erase(at, at + 2);
  return word;
}

int run(std::vector<std::string> args) {
  const std::string file = take(args, "--json"), isa = take(args, "--isa");
  Tables tables = kernels::available_tables();
  if (!isa.empty()) {
    kernels::set_isa(isa);
    tables = {&kernels::table()};
  }
  for (const std::string& id : args) encoding(id);
  std::ofstream json;
  if (!file.empty()) json.open(file);
  HONE_CHECK(json, io, "{}: cannot be written", file);
  std::vector<Cell> cells;
  kernels::RoofMeter meter;
  const auto wanted = variants({args.begin(), args.end()});
  double started = monotonic_seconds();
  for (const Variant& v : wanted) {
    std::vector<Cell> some = cells_of(v, tables, meter);
    cells.insert(cells.end(), some.begin(), some.end());
    fmt::print(stderr, "{}: {:.0f} s\n", v.name, monotonic_seconds() - started);
  }
  fmt::print("Percent of the limit, {} threads; decode / batch of 8 / prefill of 512:\n\n",
             thread_count());
  print_table(cells, tables, Activations::int8, true);
  fmt::print("\nThe same with f32 activations (`--activations f32`):\n\n");
  print_table(cells, tables, Activations::f32, false);
  if (file.empty()) return 0;
  json << to_json(cells).dump(1) << "\n";
  json.close();
  HONE_CHECK(json, io, "{}: cannot be written", file);
  return 0;
}

}  // namespace
}  // namespace hone

int main(int argc, char** argv) {
  try {
    if (argc > 1 && (argv[1] == std::string_view("-h") || argv[1] == std::string_view("--help"))) {
      std::puts("usage: products [--isa NAME] [--json FILE] [ENCODING...]");
      return 0;
    }
    return hone::run({argv + 1, argv + argc});
  } catch (const std::exception& e) {
    std::fprintf(stderr, "products: %s\n", e.what());
    return 1;
  }
}
