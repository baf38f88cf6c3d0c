// hone bench: prefill and decode speed of a model on this machine.
#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "base/threads.h"
#include "command.h"
#include "kernels/select.h"
#include "models/session.h"

namespace hone {
namespace {

struct BenchFlags {
  ModelArgument model;
  int64_t prompt = 512, decode = 64, depth = 0, runs = 5;
};

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

// Token ids that a model may see: spread over the vocabulary, the same in every run.
std::vector<int32_t> some_tokens(int64_t n, int64_t vocabulary) {
  std::vector<int32_t> ids;
  uint64_t x = 12345;
  for (int64_t i = 0; i < n; ++i) {
    x = x * 6364136223846793005ull + 1442695040888963407ull;
    ids.push_back(static_cast<int32_t>((x >> 33) % static_cast<uint64_t>(vocabulary)));
  }
  return ids;
}

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  auto f = std::make_shared<BenchFlags>();
  f->model.add(app);
  auto count = CLI::Range(int64_t{0}, int64_t{1} << 20);
  app.add_option("--prompt", f->prompt, "tokens of the prefill")
      ->check(count)
      ->capture_default_str();
  app.add_option("--decode", f->decode, "tokens decoded one by one")
      ->check(count)
      ->capture_default_str();
  app.add_option("--depth", f->depth, "tokens already in the cache")
      ->check(count)
      ->capture_default_str();
  app.add_option("--runs", f->runs, "runs; the median is printed")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  return [f, &common] {
    double started = monotonic_seconds();
    LoadedModel m = f->model.load();
    double load = monotonic_seconds() - started;
    HONE_CHECK(f->depth + std::max(f->prompt, f->decode) <= m.model->context, invalid_argument,
               "depth {} and {} tokens exceed the model's context of {}", f->depth,
               std::max(f->prompt, f->decode), m.model->context);
    Session session(*m.model, common.precision());
    auto ids = some_tokens(f->depth + std::max(f->prompt, f->decode) + 1, m.model->vocabulary());
    std::span<const int32_t> all(ids);
    if (f->depth > 0) session.append(all.first(f->depth));
    std::vector<double> prefill, decode;
    Progress progress("benchmark", f->runs);
    // The first round warms caches and page tables and does not count.
    for (int64_t run = -1; run < f->runs; ++run) {
      if (f->prompt > 0) {
        session.truncate(f->depth);
        started = monotonic_seconds();
        session.append(all.subspan(f->depth, f->prompt));
        if (run >= 0) prefill.push_back(double(f->prompt) / (monotonic_seconds() - started));
      }
      if (f->decode > 0) {
        session.truncate(f->depth);
        started = monotonic_seconds();
        for (int64_t i = 0; i < f->decode; ++i) session.append(all.subspan(f->depth + i, 1));
        if (run >= 0) decode.push_back(double(f->decode) / (monotonic_seconds() - started));
      }
      progress.update(run + 1);
    }
    int64_t bytes = 0;
    for (Linear* l : m.model->linears()) bytes += l->resident_bytes();
    Json j;
    if (!prefill.empty()) j["prefill_tokens_per_second"] = median(prefill);
    if (!decode.empty()) {
      j["decode_tokens_per_second"] = median(decode);
      j["decode_bytes_per_second"] = median(decode) * static_cast<double>(bytes);
    }
    j["prompt"] = f->prompt;
    j["decode"] = f->decode;
    j["depth"] = f->depth;
    j["model_bytes"] = bytes;
    j["load_seconds"] = load;
    j["peak_rss_bytes"] = peak_rss_bytes();
    j["threads"] = thread_count();
    j["isa"] = kernels::table().isa;
    j["activations"] = common.activations;
    if (common.json) {
      print_json(j);
      return;
    }
    std::vector<std::vector<std::string>> rows{{"measure", "median", "best", "unit"}};
    auto speed = [&](const std::string& name, const std::vector<double>& v) {
      if (!v.empty())
        rows.push_back({name, fmt::format("{:.1f}", median(v)),
                        fmt::format("{:.1f}", *std::max_element(v.begin(), v.end())), "tokens/s"});
    };
    speed(fmt::format("prefill {}", f->prompt), prefill);
    speed(fmt::format("decode {}", f->decode), decode);
    if (!decode.empty())
      rows.push_back({"weights read in decode",
                      fmt::format("{:.1f}", median(decode) * double(bytes) / 1e9), "", "GB/s"});
    rows.push_back({"weights in memory", human_bytes(double(bytes)), "", ""});
    rows.push_back({"peak memory", human_bytes(double(peak_rss_bytes())), "", ""});
    rows.push_back({"load", human_seconds(load), "", ""});
    fmt::print("{}", text_table(rows));
    log_info("depth {}; {}", f->depth, precision_line(m, common.precision()));
  };
}

}  // namespace

extern const Command kBenchCommand;
const Command kBenchCommand{"bench", "prefill and decode speed", add};

}  // namespace hone
