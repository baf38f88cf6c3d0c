// hone bench: prefill and decode speed of a model on this machine, beside the machine's limits; and
// those limits.
#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/checked.h"
#include "base/log.h"
#include "base/median.h"
#include "base/memory.h"
#include "base/threads.h"
#include "bench_train.h"
#include "command.h"
#include "kernels/machine.h"
#include "kernels/select.h"
#include "models/roofline.h"
#include "models/session.h"

namespace hone {
namespace bench_command {

struct BenchFlags {
  ModelArgument model;
  int64_t prompt = 512, decode = 64, depth = 0, batch = 1, runs = 5;
  bool machine = false;
  TrainBenchFlags train;
};

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

struct Measured {
  std::vector<double> prefill, decode;  // tokens per second of each run
  double load_seconds = 0;
  int64_t model_bytes = 0;  // all weights
  int64_t read_bytes = 0;   // those that every token reads
  int64_t peak_rss = 0;
  std::string activations;               // that products used
  kernels::Roofs roofs;                  // of this moment
  bool limits = false;                   // were measured
  double prefill_of = 0, decode_of = 0;  // fractions of them
};

// Sequences of the same tokens that run side by side.
class Sequences {
 public:
  Sequences(Model& model, Activations activations, KvType kv, int64_t count,
            std::vector<int32_t> tokens)
      : model_(model),
        activations_(activations),
        tokens_(std::move(tokens)),
        virtual_(model.virtual_tokens()),
        cache_(model.kv_shapes(), kv),
        sequences_(static_cast<size_t>(count)) {}

  /// Of all sequences, each so long.
  int64_t cache_bytes(int64_t length) const {
    return checked_mul(checked_add(checked_mul(ceil_div(length, int64_t{kernels::kPageKeys}),
                                               cache_.page_bytes(), "KV cache"),
                                   model_.state_bytes(), "KV cache"),
                       std::ssize(sequences_), "KV cache");
  }
  void fill(int64_t depth) {
    for (KvSequence& s : sequences_) begin(s, depth);
  }
  void truncate(int64_t length) {
    for (KvSequence& s : sequences_) {
      if (cache_.truncate(s, virtual_ + length) == virtual_ + length) continue;
      // Pages that it would need were given back.
      cache_.truncate(s, 0);
      begin(s, length);
    }
  }
  /// `count` tokens of the first sequence, and the logits of the last.
  void prefill(int64_t from, int64_t count) {
    Tensor last = run(sequences_[0], from, count);
    model_.logits(last.rows(last.dim(0) - 1, last.dim(0)), activations_);
  }
  /// One token of every sequence, and their logits.
  void step(int64_t position) {
    Batch batch;
    batch.activations = activations_;
    for (KvSequence& s : sequences_) batch.append({&tokens_[position], 1}, &s);
    model_.logits(model_.forward(batch, cache_), activations_);
  }

 private:
  void begin(KvSequence& s, int64_t depth) {
    model_.begin(cache_, s, activations_);
    run(s, 0, depth);
    KvCache::keep(s);
  }
  // In pieces, as a session runs them; the hidden states of the last piece.
  Tensor run(KvSequence& s, int64_t from, int64_t count) {
    Tensor last;
    for (int64_t at = from; at < from + count; at += kChunkTokens) {
      Batch batch;
      batch.activations = activations_;
      auto size = static_cast<size_t>(std::min(kChunkTokens, from + count - at));
      batch.append(std::span(tokens_).subspan(static_cast<size_t>(at), size), &s);
      last = model_.forward(batch, cache_);
    }
    return last;
  }

  Model& model_;
  Activations activations_;
  std::vector<int32_t> tokens_;
  int64_t virtual_;  // positions of prefixes and prompts in front of each sequence
  KvCache cache_;
  std::vector<KvSequence> sequences_;
};

// The machine's limits before and after each run: on a shared machine they change.
class Limits {
 public:
  explicit Limits(const std::optional<kernels::RoofMeter>& meter) : meter_(meter) { sample(); }
  /// The mean of those before and behind the run that has just ended.
  kernels::Roofs around_run() {
    kernels::Roofs before = samples_.back();
    sample();
    kernels::Roofs r = samples_.back();
    for (auto part : kParts) r.*part = (before.*part + r.*part) / 2;
    return r;
  }
  kernels::Roofs medians() const {
    kernels::Roofs r = samples_.back();
    for (auto part : kParts) {
      std::vector<double> all;
      for (const kernels::Roofs& s : samples_) all.push_back(s.*part);
      r.*part = median(all);
    }
    return r;
  }

