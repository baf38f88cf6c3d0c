// The page: sections of plain HTML around the figures of training_plots.
#include "eval/training_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "eval/report_style.h"
#include "eval/report_svg.h"
#include "eval/report_text.h"
#include "eval/training_curves.h"
#include "eval/training_plots.h"

namespace hone {
namespace {

namespace text = report_text;
using namespace training_curves;
using report_plots::escape;
using report_plots::Fit;
using report_plots::number;
using training_plots::Panel;
using training_plots::panel;

// Beside the report's style sheet.
constexpr char kStyle[] = R"css(
.curve { fill: none; stroke-linejoin: round; stroke-linecap: round; }
.curve.raw { stroke: var(--accent-soft); stroke-width: 1; }
.curve.smooth { stroke: var(--accent); stroke-width: 2; }
.held-out .curve { stroke: var(--second); stroke-width: 1.3; stroke-dasharray: 5 3; }
.held-out circle { fill: var(--second); stroke: var(--page); stroke-width: 1.2; }
.skipped { stroke: var(--bad); stroke-width: 1.4; }
b.raw { color: var(--soft); font-weight: 600; } b.skip { color: var(--bad); font-weight: 600; }
.panels.over-steps { grid-template-columns: repeat(auto-fit, minmax(min(280px, 100%), 1fr)); gap: 30px 32px; }
.panels.four { grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); }
@media screen and (min-width: 901px) { .tiles { grid-template-columns: repeat(5, 1fr); } }
)css";

constexpr double kLargestScale = 1e30;

constexpr std::string_view kThinSpace = "\u202f";

std::string page_section(std::string_view title, const std::string& body) {
  return body.empty() ? "" : fmt::format("<section><h2>{}</h2>\n{}</section>\n", title, body);
}

const TrainingLog::Evaluation* best_evaluation(const TrainingLog& log) {
  const TrainingLog::Evaluation* best = nullptr;
  for (const auto& e : log.evaluations)
    if (std::isfinite(e.loss) && (!best || e.loss < best->loss)) best = &e;
  return best;
}

std::string perplexity_text(double loss) { return text::perplexity(perplexity_of(loss)); }
std::string page_loss_text(double loss) { return text::fixed(loss, 2); }

std::string steps_text(int64_t steps, std::string_view space) {
  return grouped(steps, space) + (steps == 1 ? " step" : " steps");
}

// ---- The head ----------------------------------------------------------------------------------

std::string tile(std::string_view title, const std::string& now, const std::string& was) {
  return fmt::format(
      "<div class='tile'><dt>{}</dt><dd><div class='now'>{}</div><div class='was'>{}</div></dd>"
      "</div>\n",
      title, now, was);
}

std::string tiles(const TrainingLog& log) {
  std::string out;
  const Curve loss = smoothed(curve(log, &TrainingLog::Step::loss));
  if (!loss.empty())
    out += tile("Training loss", number(page_loss_text(loss.back().value)),
                "was " + number(page_loss_text(loss.front().value)));
  if (const auto* best = best_evaluation(log)) {
    const auto& last = log.evaluations.back();
    out += tile("Held-out perplexity", number(perplexity_text(last.loss)),
                best->step == last.step
                    ? "the best, loss " + number(page_loss_text(last.loss))
                    : fmt::format("best {} at step {}", number(perplexity_text(best->loss)),
                                  grouped(best->step, kThinSpace)));
  }
  if (log.seconds() > 0)
    out += tile("Time", text::seconds(log.seconds()),
                text::seconds(log.seconds() / double(log.steps.size())) + " a step");
  if (log.tokens() > 0)
    out += tile(
        "Tokens", text::count(double(log.tokens())),
        fmt::format("{} a step", grouped(log.tokens() / int64_t(log.steps.size()), kThinSpace)));
  if (log.seconds() > 0 && log.tokens() > 0)
    out += tile("Speed", text::speed(double(log.tokens()) / log.seconds()) + " tok/s", "all steps");
  return out.empty() ? "" : "<dl class='tiles'>\n" + out + "</dl>\n";
}

/// Breaks only between its parts, never inside "6.09 → 2.24" or "17 min 59 s".
std::string unbroken(const std::string& headline) {
  std::string out;
  for (size_t i = 0; i < headline.size(); ++i) {
    const bool between = i > 0 && (headline[i - 1] == ',' || headline[i - 1] == ';');
    if (headline[i] == ' ' && !between && headline.compare(i, 4, " in ") != 0)
      out += "\u00a0";
    else
      out += headline[i];
  }
  return out;
}

std::string head(const TrainingLog& log) {
  std::string under;
  for (const auto& part : {log.model, log.method, log.machine})
    if (!part.empty() && part != log.title) under += (under.empty() ? "" : " · ") + escape(part);
  return fmt::format(
      "<header><h1>{}</h1><p class='eyebrow'>{}</p>\n<p class='headline'>{}.</p>\n{}</header>\n",
      escape(log.title.empty() ? "A training" : log.title), under,
      escape(unbroken(training_headline(log))), tiles(log));
}

