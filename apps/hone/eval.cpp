// hone eval: perplexity of a text, and divergence from a reference model.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "command.h"
#include "eval/perplexity.h"
#include "text/text_file.h"

namespace hone {
namespace {

struct EvalFlags {
  ModelArgument model;
  std::string text, reference, convention = "llama.cpp";
  PerplexityOptions options;
  StreamingFlags streaming;
  bool past_context = false;
};

void print_table(const EvalFlags& f, const Perplexity& p, const std::string& precision) {
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
  row("KV cache", human_bytes(double(p.kv_bytes)));
  row("tokens per second", fmt::format("{:.0f}", double(p.tokens) / p.seconds));
  print_text(text_table(rows));
  if (f.streaming.on)
    log_info("one sequence; {}", precision);
  else
    log_info("convention {}, context {}; {}", f.convention, f.options.context, precision);
}

Json to_json(const EvalFlags& f, const Perplexity& p, const std::string& activations,
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
  for (const Perplexity::Range& r : p.ranges)
    j["ranges"].push_back({{"begin", r.begin}, {"end", r.end}, {"perplexity", r.perplexity}});
  j["kv_bytes"] = p.kv_bytes;
  j["convention"] = f.convention;
  j["context"] = f.options.context;
  j["activations"] = activations;
  j["precision"] = precision;
  j["seconds"] = p.seconds;
  j["peak_rss_bytes"] = peak_rss_bytes();
  return j;
}

void run(EvalFlags& f, const CommonOptions& common) {
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
  std::string text = read_utf8_file(f.text);
  LoadedModel model = f.model.load();
  f.streaming.apply(model);
  if (f.streaming.on)
    f.options.first_range = model.model->streaming->sinks + model.model->streaming->window;
  if (f.past_context) {
    f.options.first_range = model.model->context;
    model.model->context = std::max(model.model->context, f.options.context);
  }
  std::optional<LoadedModel> reference;
  if (!f.reference.empty()) reference = load_model(f.reference);
  std::string precision = precision_line(model, common);
  Perplexity p = measure_perplexity(model, text, f.options, reference ? &*reference : nullptr);
  if (common.json)
    print_json(to_json(f, p, model.model->activations_used(f.options.activations), precision));
  else
    print_table(f, p, precision);
}

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  auto f = std::make_shared<EvalFlags>();
  f->model.add_with_adapters(app);
  auto number = [&](const char* name, int64_t& field, double low, const char* help) {
    return app.add_option(name, field, help)->check(between(low, 1 << 30))->type_name("N");
  };
  app.add_option("--text", f->text, "the text to score")->type_name("FILE")->required();
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
               "let --context exceed what the model was made for, to see what it does there");
  f->streaming.add(app);
  number("--max-tokens", f->options.max_tokens, 0, "score so many tokens of text, 0 = all");
  return [f, &common] { run(*f, common); };
}

}  // namespace

extern const Command kEvalCommand;
const Command kEvalCommand{"eval", "perplexity of a text, and divergence from a reference model",
                           add};

}  // namespace hone
