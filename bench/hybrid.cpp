// Attention of hybrid batches: a prefill chunk and decodes of other sequences in one call.
//
//   hybrid [--chunk N] [--contexts N,...] [--ratios R,...] [--threads N,...] [--heads H]
//          [--kv-heads H] [--head-size D] [--kv-cache TYPE] [--rounds N]
//
// A cell: a chunk of queries, the last of `context` keys, and as many decodes behind as many keys
// as take `ratio` times as long. In turn, round by round: (a) the chunk, then the decodes, in calls
// of their own; (b) one list of both kinds; POD, the interleaved order. A gain is the median of the
// rounds' ratios to (a). The bound is what no order can beat, (chunk + decodes)/max(chunk,
// decodes): a gain above it would say that the run was disturbed, and is marked with "!". Prints
// the table of docs/performance.md, with what the planner expects of the roofs of the moment.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "attention/attention.h"
#include "attention/planner.h"
#include "base/error.h"
#include "base/log.h"
#include "base/median.h"
#include "base/threads.h"
#include "kernels/machine.h"
#include "kernels/select.h"
#include "random_tensor.h"

namespace hone {
namespace {

// A call reads another layer than the one before, as in a model: what it reads is in no cache, and
// pages are large.
constexpr int64_t kLayers = 8;
constexpr int64_t kMostBytes = int64_t{4} << 30;  // of keys and values of all layers

struct Flags {
  int64_t chunk = 128, heads = 8, kv_heads = 2, head_size = 128, rounds = 7;
  std::vector<int64_t> contexts{1024, 4096, 8192}, threads{1, 2};
  std::vector<double> ratios{0.25, 0.5, 1, 2};
  std::string type = "f32", isa = "auto";
};

// Sequences of one length in one cache, the first for the chunk.
class Sequences {
 public:
  Sequences(const AttentionSpec& spec, KvType type, int64_t keys)
      : cache_(std::vector<KvShape>(kLayers, {spec.kv_heads, spec.k_dim, spec.v_dim}), type),
        keys_(keys),
        k_(random_tensor({keys, spec.kv_heads * spec.k_dim}, 1)),
        v_(random_tensor({keys, spec.kv_heads * spec.v_dim}, 2)) {}

  /// The first is for a chunk of so many queries; the others for one. A coded cache holds the pages
  /// of queries in f32 until they are committed.
  void grow(size_t n, int64_t chunk) {
    while (all_.size() < n) {
      KvSequence& s = *all_.emplace_back(std::make_unique<KvSequence>());
      write(s, 0, keys_ - (all_.size() == 1 ? chunk : 1));
      cache_.commit(s, keys_ - (all_.size() == 1 ? chunk : 1));
      write(s, s.length, keys_);
    }
  }
  int64_t bytes_of_one() const { return cache_.page_bytes() * ((keys_ + 63) / 64); }
  int64_t keys() const { return keys_; }
  KvCache& cache() { return cache_; }
  int64_t next_layer() { return layer_ = (layer_ + 1) % kLayers; }
  KvSequence* at(size_t i) { return all_[i].get(); }

 private:
  void write(KvSequence& s, int64_t from, int64_t to) {
    cache_.reserve(s, to);
    for (int64_t layer = 0; layer < kLayers; ++layer)
      cache_.write(layer, s, from, to - from, k_.data<float>() + from * k_.dim(1),
                   v_.data<float>() + from * v_.dim(1));
  }