/// What the log itself shows to be amiss, and the log's own notes.
std::string notes(const TrainingLog& log) {
  std::string out;
  const auto bad =
      static_cast<int64_t>(log.steps.size() - curve(log, &TrainingLog::Step::loss).size());
  if (bad > 0)
    out += fmt::format(
        "<li>The loss of {} was not finite, or past 10¹²; the curves leave {} out.</li>\n",
        steps_text(bad, kThinSpace), bad == 1 ? "it" : "them");
  for (const auto& note : log.notes) out += fmt::format("<li>{}</li>\n", escape(note));
  return out.empty() ? "" : "<ul class='notes' aria-label='Caveats'>\n" + out + "</ul>\n";
}

// ---- Curves ------------------------------------------------------------------------------------

std::string losses(const TrainingLog& log) {
  const std::string wide = training_plots::loss_plot(log, Fit::wide);
  if (wide.empty()) return {};
  return fmt::format(
      "<p><b class='method nb'>━ training</b>, smoothed, over "
      "<b class='raw nb'>the loss of each step</b>{}.</p>\n<figure>{}\n{}</figure>\n",
      log.evaluations.empty() ? "" : "; <b class='rtn nb'>● held out</b>", wide,
      training_plots::loss_plot(log, Fit::narrow));
}

std::string behaviour(const TrainingLog& log) {
  using Step = TrainingLog::Step;
  std::vector<double> skipped;
  for (const auto& s : log.steps)
    if (s.skipped) skipped.push_back(double(s.step));
  // As many marks as can be told apart.
  std::vector<double> marks;
  for (double step : skipped)
    if (marks.empty() || step - marks.back() >= double(log.steps.size()) / 300)
      marks.push_back(step);

  std::string norm_hint = "before clipping, log scale";
  if (!skipped.empty())
    norm_hint += fmt::format("; <b class='skip'>| {} skipped</b>",
                             steps_text(int64_t(skipped.size()), kThinSpace));
  const Curve lr = curve(log, &Step::lr), speed = tokens_per_second(log);
  double highest = 0;
  for (const Point& p : lr) highest = std::max(highest, p.value);
  std::vector<Panel> panels = {
      {"Learning rate", "highest " + number(fmt::format("{:.3g}", highest)), lr, false, false, {}},
      {"Gradient norm", norm_hint, curve(log, &Step::norm), true, true, marks},
      {"Tokens a second", "of each step, and smoothed", speed, false, true, {}}};
  if (std::any_of(log.steps.begin(), log.steps.end(), [](auto& s) { return s.loss_scale != 1; }))
    panels.push_back(
        {"Loss scale", "log scale", curve(log, &Step::loss_scale, kLargestScale), true, false, {}});
  std::string out;
  for (const Panel& p : panels) out += panel(p);
  return out.empty() ? ""
                     : fmt::format("<div class='panels over-steps{}'>\n{}</div>\n",
                                   panels.size() == 4 ? " four" : "", out);
}

// ---- Tables ------------------------------------------------------------------------------------

std::string evaluation_table(const TrainingLog& log) {
  if (log.evaluations.empty()) return {};
  const auto* best = best_evaluation(log);
  std::string rows;
  for (const auto& e : log.evaluations)
    rows += fmt::format(
        "<tr><td class='num'>{0}</td><td class='num{3}'>{1}</td><td class='num{3}'>{2}</td></tr>\n",
        grouped(e.step, kThinSpace), number(text::fixed(e.loss, 3)),
        number(perplexity_text(e.loss)), &e == best ? " best" : "");
  return fmt::format(
      "<details><summary>All {} evaluations</summary>\n<table><thead><tr><th class='num'>Step</th>"
      "<th class='num'>Loss</th><th class='num'>Perplexity</th></tr></thead><tbody>\n{}</tbody>"
      "</table></details>\n",
      log.evaluations.size(), rows);
}

std::string settings(const TrainingLog& log) {
  std::string out;
  for (const auto& [name, value] : log.settings)
    out += fmt::format("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(value));
  return out.empty() ? "" : "<dl class='facts'>\n" + out + "</dl>\n";
}

}  // namespace

std::string training_headline(const TrainingLog& log) {
  if (log.steps.empty()) return "no step was logged";
  const Curve loss = smoothed(curve(log, &TrainingLog::Step::loss));
  const auto steps = static_cast<int64_t>(log.steps.size());
  std::string out = loss.empty() ? "no finite loss"
                                 : fmt::format("loss {} → {}", page_loss_text(loss.front().value),
                                               page_loss_text(loss.back().value));
  out += " in " + steps_text(steps, " ");
  if (log.seconds() > 0) out += ", " + text::seconds(log.seconds());
  if (!log.evaluations.empty())
    out += "; held-out perplexity " + perplexity_text(log.evaluations.back().loss);
  return out;
}

std::string training_page(const TrainingLog& log) {
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n<meta name='viewport' "
      "content='width=device-width, initial-scale=1'>\n<title>{} · "
      "hone</title>\n<style>{}{}</style>\n</head>\n<body>\n<main>\n",
      escape(log.title.empty() ? "A training" : log.title), kReportStyle, kStyle);
  page += head(log);
  page += notes(log);
  page += page_section("Loss", losses(log) + evaluation_table(log));
  page += page_section("How it went", behaviour(log));
  page += page_section("Settings", settings(log));
  return page + "<footer>Written by hone.</footer>\n</main>\n</body>\n</html>\n";
}

}  // namespace hone
