// A model's hybrid step: a prefill chunk and decodes of other requests in one forward, which
// streams the weights once, beside a step of each kind.
//
//   hybrid_step MODEL [--chunks N,...] [--decodes N,...] [--context N] [--threads N,...]
//               [--activations int8|f32] [--rounds N]
//
// All requests hold `context` tokens. In turn, round by round: the chunk, then the decodes; both in
// one. Times include the head for each request. The gain is the median of the rounds' ratios; the
// bound, which it cannot reach, is what the longer of the two steps takes alone. Logits are
// compared bit by bit.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/log.h"
#include "base/median.h"
#include "base/threads.h"
#include "kernels/select.h"
#include "models/loader.h"
#include "models/session.h"
#include "ops/elementwise.h"

namespace hone {
namespace {

struct Flags {
  std::string model, activations = "int8";
  std::vector<int64_t> chunks{32, 128, 480}, decodes{4, 16, 32}, threads{1, 2};
  int64_t context = 512, rounds = 5;
};

class Requests {
 public:
  Requests(Model& model, Activations a, int64_t n, int64_t context)
      : model_(model), activations_(a), context_(context), cache_(model.kv_shapes()), all_(n) {
    for (int64_t i = 0; i < n; ++i)
      for (int64_t at = 0; at < context; at += kChunkTokens) {
        Batch batch = empty();
        batch.append(tokens(std::min(kChunkTokens, context - at), i + at), &all_[i]);
        model.forward(batch, cache_);
      }
  }

  /// The first request takes `chunk` tokens where `prefill`; each of the next `decodes` takes one.
  /// Seconds, and the logits of all of them.
  double step(bool prefill, int64_t chunk, int64_t decodes, std::vector<float>& logits) {
    Batch batch = empty();
    if (prefill) batch.append(tokens(chunk, 1), &all_[0]);
    for (int64_t i = 1; i <= decodes; ++i)
      batch.append(tokens(1, i), &all_[static_cast<size_t>(i)]);
    const double started = monotonic_seconds();
    const Tensor x = model_.forward(batch, cache_);
    std::vector<int64_t> last;
    for (const SequenceSpan& s : batch.spans) last.push_back(s.end - 1);
    const Tensor y = model_.logits(ops::gather_rows(x, last), activations_);
    const double took = monotonic_seconds() - started;
    logits.insert(logits.end(), y.data<float>(), y.data<float>() + y.numel());
    for (KvSequence& s : all_)
      HONE_CHECK(cache_.truncate(s, context_) == context_, unsupported,
                 "a model with windows or a state cannot go back by a step");
    return took;
  }

 private:
  std::vector<int32_t> tokens(int64_t n, int64_t seed) const {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < n; ++i)
      ids.push_back(static_cast<int32_t>((i * 7919 + seed * 104729) % model_.vocabulary()));
    return ids;
  }
  Batch empty() const {
    Batch batch;
    batch.activations = activations_;
    return batch;
  }
  Model& model_;
  Activations activations_;
  int64_t context_;
  KvCache cache_;
  std::vector<KvSequence> all_;
};

void cell(Requests& r, const Flags& f, int64_t chunk, int64_t decodes) {
  std::vector<double> prefill, decode, both, gain, bound;
  std::vector<float> apart, together;
  for (int64_t round = -1; round < f.rounds; ++round) {
    apart.clear();
    together.clear();
    const double p = r.step(true, chunk, 0, apart), d = r.step(false, 0, decodes, apart);
    const double b = r.step(true, chunk, decodes, together);
    HONE_CHECK(apart.size() == together.size() &&
                   std::memcmp(apart.data(), together.data(), apart.size() * 4) == 0,
               internal, "a hybrid step gives other logits");
    if (round < 0) continue;
    prefill.push_back(p);
    decode.push_back(d);
    both.push_back(b);
    gain.push_back((p + d) / b);
    bound.push_back((p + d) / std::max(p, d));
  }
  fmt::print("| {} | {} | {} | {:.1f} ms | {:.1f} ms | {:.1f} ms | {:.2f}{} | {:.2f} |\n",
             thread_count(), chunk, decodes, 1e3 * median(prefill), 1e3 * median(decode),
             1e3 * median(both), median(gain), median(gain) < 1 ? " (loses)" : "", median(bound));
  std::fflush(stdout);
}

void run(const Flags& f) {
  const LoadedModel m = load_model(f.model);
  const Activations a = f.activations == "f32" ? Activations::f32 : Activations::int8;
  const int64_t most = *std::max_element(f.decodes.begin(), f.decodes.end());
  Requests requests(*m.model, a, most + 1, f.context);
  fmt::print(
      "{} tokens of context, {} activations, {}\n\n| Threads | Chunk | Decodes | Prefill "
      "step | Decode step | Hybrid step | Gain | Bound |\n|---|---|---|---|---|---|---|---|\n",
      f.context, m.model->activations_used(a), kernels::table().isa);
  for (int64_t threads : f.threads) {
    set_threads(static_cast<int>(threads));
    for (int64_t chunk : f.chunks)
      for (int64_t decodes : f.decodes) cell(requests, f, chunk, decodes);
  }
}

}  // namespace
}  // namespace hone

int main(int argc, char** argv) {
  hone::Flags f;
  CLI::App app("a hybrid step of a model");
  app.add_option("MODEL", f.model)->required();
  app.add_option("--chunks", f.chunks)->delimiter(',')->check(CLI::Range(1, 1 << 16));
  app.add_option("--decodes", f.decodes)->delimiter(',')->check(CLI::Range(1, 1 << 12));
  app.add_option("--context", f.context)->check(CLI::Range(1, 1 << 16));
  app.add_option("--threads", f.threads)->delimiter(',')->check(CLI::Range(1, 1 << 10));
  app.add_option("--activations", f.activations)->check(CLI::IsMember({"int8", "f32"}));
  app.add_option("--rounds", f.rounds)->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  try {
    hone::run(f);
  } catch (const std::exception& e) {
    fmt::print(stderr, "hybrid_step: {}\n", e.what());
    return 1;
  }
}
