// hone eval: perplexity of a text, and divergence from a reference model; or tasks.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "command.h"
#include "eval/cache_cost.h"
#include "eval_task.h"
#include "models/sequence_memory.h"
#include "text/text_file.h"

namespace hone {
namespace eval_command {

struct EvalFlags {
  ModelArgument model;
  std::string text, reference, convention = "llama.cpp";
  PerplexityOptions options;
  StreamingFlags streaming;
  bool past_context = false;
  TaskFlags task;
};

// What a sequence as long as the context of a model takes.
struct Memory {
  std::string kv_cache;
  int64_t context = 0;
  SequenceMemory sequence;
  Memory(const LoadedModel& m, KvType kv)
      : kv_cache(kv_type_name(kv)),
        context(m.model->context),
        sequence(sequence_memory(*m.model, kv, context)) {}

  std::string text() const {
    std::string line =
        fmt::format("{} a token, {} for {}", human_bytes(sequence.kv_bytes_per_token),
                    human_bytes(sequence.bytes()), context);
    if (sequence.state_bytes > 0)
      line += fmt::format(" with {} of state", human_bytes(double(sequence.state_bytes)));
    return line;
  }
  void add_to(Json& j, const std::string& prefix) const {
    j[prefix + "kv_cache"] = kv_cache;
    j[prefix + "kv_bytes_per_token"] = sequence.kv_bytes_per_token;
    j[prefix + "sequence_length"] = context;
    j[prefix + "sequence_bytes"] = int64_t(sequence.bytes());
    j[prefix + "state_bytes"] = sequence.state_bytes;
  }
};

// Of the model, and of the reference if there is one.
using Memories = std::vector<Memory>;

void print_table(const EvalFlags& f, const Perplexity& p, const Memories& memory,
                 const std::string& precision) {
  std::vector<std::vector<std::string>> rows{{"measure", "value"}};
  auto row = [&](const char* name, std::string value) { rows.push_back({name, std::move(value)}); };
  row("perplexity", fmt::format("{:.4f} ± {:.4f}", p.perplexity, p.standard_error));
  row("nats per token", fmt::format("{:.5f}", p.nll));
  row("bits per byte", fmt::format("{:.4f}", p.bits_per_byte));
  row("tokens scored", fmt::format("{}", p.tokens));
  if (!f.reference.empty()) {
    row("reference perplexity", fmt::format("{:.4f}", p.reference_perplexity));
    row("KL mean", fmt::format("{:.6f} nats", p.kl_mean));
    row("KL median", fmt::format("{:.6f} nats", p.kl_median));
    row("KL p99", fmt::format("{:.6f} nats", p.kl_p99));
    row("top-1 agreement", fmt::format("{:.3f} %", 100 * p.top1_agreement));
    row("RMS Δp", fmt::format("{:.3f} %", 100 * p.rms_dp));
    row("max Δp", fmt::format("{:.3f} %", 100 * p.max_dp));
  }
  for (const Perplexity::Range& r : p.ranges)
    row(fmt::format("tokens {} to {}", r.begin, r.end).c_str(),
        fmt::format("{:.4f}", r.perplexity));
  row("KV cache", memory[0].text());
  if (memory.size() > 1) row("reference KV cache", memory[1].text());
  row("of this text", human_bytes(double(p.kv_bytes)));
  row("tokens per second", fmt::format("{:.0f}", double(p.tokens) / p.seconds));
  print_text(text_table(rows));
  if (f.streaming.on)
    log_info("one sequence; {}", precision);
  else
    log_info("convention {}, context {}; {}", f.convention, f.options.context, precision);
}

Json to_json(const EvalFlags& f, const Perplexity& p, const Memories& memory,
             const std::optional<Streaming>& streaming, const std::string& activations,
             const std::string& precision) {
  Json j;
  j["perplexity"] = p.perplexity;
  j["perplexity_standard_error"] = p.standard_error;
  j["nll"] = p.nll;
  j["bits_per_byte"] = p.bits_per_byte;
  j["tokens"] = p.tokens;
  if (!f.reference.empty()) {
    j["reference_perplexity"] = p.reference_perplexity;
    j["kl_mean"] = p.kl_mean;
    j["kl_median"] = p.kl_median;
    j["kl_p99"] = p.kl_p99;
    j["top1_agreement"] = p.top1_agreement;
    j["rms_dp"] = p.rms_dp;
    j["max_dp"] = p.max_dp;
  }
  memory[0].add_to(j, "");
  if (memory.size() > 1) memory[1].add_to(j, "reference_");
  for (const Perplexity::Range& r : p.ranges)
    j["ranges"].push_back({{"begin", r.begin}, {"end", r.end}, {"perplexity", r.perplexity}});
  j["kv_bytes"] = p.kv_bytes;
  if (streaming) {
    j["streaming"] = {{"sinks", streaming->sinks}, {"window", streaming->window}};
  } else {
    j["convention"] = f.convention;
    j["context"] = f.options.context;
  }
  j["activations"] = activations;
  j["precision"] = precision;
  j["seconds"] = p.seconds;
  j["peak_rss_bytes"] = peak_rss_bytes();
  return j;
}

// Several types of KV cache, side by side.
void compare_caches(const EvalFlags& f, LoadedModel& model, LoadedModel* reference,
                    const std::string& text, const CommonOptions& common) {
  const double started = monotonic_seconds();
  const std::vector<KvType> types = common.kv_list();
  const std::vector<ReportCache> rows = cache_costs(model, text, f.options, types, reference);
  const std::string activations = model.model->activations_used(f.options.activations);
  if (common.json) {
    Report report;
    report.caches = rows;
    print_json({{"caches", report_json(report)["caches"]},
                {"sequence_length", model.model->context},
                {"convention", f.convention},
                {"context", f.options.context},
                {"activations", activations},
                {"seconds", monotonic_seconds() - started},
                {"peak_rss_bytes", peak_rss_bytes()}});
    return;
  }
  print_text(cache_table(rows, model.model->context));
  log_info("KL from {} with an f32 cache{}; convention {}, context {}; {} activations",
           reference ? f.reference : "the same model",
           f.options.exact_reference ? " and f32 activations" : "", f.convention, f.options.context,
           activations);
}

void run(EvalFlags& f, const CommonOptions& common) {
  if (!f.task.files.empty())
    return run_tasks(f.task, f.model, f.reference, f.options.exact_reference, common);
  if (f.text.empty()) throw UsageError("--text or --task is required");
  f.options.convention = convention_from_name(f.convention);
  f.options.activations = common.precision();
  f.options.kv = common.kv();
  if (f.options.stride > 0 && f.options.convention == PerplexityConvention::llama_cpp)
    throw UsageError("--stride belongs to --convention hf");
  if (f.options.stride > f.options.context)
    throw UsageError(
        fmt::format("--stride {} exceeds --context {}", f.options.stride, f.options.context));
  if (f.streaming.on && (f.past_context || !f.reference.empty()))
    throw UsageError("--streaming goes with neither --past-context nor --reference");
  if (f.past_context && !f.reference.empty())
    throw UsageError("--past-context goes without --reference");
  if (common.kv_list().size() > 1 && (f.streaming.on || f.past_context))
    throw UsageError("several types of --kv-cache go with neither --streaming nor --past-context");
  std::string text = read_utf8_file(f.text);
  LoadedModel model = f.model.load(common);
  f.streaming.apply(model);
  if (f.streaming.on)
    f.options.first_range = model.model->streaming->sinks + model.model->streaming->window;
  if (f.past_context) {
    f.options.first_range = model.model->context;
    model.model->context = std::max(model.model->context, f.options.context);
  }
  std::optional<LoadedModel> reference;
  if (!f.reference.empty()) reference = load_model(f.reference);
  if (common.kv_list().size() > 1)
    return compare_caches(f, model, reference ? &*reference : nullptr, text, common);
  std::string precision = precision_line(model, common);
  Memories memory{{model, common.kv()}};
  if (reference)
    memory.emplace_back(*reference, f.options.exact_reference ? KvType::f32 : common.kv());
  Perplexity p = measure_perplexity(model, text, f.options, reference ? &*reference : nullptr);
  if (common.json)
    print_json(to_json(f, p, memory, model.model->streaming,
                       model.model->activations_used(f.options.activations), precision));
  else
    print_table(f, p, memory, precision);
}

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  auto f = std::make_shared<EvalFlags>();
  f->model.add_with_adapters(app);
  auto number = [&](const char* name, int64_t& field, double low, const char* help) {
    return app.add_option(name, field, help)->check(between(low, 1 << 30))->type_name("N");
  };
  app.add_option("--text", f->text, "the text to score")->type_name("FILE");
  app.add_option("--reference", f->reference, "compare predictions with this model's")
      ->type_name("MODEL");
  app.add_flag("--exact-reference", f->options.exact_reference,
               "run the reference with f32 activations and KV cache")
      ->needs("--reference");
  app.add_option("--convention", f->convention, "how chunks are cut and scored: llama.cpp or hf")
      ->check(one_of({"llama.cpp", "hf"}))
      ->type_name("NAME")
      ->capture_default_str();
  number("--context", f->options.context, 2, "tokens in a chunk")->capture_default_str();
  number("--stride", f->options.stride, 0, "hf: tokens between windows, 0 = half the context");
  app.add_flag("--past-context", f->past_context,
               "let --context exceed the model's, to see what it does there");
  f->streaming.add(app);
  number("--max-tokens", f->options.max_tokens, 0, "score so many tokens of text, 0 = all");
  f->task.add(app);
  for (const char* of_text : {"--text", "--convention", "--context", "--stride", "--past-context",
                              "--streaming", "--max-tokens"})
    app.get_option(of_text)->excludes("--task");
  return [f, &common] { run(*f, common); };
}

}  // namespace eval_command

extern const Command kEvalCommand;
const Command kEvalCommand{"eval", "perplexity of a text, or answers to a task's questions",
                           eval_command::add, true};

}  // namespace hone
