// The page: sections of plain HTML around the figures of report_plots.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "eval/report.h"
#include "eval/report_memory.h"
#include "eval/report_plots.h"
#include "eval/report_style.h"
#include "eval/report_text.h"

namespace hone {
namespace {

namespace plots = report_plots;
namespace text = report_text;
using plots::escape;
using plots::number;

std::string section(std::string_view title, const std::string& body) {
  return body.empty() ? "" : fmt::format("<section><h2>{}</h2>\n{}</section>\n", title, body);
}

/// A cell that knows its column's title, which the card layout of a phone shows.
std::string cell(std::string_view label, std::string_view css_class, const std::string& content) {
  bool empty = content == text::kDash;
  return fmt::format("<td role='cell' class='{}{}' data-label='{}'>{}</td>", css_class,
                     empty ? " empty" : "", label, content);
}

// ---- The head: headline, verdict, tiles --------------------------------------------------------

/// The cast that changed most, or null.
const ReportVariant* noisiest_cast(const Report& report) {
  const ReportVariant* noisiest = nullptr;
  for (const auto& variant : report.variants)
    if (variant.noise_floor && variant.kl_mean > 0 &&
        (!noisiest || variant.kl_mean > noisiest->kl_mean))
      noisiest = &variant;
  return noisiest;
}

/// What the divergence means, in words.
std::string verdict(const Report& report) {
  const ReportVariant* after = text::output(report);
  if (!after) return {};
  std::string words;
  if (std::isfinite(after->top1_agreement))
    words += fmt::format("The most likely next token stays the same at {} % of the positions. ",
                         text::percent(after->top1_agreement));
  if (std::isfinite(after->kl_mean)) {
    words += fmt::format("The KL divergence from the original is {} nats a token",
                         number(text::significant(after->kl_mean)));
    if (const ReportVariant* cast = noisiest_cast(report)) {
      double ratio = after->kl_mean / cast->kl_mean;
      words += ratio <= 1 ? fmt::format(", no more than that of the {}", escape(cast->name))
                          : fmt::format(", {}× that of the {}",
                                        number(text::fixed(ratio, ratio < 9.95 ? 1 : 0)),
                                        escape(cast->name));
    }
    words += ".";
  }
  return words.empty() ? "" : fmt::format("<p class='verdict'>{}</p>\n", words);
}

std::string tile(std::string_view title, const std::string& now, const std::string& was,
                 const std::string& change, std::string_view mood) {
  if (now == text::kDash) return {};
  std::string out =
      fmt::format("<div class='tile'><dt>{}</dt><dd><div class='now'>{}</div>", title, now);
  if (!change.empty()) out += fmt::format("<div class='was {}'>{}</div>", mood, change);
  if (!was.empty()) out += fmt::format("<div class='was'>{}</div>", was);
  return out + "</dd></div>\n";
}

/// A tile for a number that exists before and after.
std::string compared(std::string_view title, double before, double after, bool less_is_better,
                     const std::string& change, std::string (*show)(double)) {
  std::string was = std::isnan(before) ? "" : "was " + show(before);
  bool same = change.empty() || change.starts_with("same") || change.starts_with("unchanged");
  bool better = less_is_better ? after < before : after > before;
  return tile(title, show(after), was, change, same ? "" : better ? "good" : "bad");
}

std::string per_second(double value) {
  return std::isnan(value) ? text::speed(value) : text::speed(value) + " tok/s";
}

std::string tiles(const Report& report) {
  const ReportVariant* after = text::output(report);
  if (!after) return {};
  const ReportVariant* before = text::original(report);
  ReportVariant nothing;
  if (!before) before = &nothing;
  auto change = [&](double ReportVariant::*value, const char* less, const char* more) {
    return text::change(before->*value, after->*value, less, more, "same as before", 0.01);
  };
  std::string out;
  out += compared("Size", before->model_bytes, after->model_bytes, true,
                  change(&ReportVariant::model_bytes, "smaller", "larger"), text::bytes);
  std::string relative = text::relative(before->perplexity, after->perplexity);
  if (text::perplexity(before->perplexity) == text::perplexity(after->perplexity))
    relative = "unchanged";
  out += compared("Perplexity", before->perplexity, after->perplexity, true, relative,
                  text::perplexity);
  std::string agreement = std::isnan(after->top1_agreement)
                              ? ""
                              : "same first choice " + text::percent(after->top1_agreement) + " %";
  out += tile("KL divergence", number(text::significant(after->kl_mean)), agreement, "", "");
  out +=
      compared("Decode", before->decode_tokens_per_second, after->decode_tokens_per_second, false,
               change(&ReportVariant::decode_tokens_per_second, "slower", "faster"), per_second);
  out += compared("Prefill", before->prefill_tokens_per_second, after->prefill_tokens_per_second,
                  false, change(&ReportVariant::prefill_tokens_per_second, "slower", "faster"),
                  per_second);
  out += compared("Peak memory", before->peak_rss_bytes, after->peak_rss_bytes, true,
                  change(&ReportVariant::peak_rss_bytes, "less", "more"), text::bytes);
  return out.empty() ? "" : "<dl class='tiles'>\n" + out + "</dl>\n";
}

std::string head(const Report& report) {
  std::string model = report.model.empty() ? "a model" : report.model;
  std::string title = report.title.empty() ? model : report.title;
  std::string under;
  auto add = [&under](const std::string& part) {
    if (!part.empty()) under += (under.empty() ? "" : " · ") + escape(part);
  };
  if (title != model) add(model);
  add(report.architecture);
  if (report.parameters > 0) add(text::count(double(report.parameters)) + " parameters");
  add(report.date);
  // The headline breaks between its parts, never inside "18.41 → 18.95" or "3.2× smaller".
  std::string headline = escape(report_headline(report)) + ".";
  for (std::string_view glue : {" → ", "× ", " %"}) {
    std::string tight(glue);
    for (size_t at = 0; (at = tight.find(' ', at)) != std::string::npos;)
      tight.replace(at, 1, "\u00a0");
    for (size_t at = 0; (at = headline.find(glue, at)) != std::string::npos; at += tight.size())
      headline.replace(at, glue.size(), tight);
  }
  return fmt::format(
      "<header><h1>{}</h1><p class='eyebrow'>{}</p>\n<p class='headline'>{}</p>\n{}"
      "{}</header>\n",
      escape(title), under, headline, verdict(report), tiles(report));
}

// ---- Variants ----------------------------------------------------------------------------------

struct HtmlColumn {
  const char* title;
  const char* unit;
  double ReportVariant::*value;
  int better;  // +1: more is better, -1: less is, 0: neither
  std::string (*show)(double);
};

std::string two_decimals(double value) { return text::fixed(value, 2); }
std::string three_decimals(double value) { return text::fixed(value, 3); }
std::string percent_sign(double value) {
  return std::isnan(value) ? std::string(text::kDash) : text::percent(value) + " %";
}

const HtmlColumn kHtmlColumns[] = {
    {"Size", "", &ReportVariant::model_bytes, -1, text::bytes},
    {"Bits", "/ weight", &ReportVariant::bits_per_weight, 0, two_decimals},
    {"Perplexity", "", &ReportVariant::perplexity, -1, text::perplexity},
    {"Bits", "/ byte", &ReportVariant::bits_per_byte, -1, three_decimals},
    {"KL", "mean", &ReportVariant::kl_mean, -1, text::significant},
    {"KL", "median", &ReportVariant::kl_median, -1, text::significant},
    {"KL", "p99", &ReportVariant::kl_p99, -1, text::significant},
    {"Same", "top-1", &ReportVariant::top1_agreement, +1, percent_sign},
    {"RMS", "Δp", &ReportVariant::rms_dp, -1, percent_sign},
    {"Max", "Δp", &ReportVariant::max_dp, -1, percent_sign},
};

bool measured(const Report& report, double ReportVariant::*value) {
  return std::any_of(report.variants.begin(), report.variants.end(),
                     [&](const auto& v) { return !std::isnan(v.*value); });
}

const char* variant_class(const ReportVariant& variant) {
  return variant.is_output ? "output" : variant.noise_floor ? "cast" : "tried";
}

std::string variant_row(const Report& report, const ReportVariant& v, bool with_activations) {
  std::string badge = v.is_output     ? "<span class='badge'>written</span>"
                      : v.noise_floor ? "<span class='badge'>noise floor</span>"
                                      : "";
  if (with_activations && !v.activations.empty())
    badge += fmt::format("<small class='under'>activations {}</small>", escape(v.activations));
  std::string row =
      fmt::format("<tr role='row' class='{}'><th role='rowheader' scope='row'>{}{}</th>",
                  variant_class(v), escape(v.name), badge);
  for (const auto& column : kHtmlColumns) {
    if (!measured(report, column.value)) continue;
    double value = v.*column.value;
    std::string shown = number(column.show(value));
    if (column.value == &ReportVariant::perplexity && std::isfinite(v.perplexity_stderr))
      shown += fmt::format("<small> ±{}</small>", text::fixed(v.perplexity_stderr, 2));
    bool best =
        text::is_candidate(v) && value == text::best_of(report, column.value, column.better);
    row += cell(fmt::format("{} {}", column.title, column.unit), best ? "num best" : "num", shown);
  }
  return row + "</tr>\n";
}

std::string variants(const Report& report) {
  if (report.variants.empty()) return {};
  std::set<std::string> activations;
  for (const auto& v : report.variants) activations.insert(v.activations);
  bool mixed = activations.size() > 1;
  std::string out =
      "<table class='cards' role='table'><thead role='rowgroup'><tr role='row'><th "
      "role='columnheader' scope='col'>Variant</th>";
  for (const auto& column : kHtmlColumns)
    if (measured(report, column.value))
      out += fmt::format("<th role='columnheader' scope='col' class='num'>{}<small>{}</small></th>",
                         column.title, column.unit);
  out += "</tr></thead><tbody role='rowgroup'>\n";
  for (const auto& v : report.variants) out += variant_row(report, v, mixed);
  out +=
      "</tbody></table>\n<p class='legend'>Bold: best of the variants tried, casts aside. KL: "
      "divergence from the original’s predictions, nats a token. Δp: change of the probability "
      "of the right token.";
  if (!mixed && !activations.begin()->empty())
    out += fmt::format(" Activations: {} in every variant.", escape(*activations.begin()));
  return out + "</p>\n";
}

std::string quality(const Report& report) {
  std::string wide = plots::quality_plot(report, plots::Fit::wide);
  if (wide.empty()) return {};
  bool floor = std::any_of(report.variants.begin(), report.variants.end(),
                           [](const auto& v) { return v.noise_floor; });
  return fmt::format(
      "<p>Each dot is a variant: further left is smaller, further down is closer to the original. "
      "{} The line joins the variants that no other beats in both.</p>\n<figure>{}\n{}</figure>\n",
      floor ? "A difference inside the shaded band means nothing: a mere cast changes as much."
            : "",
      wide, plots::quality_plot(report, plots::Fit::narrow));
}

// ---- Speed -------------------------------------------------------------------------------------

std::string bars(const Report& report, std::string_view title, std::string_view hint,
                 double ReportVariant::*value, std::string (*show)(double),
                 double ReportVariant::*limit = nullptr) {
  double most = 0;
  int rows = 0;
  for (const auto& v : report.variants)
    if (std::isfinite(v.*value)) most = std::max(most, v.*value), ++rows;
  if (rows == 0 || most <= 0) return {};
  std::string out =
      fmt::format("<div><h3>{}<small>{}</small></h3><ul class='rows'>\n", title, hint);
  for (const auto& v : report.variants) {
    if (std::isnan(v.*value)) continue;
    const char* css = v.is_output                      ? "output"
                      : v.is_original || v.noise_floor ? "reference"
                                                       : "plain";
    std::string shown = show(v.*value);
    if (limit != nullptr && std::isfinite(v.*limit))
      shown += fmt::format(" <small>{} % of limit</small>", text::percent(v.*limit));
    out += fmt::format("<li><span class='{}'>{}</span><span class='num'>{}</span>{}</li>\n",
                       variant_class(v), escape(v.name), shown, plots::bar(v.*value / most, css));
  }
  return out + "</ul></div>\n";
}

std::string speed(const Report& report) {
  std::string out;
  out +=
      bars(report, "Decode", "tokens a second, longer is faster",
           &ReportVariant::decode_tokens_per_second, text::speed, &ReportVariant::decode_of_limit);
  out += bars(report, "Prefill", "tokens a second, longer is faster",
              &ReportVariant::prefill_tokens_per_second, text::speed,
              &ReportVariant::prefill_of_limit);
  out +=
      bars(report, "Peak memory", "shorter is better", &ReportVariant::peak_rss_bytes, text::bytes);
  out += bars(report, "Time to make", "shorter is better", &ReportVariant::seconds_to_make,
              text::seconds);
  if (out.empty()) return {};
  std::string where = report.threads > 0 ? fmt::format("{} thread{}", report.threads,
                                                       report.threads == 1 ? "" : "s")
                                         : "";
  for (const auto& part : {report.isa, report.machine})
    if (!part.empty()) where += (where.empty() ? "" : ", ") + escape(part);
  return (where.empty() ? "" : fmt::format("<p class='soft'>Measured with {}.</p>\n", where)) +
         "<div class='columns'>\n" + out + "</div>\n";
}

// ---- Layers ------------------------------------------------------------------------------------

constexpr char kKeys[] =
    "<svg class='key' viewBox='0 0 1 1' aria-hidden='true'><rect class='before' width='1' "
    "height='1'/></svg>before <svg class='key' viewBox='0 0 1 1' aria-hidden='true'><rect "
    "class='after' width='1' height='1'/></svg>after";

/// All weights of one kind, summed.
struct Kind {
  std::string name;
  int count = 0;
  double before = 0, after = 0;
  std::set<std::string> encodings_before, encodings_after;
};

std::vector<Kind> kinds_of(const Report& report) {
  std::vector<Kind> kinds;
  for (const auto& layer : report.layers) {
    std::string name = plots::place_of(layer.module).kind;
    auto kind = std::find_if(kinds.begin(), kinds.end(), [&](auto& k) { return k.name == name; });
    if (kind == kinds.end()) kind = kinds.insert(kinds.end(), Kind{name, 0, 0, 0, {}, {}});
    ++kind->count;
    kind->before += layer.bytes_before;
    kind->after += layer.bytes_after;
    kind->encodings_before.insert(layer.encoding_before);
    kind->encodings_after.insert(layer.encoding_after);
  }
  return kinds;
}

std::string encodings(const Kind& kind) {
  std::string before = fmt::format("{}", fmt::join(kind.encodings_before, ", "));
  std::string after = fmt::format("{}", fmt::join(kind.encodings_after, ", "));
  return escape(before == after ? before : before + " → " + after);
}

/// A bar as long as the kind's share of the largest one's bytes, `most`.
std::string kind_row(const Kind& kind, const std::string& encoding, double most) {
  return fmt::format("<tr role='row'><th role='rowheader' scope='row'>{}{}</th>", escape(kind.name),
                     kind.count > 1 ? fmt::format("<small> × {}</small>", kind.count) : "") +
         fmt::format("<td role='cell' class='encoding'>{}</td>", encoding) +
         fmt::format("<td role='cell' class='num from'>{}</td>", text::bytes(kind.before)) +
         fmt::format("<td role='cell' class='num'>{}</td>", text::bytes(kind.after)) +
         fmt::format("<td role='cell' class='bars'>{}</td></tr>\n",
                     plots::bar(kind.after / most, "after", kind.before / most));
}

std::string sizes(const Report& report) {
  if (report.layers.empty()) return {};
  std::vector<Kind> kinds = kinds_of(report);
  double most = 0;
  for (const auto& kind : kinds) most = std::max({most, kind.before, kind.after});
  std::string out =
      "<table class='cards kinds' role='table'><thead role='rowgroup'><tr role='row'>"
      "<th role='columnheader' scope='col'>Weights</th><th role='columnheader' "
      "scope='col'>Encoding</th><th role='columnheader' scope='col' class='num'>Before</th><th "
      "role='columnheader' scope='col' class='num'>After</th><th role='columnheader' "
      "scope='col'>";
  out += kKeys + std::string("</th></tr></thead><tbody role='rowgroup'>\n");
  for (const auto& kind : kinds) out += kind_row(kind, encodings(kind), most);
  Kind total{"all together", 0, 0, 0, {}, {}};
  for (const auto& kind : kinds) total.before += kind.before, total.after += kind.after;
  std::string factor =
      text::change(total.before, total.after, "smaller", "larger", "same size", 0.005);
  out += kind_row(total, factor, std::max(total.before, total.after)) + "</tbody></table>\n";
  std::string wide = plots::block_plot(report, plots::Fit::wide);
  if (!wide.empty())
    out += fmt::format(
        "<figure><figcaption class='legend'>Bytes in each block {}</figcaption>{}\n{}"
        "</figure>\n",
        kKeys, wide, plots::block_plot(report, plots::Fit::narrow));
  return out;
}

/// Who won how often: "gptq was kept in 205 layers, rtn in 5."
std::string kept_words(const Report& report) {
  std::map<std::string, int> kept;
  for (const auto& layer : report.layers)
    if (!layer.kept.empty()) ++kept[layer.kept];
  if (kept.empty()) return {};
  std::vector<std::pair<int, std::string>> order;
  for (const auto& [name, count] : kept) order.emplace_back(-count, name);
  std::sort(order.begin(), order.end());
  std::string out;
  for (const auto& [count, name] : order)
    out += fmt::format("{}{}{} in {} layer{}", out.empty() ? "" : ", ", escape(name),
                       out.empty() ? " was kept" : "", -count, count == -1 ? "" : "s");
  return out + ".";
}

std::string method_name(const Report& report) {
  for (const auto& layer : report.layers)
    if (!layer.kept.empty() && layer.kept != "rtn") return layer.kept;
  return "this method";
}

std::string errors(const Report& report) {
  std::string panels = plots::error_panels(report);
  if (panels.empty()) return {};
  auto any = [&](auto has) { return std::any_of(report.layers.begin(), report.layers.end(), has); };
  bool outputs = any([](const ReportLayer& l) { return l.from_inputs; });
  bool nearest = any([](const ReportLayer& l) { return std::isfinite(l.rtn_error); });
  return fmt::format(
      "<p>Relative error of each layer’s {}, by block: <b class='method nb'>● {}</b>{}; lower is "
      "better. {}</p>\n{}",
      outputs ? "output on the calibration text" : "weights", escape(method_name(report)),
      nearest ? " and <b class='rtn nb'>○ round to nearest</b>" : "", kept_words(report), panels);
}

std::string every_layer(const Report& report) {
  if (report.layers.empty()) return {};
  std::string out = fmt::format(
      "<details><summary>All {} weights, one by one</summary>\n<table "
      "class='cards' role='table'><thead role='rowgroup'><tr role='row'>",
      report.layers.size());
  for (auto [title, css] :
       std::initializer_list<std::pair<const char*, const char*>>{{"Module", ""},
                                                                  {"Encoding", ""},
                                                                  {"Before", "num"},
                                                                  {"After", "num"},
                                                                  {"Error", "num"},
                                                                  {"Error of rtn", "num"},
                                                                  {"Kept", ""}})
    out += fmt::format("<th role='columnheader' scope='col' class='{}'>{}</th>", css, title);
  out += "</tr></thead><tbody role='rowgroup'>\n";
  for (const auto& l : report.layers) {
    std::string encoding = l.encoding_before == l.encoding_after
                               ? l.encoding_after
                               : l.encoding_before + " → " + l.encoding_after;
    out += fmt::format("<tr role='row'><th role='rowheader' scope='row'>{}</th>", escape(l.module));
    out += cell("Encoding", "span", escape(encoding)) +
           cell("Before", "num", text::bytes(l.bytes_before)) +
           cell("After", "num", text::bytes(l.bytes_after)) +
           cell("Error", "num", number(text::significant(l.method_error))) +
           cell("Error of rtn", "num", number(text::significant(l.rtn_error))) +
           cell("Kept", "", l.kept.empty() ? std::string(text::kDash) : escape(l.kept)) + "</tr>\n";
  }
  return out + "</tbody></table></details>\n";
}

// ---- Samples, notes, recipe, circumstances -----------------------------------------------------

std::string samples(const Report& report) {
  std::vector<std::string> prompts;
  for (const auto& sample : report.samples)
    if (std::find(prompts.begin(), prompts.end(), sample.prompt) == prompts.end())
      prompts.push_back(sample.prompt);
  std::string out;
  for (const auto& prompt : prompts) {
    out += fmt::format("<div class='sample'><p class='prompt'>{}</p><div class='answers'>\n",
                       escape(prompt));
    for (const auto& sample : report.samples)
      if (sample.prompt == prompt)
        out += fmt::format("<div class='answer'><small>{}</small><p>{}</p></div>\n",
                           escape(sample.variant), escape(sample.text));
    out += "</div></div>\n";
  }
  return out;
}

std::string notes(const Report& report) {
  std::string out;
  for (const auto& note : report.notes) out += fmt::format("<li>{}</li>\n", escape(note));
  return out.empty() ? "" : "<ul class='notes' aria-label='Caveats'>\n" + out + "</ul>\n";
}

std::string circumstances(const Report& report) {
  std::string out;
  auto fact = [&out](std::string_view name, const std::string& value) {
    if (!value.empty()) out += fmt::format("<dt>{}</dt><dd>{}</dd>\n", name, escape(value));
  };
  auto positive = [](int64_t value) { return value > 0 ? std::to_string(value) : std::string(); };
  fact("Text", report.text);
  fact("Context", report.context > 0 ? positive(report.context) + " tokens" : "");
  fact("Convention", report.convention);
  fact("Machine", report.machine);
  fact("Threads", positive(report.threads));
  fact("Instruction set", report.isa);
  return out.empty() ? "" : "<dl class='facts'>\n" + out + "</dl>\n";
}

}  // namespace

std::string report_html(const Report& report) {
  std::string title = report.title.empty() ? report.model : report.title;
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n<meta name='viewport' "
      "content='width=device-width, initial-scale=1'>\n<title>{} · "
      "hone</title>\n<style>{}</style>\n"
      "</head>\n<body>\n<main>\n",
      escape(title), kReportStyle);
  page += head(report);
  page += notes(report);
  page += section("Quality against size", quality(report));
  page += section("The variants", variants(report));
  page += section("Speed and memory", speed(report));
  page += section("Memory of a sequence", report_memory::section_body(report));
  page += section("Where the bytes are", sizes(report));
  std::string layers = errors(report);
  page += section("Error by layer",
                  layers.empty() ? every_layer(report) : layers + every_layer(report));
  page += section("What they write", samples(report));
  std::string recipe =
      report.recipe.empty() ? "" : fmt::format("<pre>{}</pre>\n", escape(report.recipe));
  page += "<div class='columns'>\n" + section("Recipe", recipe) +
          section("How it was measured", circumstances(report)) + "</div>\n";
  page += fmt::format(
      "<footer>Written by hone{}{}. The same numbers are in the JSON file beside this "
      "page.</footer>\n</main>\n</body>\n</html>\n",
      report.hone_version.empty() ? "" : " ", escape(report.hone_version));
  return page;
}

}  // namespace hone
