// hone precision: what converting a model to f16, bf16 or FP8 does to its predictions, and what to
// leave in f32.
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "command.h"
#include "eval/precision.h"
#include "text/text_file.h"

namespace hone {
namespace precision_command {

// Rows of a table of the worst.
constexpr size_t kShown = 6;

struct PrecisionFlags {
  std::string model, text;
  std::vector<std::string> to;
  int64_t context = 512, max_tokens = 2048;
  bool unscaled = false, all = false;
  PrecisionOptions options;
};

using Rows = std::vector<std::vector<std::string>>;

std::string number(double x) { return std::isfinite(x) ? fmt::format("{:.3g}", x) : "–"; }
std::string share(double part, double of) {
  if (part == 0) return "0";
  return fmt::format("{:.3g} %", 100 * part / of);
}
std::string kl_of(const Predictions& p) {
  return p.non_finite > 0 ? "not finite" : fmt::format("{:.2e}", p.scores.kl_mean);
}
std::string flips_of(const Predictions& p) {
  return fmt::format("{} ({})", p.flips, share(double(p.flips), double(p.scores.tokens)));
}
std::string verdict_of(const Judgement& j) {
  if (j.verdict != Verdict::safe_with) return verdict_name(j.verdict);
  return fmt::format("safe with {} in f32", j.keep.size());
}

std::string verdicts(const PrecisionReport& r) {
  Rows rows{{"type", "verdict", "with activations in it"}};
  for (const TypeReport& t : r.types)
    rows.push_back({t.target.name, verdict_of(t.cast), t.held ? verdict_of(*t.held) : "–"});
  return text_table(rows, Columns::words);
}

std::string predictions(const PrecisionReport& r) {
  Rows rows{{"run", "KL mean", "KL p99", "top-1 flips", "perplexity"}};
  auto row = [&](const std::string& name, const Predictions& p) {
    rows.push_back(
        {name, kl_of(p), p.non_finite > 0 ? "–" : fmt::format("{:.2e}", p.scores.kl_p99),
         flips_of(p),
         std::isfinite(p.scores.perplexity) ? fmt::format("{:.4f}", p.scores.perplexity) : "–"});
  };
  rows.push_back({"original", "", "", "", fmt::format("{:.4f}", r.perplexity)});
  row("noise floor", r.noise);
  for (const TypeReport& t : r.types) {
    row(t.target.name, t.cast.converted);
    if (t.cast.repaired)
      row(t.cast.verdict == Verdict::not_safe ? "  half in f32" : "  repaired", *t.cast.repaired);
    if (!t.held) continue;
    row("  activations too", t.held->converted);
    if (t.held->repaired) row("  activations repaired", *t.held->repaired);
  }
  return text_table(rows);
}

std::string weights(const PrecisionReport& r) {
  Rows rows{{"weights", "largest", "overflow", "to zero", "subnormal", "exact", "error mean",
             "error max"}};
  for (const TypeReport& t : r.types) {
    const CastCounts& c = t.weights;
    auto n = double(c.values);
    rows.push_back({t.target.name, number(t.target.largest),
                    fmt::format("{}{}", c.overflow, t.target.saturates ? " clamped" : ""),
                    fmt::format("{} ({})", c.underflow, share(double(c.underflow), n)),
                    share(double(c.subnormal), n), share(double(c.exact), n),
                    number(c.mean_error()), number(c.largest_error)});
  }
  return text_table(rows);
}

// The first by what cannot be mended, then by the mean error.
std::vector<TensorCast> worst(std::vector<TensorCast> all, size_t n) {
  auto key = [](const TensorCast& t) {
    auto values = double(std::max<int64_t>(t.counts.values, 1));
    return std::tuple(double(t.counts.overflow) / values, t.counts.mean_error());
  };
  std::stable_sort(all.begin(), all.end(),
                   [&](const TensorCast& a, const TensorCast& b) { return key(a) > key(b); });
  all.resize(std::min(all.size(), n));
  return all;
}

std::string worst_tensors(const PrecisionReport& r, bool every) {
  Rows rows{{"worst tensors", "type", "absmax", "overflow", "to zero", "error mean"}};
  for (const TypeReport& t : r.types)
    for (const TensorCast& c : every ? t.tensors : worst(t.tensors, 3))
      rows.push_back({c.tensor, t.target.name, number(c.counts.absmax),
                      fmt::format("{}", c.counts.overflow),
                      share(double(c.counts.underflow), double(c.counts.values)),
                      number(c.counts.mean_error())});
  return text_table(rows);
}

std::string activations(const PrecisionReport& r, bool every) {
  Rows rows{{"activations", "absmax"}};
  for (const TypeReport& t : r.types) rows[0].push_back(t.target.name);
  std::vector<const ActivationSite*> sites;
  for (const ActivationSite& s : r.sites) sites.push_back(&s);
  if (!every) {
    std::stable_sort(sites.begin(), sites.end(),
                     [](auto* a, auto* b) { return a->absmax > b->absmax; });
    sites.resize(std::min(sites.size(), kShown));
  }
  for (const ActivationSite* s : sites) {
    std::vector<std::string> row{s->name, number(s->absmax)};
    for (const CastCounts& c : s->held)
      row.push_back(fmt::format("{} | {}", share(double(c.overflow), double(c.values)),
                                share(double(c.underflow), double(c.values))));
    rows.push_back(std::move(row));
  }
  return text_table(rows) + "of each type: over its range | to zero\n";
}

// What stands under the tables: reasons, and the lists.
std::string remarks(const PrecisionReport& r) {
  std::string out;
  auto list = [&](const std::string& head, const std::vector<std::string>& names) {
    if (names.empty()) return;
    out += head + "\n";
    for (const std::string& n : names) out += "  " + n + "\n";
  };
  for (const TypeReport& t : r.types) {
    const std::string& type = t.target.name;
    if (!t.cast.first_site.empty())
      out += fmt::format("{}: first offending layer: {} ({})\n", type, t.cast.first_site,
                         t.cast.first_reason);
    list(fmt::format("{}: keep in f32 ({:.2g} % of the parameters):", type, 100 * t.kept_share),
         t.cast.keep);
    if (!t.held) continue;
    if (!t.held->first_site.empty())
      out += fmt::format("{}: first activation out of range: {} ({})\n", type, t.held->first_site,
                         t.held->first_reason);
    list(fmt::format("{}: activations to hold in f32:", type), t.held->keep);
  }
  return out;
}

Json to_json(const CastCounts& c) {
  return {{"values", c.values},
          {"overflow", c.overflow},
          {"underflow", c.underflow},
          {"subnormal", c.subnormal},
          {"exact", c.exact},
          {"absmax", c.absmax},
          {"relative_error_mean", c.mean_error()},
          {"relative_error_max", c.largest_error}};
}

Json to_json(const Predictions& p) {
  return {{"kl_mean", p.scores.kl_mean},
          {"kl_p99", p.scores.kl_p99},
          {"flips", p.flips},
          {"flip_share", double(p.flips) / double(p.scores.tokens)},
          {"perplexity", p.scores.perplexity},
          {"not_finite", p.non_finite}};
}

Json to_json(const Judgement& j, const char* keep) {
  Json out = {{"verdict", verdict_name(j.verdict)}, {"converted", to_json(j.converted)}};
  out[keep] = j.keep;
  out["repaired"] = j.repaired ? to_json(*j.repaired) : Json();
  out["first_offending"] =
      j.first_site.empty() ? Json() : Json{{"site", j.first_site}, {"reason", j.first_reason}};
  return out;
}

Json to_json(const PrecisionReport& r) {
  Json j = {{"samples", r.samples},
            {"tokens", r.tokens},
            {"perplexity", r.perplexity},
            {"kl_limit", r.limit},
            {"noise_floor", to_json(r.noise)}};
  for (const TypeReport& t : r.types) {
    Json type = to_json(t.cast, "keep_in_f32");
    type["kept_share"] = t.kept_share;
    type["largest"] = t.target.largest;
    type["row_scaled"] = t.target.row_scaled;
    type["weights"] = to_json(t.weights);
    for (const TensorCast& c : t.tensors) {
      Json counts = to_json(c.counts);
      counts["tensor"] = c.tensor;
      type["tensors"].push_back(std::move(counts));
    }
    type["activations"] = t.held ? to_json(*t.held, "hold_in_f32") : Json();
    j["types"][t.target.name] = std::move(type);
  }
  for (const ActivationSite& s : r.sites) {
    Json site = {{"site", s.name}, {"absmax", s.absmax}};
    for (size_t i = 0; i < r.types.size(); ++i)
      site[r.types[i].target.name] = {
          {"overflow", double(s.held[i].overflow) / double(s.held[i].values)},
          {"underflow", double(s.held[i].underflow) / double(s.held[i].values)},
          {"departure", s.departure[i]}};
    j["activations"].push_back(std::move(site));
  }
  return j;
}

void run(PrecisionFlags& f, const CommonOptions& common) {
  if (!f.to.empty()) f.options.types = f.to;
  f.options.row_scaled = !f.unscaled;
  std::string text = f.text.empty() ? "" : read_utf8_file(f.text);
  LoadOptions load;
  load.inference = false;
  LoadedModel model = load_model(f.model, load);
  f.context = std::min(f.context, model.model->context);
  auto samples = f.text.empty() ? written_samples(model, f.context, f.max_tokens, common.seed)
                                : text_samples(model, text, f.context, f.max_tokens);
  const char* source = f.text.empty() ? "written by the model" : f.text.c_str();
  PrecisionReport r = measure_precision(model, samples, f.options);
  if (common.json) {
    Json j = {{"model", model.name}, {"text", source}};
    j.update(to_json(r));
    j["peak_rss_bytes"] = peak_rss_bytes();
    print_json(j);
    return;
  }
  print_text(fmt::format("{}\n{}\n{}\n{}\n{}\n{}", verdicts(r), predictions(r), weights(r),
                         worst_tensors(r, f.all), activations(r, f.all), remarks(r)));
  log_info("{} tokens, {}; safe: mean KL up to {:.2g} nats, and no weight beyond the type's range",
           r.tokens, source, r.limit);
}

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  auto f = std::make_shared<PrecisionFlags>();
  add_model(app, f->model);
  app.add_option("--text", f->text, "what to compare on; without it the model writes a text")
      ->type_name("FILE");
  app.add_option("--to", f->to, "f16, bf16, f8_e4m3 or f8_e5m2 (repeatable; default: all)")
      ->check(one_of(precision_types()))
      ->allow_extra_args(false)
      ->type_name("TYPE");
  app.add_flag("--unscaled", f->unscaled, "FP8 without a scale for each row");
  app.add_option("--max-kl", f->options.max_kl, "mean KL in nats up to which a cast is safe")
      ->check(between(0, 100))
      ->type_name("X")
      ->capture_default_str();
  app.add_option("--departure", f->options.departure,
                 "relative error from which a layer counts as offending")
      ->check(between(0, 1e9))
      ->type_name("X")
      ->capture_default_str();
  app.add_option("--context", f->context, "tokens that run together")
      ->check(between(2, 1 << 30))
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--max-tokens", f->max_tokens, "compare on so many tokens, 0 = the whole text")
      ->check(between(0, 1 << 30))
      ->type_name("N")
      ->capture_default_str();
  app.add_flag("--all", f->all, "show every tensor and every place, not the worst");
  return [f, &common] { run(*f, common); };
}

}  // namespace precision_command

extern const Command kPrecisionCommand;
const Command kPrecisionCommand{
    "precision", "what converting to f16, bf16 or FP8 does, and what to leave in f32",
    precision_command::add};

}  // namespace hone