  KvCache cache_;
  int64_t keys_, layer_ = 0;
  Tensor k_, v_;
  std::vector<std::unique_ptr<KvSequence>> all_;
};

struct Batches {
  std::vector<SequenceSpan> chunk, decodes, both;
  Batches(Sequences& s, int64_t queries, int64_t n) {
    s.grow(static_cast<size_t>(n) + 1, queries);
    chunk.push_back({0, queries, s.keys() - queries, s.at(0)});
    both = chunk;
    for (int64_t i = 0; i < n; ++i) {
      decodes.push_back({i, i + 1, s.keys() - 1, s.at(static_cast<size_t>(i) + 1)});
      both.push_back({queries + i, queries + i + 1, s.keys() - 1, decodes.back().kv});
    }
  }
};

double seconds_of(const AttentionSpec& spec, const Tensor& q, Sequences& s,
                  const std::vector<SequenceSpan>& spans,
                  HybridOrder order = HybridOrder::sequential, Tensor* result = nullptr) {
  const int64_t layer = s.next_layer();
  const double started = monotonic_seconds();
  Tensor o = attend(spec, q, s.cache(), layer, spans, nullptr, {}, nullptr, {order});
  const double took = monotonic_seconds() - started;
  if (result != nullptr) *result = o;
  return took;
}

void cell(const AttentionSpec& spec, Sequences& s, const Flags& f, double ratio, int threads,
          const kernels::RoofMeter& meter) {
  set_threads(threads);
  const int64_t chunk = std::min(f.chunk, s.keys());
  const int64_t most = std::max<int64_t>(1, kMostBytes / s.bytes_of_one() - 1);
  auto queries = [&](int64_t n) { return random_tensor({n, spec.heads * spec.k_dim}, 3); };
  Batches few(s, chunk, std::min<int64_t>(8, most));
  const Tensor q_chunk = queries(chunk);
  seconds_of(spec, q_chunk, s, few.chunk);
  const double one_chunk = seconds_of(spec, q_chunk, s, few.chunk);
  double decodes = 1;
  for (int i = 0; i < 3; ++i)
    decodes = std::min(decodes, seconds_of(spec, queries(std::ssize(few.decodes)), s, few.decodes));
  const auto n = std::clamp<int64_t>(
      std::llround(ratio * one_chunk / decodes * double(few.decodes.size())), 1, most);
  Batches batches(s, chunk, n);
  const Tensor q_both = queries(chunk + n), q_decodes = q_both.rows(chunk, chunk + n).clone();
  Tensor whole, listed, interleaved;
  seconds_of(spec, q_both, s, batches.both, HybridOrder::sequential, &whole);
  const kernels::Roofs roofs = meter.measure(true);
  const KvType type = s.cache().type();
  const std::vector<HybridPart> parts{{{chunk, s.keys(), false, type}, 1},
                                      {{1, s.keys(), false, type}, n}};
  const double expected = plan_hybrid(spec, parts, roofs).seconds->gain();
  std::vector<double> tp, td, gain_list, gain_pod, bound;
  for (int64_t i = 0; i < f.rounds; ++i) {
    tp.push_back(seconds_of(spec, q_chunk, s, batches.chunk));
    td.push_back(seconds_of(spec, q_decodes, s, batches.decodes));
    const double a = tp.back() + td.back();
    gain_list.push_back(a /
                        seconds_of(spec, q_both, s, batches.both, HybridOrder::one_list, &listed));
    gain_pod.push_back(
        a / seconds_of(spec, q_both, s, batches.both, HybridOrder::interleaved, &interleaved));
    bound.push_back(a / std::max(tp.back(), td.back()));
  }
  for (const Tensor* t : {&listed, &interleaved})
    HONE_CHECK(std::memcmp(t->raw(), whole.raw(), static_cast<size_t>(whole.byte_size())) == 0,
               internal, "the orders give other bits");
  const double pod = median(gain_pod), list = median(gain_list), most_gain = median(bound);
  fmt::print("| {} | {} | {} | {:.1f} ms | {:.1f} ms | {:.2f} | {:.2f}{}{} | {:.2f} | {:.2f} |\n",
             threads, s.keys(), n, 1e3 * median(tp), 1e3 * median(td), list, pod,
             pod < std::max(1.0, list) ? " (loses)" : "", pod > most_gain ? " !" : "", most_gain,
             expected);
  std::fflush(stdout);
}

void run(const Flags& f) {
  HONE_CHECK(f.heads % f.kv_heads == 0, invalid_argument,
             "--heads {} is no multiple of --kv-heads {}", f.heads, f.kv_heads);
  kernels::set_isa(f.isa);
  AttentionSpec spec;
  spec.heads = f.heads;
  spec.kv_heads = f.kv_heads;
  spec.k_dim = spec.v_dim = f.head_size;
  spec.scale = 1 / std::sqrt(float(f.head_size));
  fmt::print("Chunk of {}, {}/{} heads of {}, {} cache, {}\n\n", f.chunk, f.heads, f.kv_heads,
             f.head_size, f.type, kernels::table().isa);
  fmt::print(
      "| Threads | Context | Decodes | Chunk | Decodes | (b) / (a) | POD / (a) | Bound | Expected "
      "|\n|---|---|---|---|---|---|---|---|---|\n");
  for (int64_t context : f.contexts) {
    Sequences s(spec, kv_type_from_name(f.type), context);
    for (int64_t threads : f.threads) {
      set_threads(static_cast<int>(threads));
      kernels::RoofMeter meter;
      for (double ratio : f.ratios) cell(spec, s, f, ratio, static_cast<int>(threads), meter);
    }
  }
}

}  // namespace
}  // namespace hone

int main(int argc, char** argv) {
  hone::Flags f;
  CLI::App app("attention of hybrid batches");
  app.add_option("--chunk", f.chunk)->check(CLI::Range(1, 1 << 20));
  app.add_option("--contexts", f.contexts)->delimiter(',')->check(CLI::Range(1, 1 << 20));
  app.add_option("--ratios", f.ratios)->delimiter(',')->check(CLI::PositiveNumber);
  app.add_option("--threads", f.threads)->delimiter(',')->check(CLI::Range(1, 1 << 10));
  app.add_option("--heads", f.heads)->check(CLI::Range(1, 1 << 10));
  app.add_option("--kv-heads", f.kv_heads)->check(CLI::Range(1, 1 << 10));
  app.add_option("--head-size", f.head_size)->check(CLI::Range(1, 1 << 10));
  app.add_option("--kv-cache", f.type);
  app.add_option("--rounds", f.rounds)->check(CLI::Range(1, 1000));
  app.add_option("--isa", f.isa);
  CLI11_PARSE(app, argc, argv);
  try {
    hone::run(f);
  } catch (const std::exception& e) {
    fmt::print(stderr, "hybrid: {}\n", e.what());
    return 1;
  }
}
