// hone merge: adapters into a model's weights, out of them again, and advice on whether to.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "command.h"
#include "passes/merge.h"
#include "text/text_file.h"

namespace hone {
namespace merge_command {

struct MergeFlags {
  std::string model;
  std::vector<std::string> adapters, into;
  bool advise = false;
  MergeOptions options;
};

std::string number(double x, int digits) { return fmt::format("{:.{}f}", x, digits); }

Json layer_json(const MergedLayer& l) {
  return {{"module", l.module},
          {"before", l.before},
          {"after", l.after},
          {"bytes_before", l.bytes_before},
          {"bytes_after", l.bytes_after},
          {"change", l.change},
          {"ratio", l.ratio}};
}

Json choice_json(const MergeChoice& c) {
  Json j;
  j["name"] = c.name;
  if (!c.refusal.empty()) {
    j["refusal"] = c.refusal;
    return j;
  }
  j["weight_bytes"] = c.bytes;
  j["changed"] = c.layers.size();
  j["erased"] = c.erased();
  j["worst_ratio"] = c.worst_ratio();
  j["mean_ratio"] = c.mean_ratio();
  if (c.quality) {
    j["perplexity"] = c.quality->perplexity;
    j["unmerged_perplexity"] = c.quality->reference_perplexity;
    j["kl_mean"] = c.quality->kl_mean;
    j["kl_p99"] = c.quality->kl_p99;
    j["top1_agreement"] = c.quality->top1_agreement;
  }
  j["layers"] = Json::array();
  for (const MergedLayer& l : c.layers) j["layers"].push_back(layer_json(l));
  return j;
}

void print_merged(const MergeChoice& c) {
  std::vector<std::vector<std::string>> rows{{"measure", "value"}};
  auto row = [&](const char* name, std::string value) { rows.push_back({name, std::move(value)}); };
  row("weights changed", fmt::format("{}", c.layers.size()));
  row("rounding / change, worst", number(c.worst_ratio(), 4));
  row("rounding / change, mean", number(c.mean_ratio(), 4));
  row("weights that lose the tune", fmt::format("{}", c.erased()));
  if (c.quality) {
    row("perplexity", number(c.quality->perplexity, 4));
    row("perplexity unmerged", number(c.quality->reference_perplexity, 4));
    row("KL mean", fmt::format("{:.6f} nats", c.quality->kl_mean));
    row("KL p99", fmt::format("{:.6f} nats", c.quality->kl_p99));
    row("top-1 agreement", fmt::format("{:.3f} %", 100 * c.quality->top1_agreement));
  }
  row("size", human_bytes(double(c.bytes)));
  print_text(text_table(rows));
  if (c.erased() > 0)
    log_warning(
        "in {} of {} weights rounding is as large as what the adapters change, or larger: the tune "
        "is lost there; hone merge --advise compares other ways",
        c.erased(), c.layers.size());
}

void print_advice(const MergeAdvice& advice) {
  std::vector<std::vector<std::string>> rows{
      {"tune", "size", "worst ratio", "mean ratio", "KL", "perplexity"}};
  std::string refusals;
  for (const MergeChoice& c : advice.choices) {
    if (!c.refusal.empty()) {
      rows.push_back({c.name, "-", "-", "-", "-", "-"});
      refusals += fmt::format("{}: {}\n", c.name, c.refusal);
      continue;
    }
    const bool merged = !c.layers.empty();
    rows.push_back({c.name, human_bytes(double(c.bytes)), merged ? number(c.worst_ratio(), 3) : "-",
                    merged ? number(c.mean_ratio(), 3) : "-",
                    c.quality ? fmt::format("{:.6f}", c.quality->kl_mean) : "-",
                    c.quality ? number(c.quality->perplexity, 3) : "-"});
  }
  print_text(text_table(rows) + refusals + advice.recommendation + "\n");
  log_info("ratio: rounding / change of a weight; KL from the adapter kept separate{}",
           advice.measured_on.empty() ? "" : ", in nats, on " + advice.measured_on);
}

void settle(MergeFlags& f, const CommonOptions& common, bool named) {
  MergeOptions& o = f.options;
  o.model = f.model;
  for (const std::string& text : f.adapters) {
    const AdapterArgument a = AdapterArgument::parse(text);
    o.adapters.push_back({a.path, a.weight});
  }
  const std::string name = f.into.empty() ? "" : f.into[0];
  if (!name.empty()) {
    std::string copy = name;
    if (const std::string wrong = encoding_name()(copy); !wrong.empty())
      throw UsageError("--into-encoding: " + wrong);
  }
  if (named) o.encoding = name.empty() ? kOwnEncoding : name;
  o.evaluate.activations = common.precision();
  o.evaluate.kv = common.kv();
  o.seed = common.seed;
  if (f.advise && (o.unmerge || named || !o.layout.empty() || !o.out.empty() || !o.report.empty()))
    throw UsageError(
        "--advise writes nothing: it takes no --out, --layout, --into-encoding, --report or "
        "--unmerge");
  if (!f.advise && o.out.empty()) throw UsageError("--out is required, but with --advise");
  if (o.unmerge && (named || !o.text.empty()))
    throw UsageError("--unmerge takes no --into-encoding and no --text");
}

void run(MergeFlags& f, const CommonOptions& common, bool named) {
  settle(f, common, named);
  MergeOptions& o = f.options;
  if (!o.text.empty()) read_utf8_file(o.text);
  if (f.advise) {
    const MergeAdvice advice = advise_merge(o);
    if (!common.json) return print_advice(advice);
    Json j;
    j["choices"] = Json::array();
    for (const MergeChoice& c : advice.choices) j["choices"].push_back(choice_json(c));
    j["measured_on"] = advice.measured_on;
    j["recommendation"] = advice.recommendation;
    return print_json(j);
  }
  check_new_output(o.out);
  const MergeChoice merged = merge_adapters(o);
  if (!common.json) return print_merged(merged);
  Json j = choice_json(merged);
  j["out"] = o.out.string();
  j["peak_rss_bytes"] = peak_rss_bytes();
  print_json(j);
}

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  auto f = std::make_shared<MergeFlags>();
  MergeOptions& o = f->options;
  add_model(app, f->model);
  add_adapters(app, f->adapters, "a PEFT directory or GGUF LoRA file, X times (repeatable)")
      ->required();
  auto path = [&](const char* name, fs::path& field, const char* type, const char* help) {
    return app.add_option(name, field, help)->type_name(type);
  };
  path("--out", o.out, "PATH", "a new directory, or a new .gguf file");
  auto* into = app.add_option("--into-encoding", f->into,
                              "keep the base's encodings, or take NAME; else quantised become bf16")
                   ->expected(0, 1)
                   ->type_name("[NAME]");
  app.add_option("--layout", o.layout, "a name of hone convert --help; else what fits")
      ->check(layout_name())
      ->type_name("NAME");
  app.add_flag("--unmerge", o.unmerge, "take adapters out that were merged into MODEL");
  app.add_flag("--advise", f->advise, "compare the ways to keep the tune; writes nothing");
  auto* text = path("--text", o.text, "FILE", "measure what merging costs on this text");
  path("--report", o.report, "FILE", "what it cost as an HTML page (and a .json beside it)");
  auto number = [&](const char* name, int64_t& field, double low, const char* help) {
    return app.add_option(name, field, help)
        ->check(between(low, 1 << 30))
        ->type_name("N")
        ->needs(text);
  };
  number("--context", o.evaluate.context, 2, "tokens in a chunk of the text")
      ->capture_default_str();
  number("--max-tokens", o.evaluate.max_tokens, 0, "measure on so many tokens, 0 = all");
  return [f, into, &common] { run(*f, common, into->count() > 0); };
}

}  // namespace merge_command

extern const Command kMergeCommand;
const Command kMergeCommand{"merge", "merge adapters into a model, or say what that would cost",
                            merge_command::add};

}  // namespace hone