 private:
  static constexpr double kernels::Roofs::*kParts[] = {
      &kernels::Roofs::bytes_per_second, &kernels::Roofs::cached_bytes_per_second,
      &kernels::Roofs::f32_per_second, &kernels::Roofs::int8_per_second,
      &kernels::Roofs::bf16_per_second};
  void sample() { samples_.push_back(meter_ ? meter_->measure(true) : kernels::Roofs{}); }

  const std::optional<kernels::RoofMeter>& meter_;
  std::vector<kernels::Roofs> samples_;
};

void measure(const BenchFlags& f, LoadedModel& m, const CommonOptions& common, Measured& out) {
  const Activations activations = common.precision();
  int64_t longest = f.depth + std::max(f.prompt, f.decode);
  const int64_t before = m.model->virtual_tokens();
  HONE_CHECK(before + longest <= m.model->context, invalid_argument,
             "depth {} and {} tokens exceed the context of {}, {}", before + f.depth,
             longest - f.depth, m.path, m.model->context);
  m.model->set_reach(before + longest);
  Sequences all(*m.model, activations, common.kv(), f.batch,
                some_tokens(longest, m.model->vocabulary()));
  require_memory(all.cache_bytes(before + longest),
                 fmt::format("KV cache of {} sequences of {} positions", f.batch, longest));
  all.fill(f.depth);
  auto prefill = [&] {
    all.truncate(f.depth);
    double started = monotonic_seconds();
    all.prefill(f.depth, f.prompt);
    return monotonic_seconds() - started;
  };
  auto decode = [&] {
    all.truncate(f.depth);
    double started = monotonic_seconds();
    for (int64_t i = 0; i < f.decode; ++i) all.step(f.depth + i);
    return monotonic_seconds() - started;
  };
  // The first round warms caches and page tables and does not count.
  Progress progress("benchmark", f.runs + 1);
  if (f.prompt > 0) prefill();
  if (f.decode > 0) decode();
  progress.update(1);
  out.peak_rss = peak_rss_bytes();
  out.activations = m.model->activations_used(activations);
  out.model_bytes = m.running_bytes();
  for (const Linear* l : m.model->linears()) out.read_bytes += l->resident_bytes();
  Work work = work_of(*m.model, activations, common.kv());
  // Where its memory is not to be had the limits are missing, and nothing else.
  std::optional<kernels::RoofMeter> meter;
  if (available_memory() > 2 * kernels::RoofMeter::kBytes) meter.emplace();
  Limits limits(meter);
  std::vector<double> prefill_of, decode_of;
  for (int64_t run = 0; run < f.runs; ++run) {
    if (f.prompt > 0) {
      double seconds = prefill();
      out.prefill.push_back(double(f.prompt) / seconds);
      prefill_of.push_back(prefill_limit(work, limits.around_run(), f.prompt, f.depth) / seconds);
    }
    if (f.decode > 0) {
      double seconds = decode();
      out.decode.push_back(double(f.batch * f.decode) / seconds);
      // The middle of the decoded tokens stands for all.
      double least = decode_limit(work, limits.around_run(), f.depth + f.decode / 2, f.batch);
      decode_of.push_back(double(f.decode) * least / seconds);
    }
    progress.update(run + 2);
  }
  out.roofs = limits.medians();
  out.limits = meter.has_value();
  if (f.prompt > 0) out.prefill_of = median(prefill_of);
  if (f.decode > 0) out.decode_of = median(decode_of);
}

Json to_json(const BenchFlags& f, const Measured& r, const CommonOptions& common) {
  Json j;
  if (!r.prefill.empty()) {
    j["prefill_tokens_per_second"] = median(r.prefill);
    if (r.limits) j["prefill_of_limit"] = r.prefill_of;
  }
  if (!r.decode.empty()) {
    j["decode_tokens_per_second"] = median(r.decode);
    j["decode_bytes_per_second"] = median(r.decode) / double(f.batch) * double(r.read_bytes);
    if (r.limits) j["decode_of_limit"] = r.decode_of;
  }
  j["prompt"] = f.prompt;
  j["decode"] = f.decode;
  j["depth"] = f.depth;
  j["batch"] = f.batch;
  j["model_bytes"] = r.model_bytes;
  j["load_seconds"] = r.load_seconds;
  j["peak_rss_bytes"] = r.peak_rss;
  if (r.limits) {
    j["read_bytes_per_second"] = r.roofs.bytes_per_second;
    j["f32_operations_per_second"] = r.roofs.f32_per_second;
    j["int8_operations_per_second"] = r.roofs.int8_per_second;
    j["bf16_operations_per_second"] = r.roofs.bf16_per_second;
  }
  j["threads"] = thread_count();
  j["isa"] = kernels::table().isa;
  j["activations"] = r.activations;
  j["kv_cache"] = kv_type_name(common.kv());
  return j;
}

void print_table(const BenchFlags& f, const Measured& r) {
  std::vector<std::vector<std::string>> rows{{"measure", "median", "best", "unit", "of limit"}};
  auto speed = [&](const std::string& name, const std::vector<double>& v, double of) {
    if (!v.empty())
      rows.push_back({name, fmt::format("{:.1f}", median(v)),
                      fmt::format("{:.1f}", *std::max_element(v.begin(), v.end())), "tokens/s",
                      r.limits ? fmt::format("{:.0f} %", 100 * of) : ""});
  };
  auto size = [&](const char* name, double bytes) {
    rows.push_back({name, fmt::format("{:.1f}", bytes / 1e6), "", "MB"});
  };
  speed(fmt::format("prefill of {}", f.prompt), r.prefill, r.prefill_of);
  speed(f.batch == 1 ? fmt::format("decode of {}", f.decode)
                     : fmt::format("decode of {} × {}", f.batch, f.decode),
        r.decode, r.decode_of);
  if (!r.decode.empty())
    rows.push_back(
        {"weights read in decode",
         fmt::format("{:.1f}", median(r.decode) / double(f.batch) * double(r.read_bytes) / 1e9), "",
         "GB/s"});
  size("weights in memory", double(r.model_bytes));
  size("peak memory", double(r.peak_rss));
  rows.push_back({"load", fmt::format("{:.3f}", r.load_seconds), "", "s"});
  if (r.limits) {
    double read = r.roofs.read_per_second(double(r.read_bytes));
    rows.push_back({read == r.roofs.bytes_per_second ? "limit: read" : "limit: read, last cache",
                    fmt::format("{:.1f}", read / 1e9), "", "GB/s"});
    rows.push_back(
        {"limit: f32", fmt::format("{:.0f}", r.roofs.f32_per_second / 1e9), "", "GFLOP/s"});
    rows.push_back(
        {"limit: int8", fmt::format("{:.0f}", r.roofs.int8_per_second / 1e9), "", "GOP/s"});
    if (r.activations.find("bf16") != std::string::npos)
      rows.push_back(
          {"limit: bf16", fmt::format("{:.0f}", r.roofs.bf16_per_second / 1e9), "", "GFLOP/s"});
  }
  print_text(text_table(rows));
}

std::string giga(double x) { return fmt::format("{:.1f}", x / 1e9); }

void print_machine(const kernels::Machine& m) {
  std::vector<std::vector<std::string>> reads{{"threads", "4 KB pages", "2 MB pages", "unit"}};
  for (int n = 1; n <= m.threads; ++n) {
    std::vector<std::string> row{std::to_string(n), "", "", "GB/s"};
    for (const kernels::Bandwidth& b : m.bandwidths)
      if (b.threads == n) row[b.huge_pages ? 2 : 1] = giga(b.bytes_per_second);
    reads.push_back(row);
  }
  std::string cache = fmt::format("{} MB of last-level cache: {} GB/s\n", m.cache_bytes >> 20,
                                  giga(m.cached_bytes_per_second));
  std::vector<std::vector<std::string>> peaks{{"peak", "all threads", "unit", "ridge point"}};
  double bandwidth = 0;
  for (const kernels::Bandwidth& b : m.bandwidths)
    bandwidth = std::max(bandwidth, b.bytes_per_second);
  for (const kernels::Peak& p : m.peaks)
    peaks.push_back({p.isa + " " + p.operation, giga(p.per_second), "GOP/s",
                     fmt::format("{:.0f} operations/byte", p.per_second / bandwidth)});
  std::vector<std::vector<std::string>> products{
      {"products, 1 thread", "f32", "bf16", "bf16 dots", "int8", "unit", ""}};
  for (const kernels::Candidate& c : m.candidates)
    products.push_back({c.isa, giga(c.f32_per_second), giga(c.bf16_per_second),
                        c.bf16_dot_per_second > 0 ? giga(c.bf16_dot_per_second) : "",
                        giga(c.int8_per_second), "GOP/s", c.isa == m.best_isa ? "chosen" : ""});
  print_text(
      fmt::format("{}, {} thread{}\n\nReading memory\n{}\nArithmetic\n{}\nMatrix products "
                  "in the caches\n{}",
                  m.cpu, m.threads, m.threads == 1 ? "" : "s", text_table(reads) + cache,
                  text_table(peaks), text_table(products)));
}

void run_machine(const CommonOptions& common) {
  kernels::Machine m;
  {
    Progress progress("measuring the machine", 100);
    m = kernels::measure_machine([&](double done) { progress.update(int64_t(100 * done)); });
  }
  if (common.json)
    print_json(kernels::machine_json(m));
  else
    print_machine(m);
  if (kernels::is_disturbed(m))
    return log_warning(
        "not kept: peaks lie below the speed of products, so the machine was busy with other work; "
        "measure again");
  try {
    kernels::save_machine(m, kernels::machine_cache());
  } catch (const std::exception& e) {
    return log_warning("{}: not kept: {}", kernels::machine_cache().string(), e.what());
  }
  log_info("kept in {}: speeds are printed beside these limits from now on",
           kernels::machine_cache().string());
}

void run(const BenchFlags& f, const CommonOptions& common) {
  Measured r;
  double started = monotonic_seconds();
  LoadedModel m = f.model.load(common);
  r.load_seconds = monotonic_seconds() - started;
  measure(f, m, common, r);
  if (common.json) return print_json(to_json(f, r, common));
  print_table(f, r);
  log_info("depth {}; {}", f.depth, precision_line(m, common));
}

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  auto f = std::make_shared<BenchFlags>();
  f->model.add_with_adapters(app, false);
  auto* machine =
      app.add_flag("--machine", f->machine, "measure the machine's limits, and keep them");
  auto number = [&](const char* name, int64_t& field, double low, double high, const char* help) {
    app.add_option(name, field, help)
        ->check(between(low, high))
        ->type_name("N")
        ->capture_default_str()
        ->excludes(machine);
  };
  number("--prompt", f->prompt, 0, 1 << 20, "tokens of the prefill, 0 = none");
  number("--decode", f->decode, 0, 1 << 20, "tokens decoded one by one, 0 = none");
  number("--depth", f->depth, 0, 1 << 20, "tokens that are in the cache before");
  number("--batch", f->batch, 1, 1024, "sequences that decode side by side; its speed is of all");
  number("--runs", f->runs, 1, 1000, "runs that count; the median is printed");
  add_train_bench_flags(app, f->train);
  app.footer(
      "\nmodel_bytes (weights in memory) is all weights as they run, in kernel layout; an "
      "embedding\n"
      "whose rows stay in the file does not count. decode_bytes_per_second counts those that "
      "every\n"
      "token reads: without it.");
  return [f, &common] {
    if (f->machine && !f->model.load_as.empty()) throw UsageError("--machine takes no --load-as");
    if (f->machine && !f->model.adapters.empty()) throw UsageError("--machine takes no --adapter");
    if (f->machine && common.isa != "auto") throw UsageError("--machine measures every --isa");
    if (f->machine != f->model.path.empty())
      throw UsageError(f->machine ? "--machine takes no model" : "MODEL or --machine is required");
    if (!f->machine && f->prompt == 0 && f->decode == 0)
      throw UsageError("--prompt 0 and --decode 0 leave nothing to measure");
    if (f->machine) {
      run_machine(common);
    } else if (!f->train.method.empty()) {
      f->train.batch = f->batch;
      run_train_bench(f->model, f->train, common);
    } else
      run(*f, common);
  };
}

}  // namespace bench_command

extern const Command kBenchCommand;
const Command kBenchCommand{"bench", "prefill and decode speed", bench_command::add};

}  // namespace hone
