// hone eval: perplexity of a text, and divergence from a reference model.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/log.h"
#include "command.h"
#include "eval/perplexity.h"

namespace hone {
namespace {

struct EvalFlags {
  ModelArgument model;
  std::string text, reference, convention = "llama.cpp";
  PerplexityOptions options;
};

void print_text(const EvalFlags& f, const Perplexity& p, const std::string& precision) {
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
  row("tokens per second", fmt::format("{:.0f}", double(p.tokens) / p.seconds));
  fmt::print("{}", text_table(rows));
  log_info("convention {}, context {}; {}", f.convention, f.options.context, precision);
}

Json to_json(const EvalFlags& f, const Perplexity& p, const std::string& precision) {
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
  j["convention"] = f.convention;
  j["context"] = f.options.context;
  j["activations"] = std::string(activations_name(f.options.activations));
  j["precision"] = precision;
  j["seconds"] = p.seconds;
  j["peak_rss_bytes"] = peak_rss_bytes();
  return j;
}

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  auto f = std::make_shared<EvalFlags>();
  f->model.add(app);
  app.add_option("--text", f->text, "the text to score")->required();
  app.add_option("--context", f->options.context, "tokens in a chunk")->capture_default_str();
  app.add_option("--convention", f->convention, "how chunks are cut and scored")
      ->check(CLI::IsMember({"llama.cpp", "hf"}))
      ->capture_default_str();
  app.add_option("--stride", f->options.stride,
                 "hf: tokens between windows (0 = half the context)");
  app.add_option("--max-tokens", f->options.max_tokens,
                 "score only so many tokens of text (0 = all)");
  app.add_option("--reference", f->reference, "compare predictions with this model's");
  return [f, &common] {
    f->options.convention = convention_from_name(f->convention);
    f->options.activations = common.precision();
    std::string text = read_text_file(f->text);
    LoadedModel model = f->model.load();
    std::optional<LoadedModel> reference;
    if (!f->reference.empty()) reference = load_model(f->reference);
    std::string precision = precision_line(model, f->options.activations);
    Perplexity p = measure_perplexity(model, text, f->options, reference ? &*reference : nullptr);
    if (common.json)
      print_json(to_json(*f, p, precision));
    else
      print_text(*f, p, precision);
  };
}

}  // namespace

extern const Command kEvalCommand;
const Command kEvalCommand{"eval", "perplexity of a text, and divergence from a reference model",
                           add};

}  // namespace hone
