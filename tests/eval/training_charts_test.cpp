// A training as drawn: curves, the chart in text, live on a terminal and off it, and the page.
#include <cmath>
#include <limits>
#include <regex>
#include <sstream>

#include "base/log.h"
#include "eval/live_chart.h"
#include "eval/report_text.h"
#include "eval/text_chart.h"
#include "eval/training_curves.h"
#include "eval/training_page.h"
#include "fake_terminal.h"

namespace hone {
namespace {

using namespace training_curves;
using Lines = std::vector<std::string>;

constexpr double kChartInfinity = std::numeric_limits<double>::infinity();

/// Losses that fall along a line from 6 to 2, evaluations a little above.
TrainingLog falling(int64_t steps, int64_t every) {
  TrainingLog log;
  log.title = "Tiny";
  for (int64_t n = 1; n <= steps; ++n) {
    const double share = steps > 1 ? double(n - 1) / double(steps - 1) : 0;
    log.steps.push_back({n, 6 - 4 * share, 1 + share, 4.2e-4, 920, 0.5, 1, false});
    if (n % every == 0) log.evaluations.push_back({n, 6 - 4 * share + 0.25});
  }
  return log;
}

Lines chart_lines(const std::string& text) {
  Lines result;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) result.push_back(line);
  return result;
}

int times_in(const std::string& text, const std::string& part) {
  int found = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++found;
  return found;
}

// ---- Curves ----------------------------------------------------------------------------------

TEST(TrainingCurves, SmoothingNeitherLagsNorMovesTheBeginning) {
  const Curve line = curve(falling(1000, 100), &TrainingLog::Step::loss), smooth = smoothed(line);
  ASSERT_EQ(smooth.size(), 1000u);
  for (size_t i = 0; i < 980; ++i) EXPECT_NEAR(smooth[i].value, line[i].value, 1e-9) << i;
  // The mean of the last 21.
  EXPECT_NEAR(smooth.back().value, line[989].value, 1e-9);
  EXPECT_TRUE(smoothed({}).empty());
}

TEST(TrainingCurves, LeaveOutWhatIsNotFinite) {
  TrainingLog log = falling(5, 2);
  log.steps[1].loss = std::nan("");
  log.steps[2].loss = kChartInfinity;
  log.steps[3].loss = 1e200;
  log.evaluations[0].loss = kChartInfinity;
  EXPECT_EQ(curve(log, &TrainingLog::Step::loss).size(), 2u);
  EXPECT_EQ(evaluations(log).size(), 1u);
  log.steps[0].seconds = 0;
  EXPECT_EQ(tokens_per_second(log).size(), 4u);
}

TEST(TrainingCurves, ThinnedCurvesKeepTheirExtremes) {
  Curve all;
  for (int i = 0; i < 10000; ++i) all.push_back({double(i), std::sin(i * 0.37)});
  all[1234].value = 7;
  all[8765].value = -7;
  const Curve few = thinned(all, 100);
  EXPECT_LE(few.size(), 202u);
  EXPECT_GE(few.size(), 190u);
  auto has = [&](double value) {
    return std::any_of(few.begin(), few.end(), [&](auto& p) { return p.value == value; });
  };
  EXPECT_TRUE(has(7) && has(-7));
  for (size_t i = 1; i < few.size(); ++i) EXPECT_GT(few[i].step, few[i - 1].step);
  EXPECT_EQ(thinned(all, 5000).size(), all.size());
}

TEST(TrainingCurves, OneOutlierDoesNotSetTheRange) {
  Curve cloud;
  for (int i = 0; i < 1000; ++i) cloud.push_back({double(i), 2 + 0.001 * i});
  cloud[500].value = 1e6;
  const Range range = values_of({}, cloud);
  EXPECT_NEAR(range.low, 2.01, 1e-3);
  EXPECT_NEAR(range.high, 2.99, 2e-3);
}

TEST(TrainingCurves, NumbersForPeople) {
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1400), "1 400");
  EXPECT_EQ(grouped(18000000, "_"), "18_000_000");
  EXPECT_EQ(grouped(-123456), "-123 456");
  EXPECT_EQ(learning_rate(4.2e-4), "4.20e-4");
  EXPECT_EQ(learning_rate(1e-12), "1.00e-12");
  EXPECT_EQ(learning_rate(0), "0");
  EXPECT_EQ(recent_speed(falling(100, 10)), 1840);
  EXPECT_TRUE(std::isnan(recent_speed({})));
}

// ---- In text ---------------------------------------------------------------------------------

TEST(TextChart, DrawsAFallingLoss) {
  TextChartStyle style;
  style.width = 48;
  style.height = 9;
  EXPECT_EQ("\n" + text_chart(falling(800, 200), style), R"(
loss   ⠒⠒ training 2.040   ● held out 2.250
6 ┤⠒⠲⠤⠤⣀⣀
  │      ⠉⠉⠓⠒⠦●⣄⣀⡀
  │              ⠉⠉⠓⠒⠦⠤⣄⣀●
4 ┤                      ⠉⠉⠓⠒⠦⠤⣄⣀⡀
  │                              ⠉⠉⠓●⠢⠤⢄⣀⣀
2 ┤                                      ⠈⠉⠙⠒⠲⠤●
  └───────────┬──────────┬──────────┬──────────┬
             200        400        600       800
)");
}

TEST(TextChart, FitsItsSize) {
  const TrainingLog log = falling(1400, 100);
  for (int width : {48, 57, 80, 200})
    for (int height : {8, 12, 30})
      for (bool utf8 : {true, false}) {
        TextChartStyle style;
        style.width = width;
        style.height = height;
        style.utf8 = utf8;
        const std::string chart = text_chart(log, style);
        EXPECT_EQ(times_in(chart, "\n"), height);
        for (const auto& line : chart_lines(chart))
          EXPECT_LE(report_text::columns(line), width) << line;
        EXPECT_TRUE(utf8 || std::all_of(chart.begin(), chart.end(), [](char c) { return c > 0; }));
        EXPECT_EQ(times_in(chart, "\033"), 0);
      }
}

TEST(TextChart, BearsOddLogs) {
  EXPECT_EQ(text_chart({}, {}), "");
  TrainingLog none = falling(1, 5);
  none.steps[0].loss = std::nan("");
  EXPECT_EQ(text_chart(none, {}), "");
  EXPECT_EQ(times_in(text_chart(falling(1, 5), {}), "\n"), 16);
  TrainingLog only = falling(1, 1);
  only.steps.clear();
  EXPECT_EQ(times_in(text_chart(only, {}), "●"), 2);  // the legend's, and its own
  for (double loss : {0.0, -3.0, 1e-9, 1e12, 5.5}) {
    TrainingLog flat = falling(50, 10);
    for (auto& s : flat.steps) s.loss = loss;
    EXPECT_EQ(times_in(text_chart(flat, {}), "\n"), 16) << loss;
  }
}

TEST(TextChart, ColoursEndWithEachLine) {
  TextChartStyle style;
  style.colours = true;
  const std::string coloured = text_chart(falling(100, 10), style);
  for (const auto& line : chart_lines(coloured)) {
    const size_t last = line.rfind('\033');
    EXPECT_TRUE(last == std::string::npos || line.substr(last, 4) == "\033[0m") << line;
  }
  style.colours = false;
  EXPECT_EQ(std::regex_replace(coloured, std::regex("\033\\[\\d*m"), ""),
            text_chart(falling(100, 10), style));
}

TEST(TextChart, StatusHasAlignedColumns) {
  TrainingLog log = falling(1, 100);
  const std::string first = training_status(log, 1000, -1);
  EXPECT_EQ(first, "step    1/1000  loss  6.000  held out      -  lr 4.20e-4    1 840 tok/s");
  log = falling(120, 100);
  const std::string later = training_status(log, 1000, 185);
  EXPECT_EQ(later,
            "step  120/1000  loss  2.034  held out  2.922  lr 4.20e-4    1 840 tok/s  3 min 05 s "
            "left");
}

// ---- Live ------------------------------------------------------------------------------------

class LiveChartTest : public ::testing::Test {
 protected:
  void TearDown() override { set_log_level(LogLevel::info); }

  /// What goes to a stderr that is a file.
  static std::string said(const TrainingLog& all) {
    ::testing::internal::CaptureStderr();
    run(all);
    return ::testing::internal::GetCapturedStderr();
  }
  static void run(const TrainingLog& all) {
    LiveChart chart(static_cast<int64_t>(all.steps.size()));
    TrainingLog log;
    size_t evaluated = 0;
    for (const auto& step : all.steps) {
      log.steps.push_back(step);
      chart.update(log);
      if (evaluated == all.evaluations.size() || all.evaluations[evaluated].step > step.step)
        continue;
      log.evaluations.push_back(all.evaluations[evaluated++]);
      chart.update(log);
      log_info("checkpoint {}", step.step);
    }
    chart.finish(log);
  }
};

TEST_F(LiveChartTest, OffATerminalItSaysPlainLines) {
  const Lines text = chart_lines(said(falling(500, 200)));
  ASSERT_EQ(text.size(), 6u);
  EXPECT_EQ(text[0].find("step   1/500  loss  6.000  held out      -"), 0u) << text[0];
  EXPECT_EQ(text[1].find("step 200/500"), 0u) << text[1];
  EXPECT_EQ(text[2], "checkpoint 200");
  EXPECT_EQ(text[3].find("step 400/500"), 0u) << text[3];
  EXPECT_EQ(text[5].find("step 500/500"), 0u) << text[5];
}

TEST_F(LiveChartTest, IsSilentWhereAsked) {
  set_log_level(LogLevel::warning);
  EXPECT_EQ(said(falling(500, 200)), "");
  testing::FakeTerminal fake(80, 24);
  ASSERT_TRUE(fake.works());
  run(falling(500, 200));
  EXPECT_EQ(fake.bytes(), "");
}

TEST_F(LiveChartTest, OnATerminalItStandsBelowTheLog) {
  testing::FakeTerminal fake(80, 24);
  ASSERT_TRUE(fake.works());
  log_info("before");
  run(falling(500, 100));
  log_info("after");
  const Lines screen = fake.screen();
  // before, 5 checkpoints, the chart, its status, after, and the line of the cursor.
  ASSERT_EQ(screen.size(), 1u + 5 + 18 + 1 + 1 + 1);
  EXPECT_EQ(screen[0], "before");
  EXPECT_EQ(screen[1], "checkpoint 100");
  EXPECT_EQ(screen[5], "checkpoint 500");
  EXPECT_NE(screen[6].find("⠒⠒ training 2.0"), std::string::npos) << screen[6];
  EXPECT_EQ(screen[24].find("step 500/500"), 0u) << screen[24];
  EXPECT_EQ(screen[25], "after");
  // At most twice a second: the first, perhaps one in the middle, and the last.
  EXPECT_LE(times_in(fake.bytes(), "\033[19F"), 3 + 5);
}

TEST_F(LiveChartTest, OnASmallTerminalThereIsOnlyTheStatus) {
  testing::FakeTerminal fake(30, 8);
  ASSERT_TRUE(fake.works());
  run(falling(500, 1000));
  EXPECT_EQ(fake.screen(), (Lines{"step 500/500  loss  2.040  he", ""}));
}

// ---- The page --------------------------------------------------------------------------------

TEST(TrainingPage, Headline) {
  TrainingLog log = falling(1400, 100);
  EXPECT_EQ(training_headline(log),
            "loss 6.00 → 2.04 in 1 400 steps, 11 min 40 s; held-out perplexity 9.49");
  log.evaluations.clear();
  log.steps.resize(1);
  log.steps[0].seconds = 0;
  EXPECT_EQ(training_headline(log), "loss 6.00 → 6.00 in 1 step");
  log.steps[0].loss = kChartInfinity;
  EXPECT_EQ(training_headline(log), "no finite loss in 1 step");
  EXPECT_EQ(training_headline({}), "no step was logged");
}

/// Tags are closed in order, so the page is whole; void elements aside.
void expect_balanced(const std::string& page) {
  std::vector<std::string> open;
  const std::regex tag("<(/?)([a-z0-9]+)[^>]*?(/?)>");
  const std::string body =
      page.substr(page.find("<body>"), page.find("</html>") - page.find("<body>"));
  for (std::sregex_iterator it(body.begin(), body.end(), tag), end; it != end; ++it) {
    if ((*it)[3].length() > 0) continue;
    if ((*it)[1].length() == 0) {
      open.push_back((*it)[2]);
    } else {
      ASSERT_FALSE(open.empty());
      ASSERT_EQ(open.back(), (*it)[2].str());
      open.pop_back();
    }
  }
  EXPECT_TRUE(open.empty());
}

TEST(TrainingPage, HasItsSections) {
  TrainingLog log = falling(1400, 100);
  log.settings = {{"optimizer", "adamw"}};
  const std::string page = training_page(log);
  expect_balanced(page);
  for (const char* part :
       {"<h2>Loss</h2>", "perplexity</text>", "All 14 evaluations", "Learning rate",
        "Gradient norm", "Tokens a second", "<dt>optimizer</dt>"})
    EXPECT_NE(page.find(part), std::string::npos) << part;
  EXPECT_EQ(times_in(page, "<circle"), 2 * 14);  // for a wide column, and for a phone
  EXPECT_EQ(page.find("Loss scale"), std::string::npos);
  EXPECT_EQ(page.find("skipped</b>"), std::string::npos);
  EXPECT_EQ(page.find("<script"), std::string::npos);
  EXPECT_EQ(page.find("http"), std::string::npos);
}

TEST(TrainingPage, MarksSkippedSteps) {
  TrainingLog log = falling(300, 100);
  for (auto& s : log.steps) s.loss_scale = s.step < 150 ? 65536 : 32768;
  for (size_t i : {149u, 250u}) log.steps[i].skipped = true, log.steps[i].norm = kChartInfinity;
  log.steps[10].loss = std::nan("");
  const std::string page = training_page(log);
  expect_balanced(page);
  EXPECT_EQ(times_in(page, "class='skipped'"), 2);
  EXPECT_NE(page.find("2 steps skipped"), std::string::npos);
  EXPECT_NE(page.find("Loss scale"), std::string::npos);
  EXPECT_NE(page.find("The loss of 1 step was not finite"), std::string::npos);
  EXPECT_EQ(page.find("nan"), std::string::npos);
}

TEST(TrainingPage, EscapesWhatItShows) {
  TrainingLog log = falling(3, 1);
  const std::string bad = "<b>&'\"\xFF";
  log.title = log.model = log.method = log.machine = bad;
  log.model += "m", log.method += "e", log.machine += "a";
  log.notes = {bad};
  log.settings = {{bad, bad}};
  const std::string page = training_page(log);
  expect_balanced(page);
  EXPECT_EQ(page.find("<b>&'"), std::string::npos);
  EXPECT_EQ(times_in(page, "&lt;b&gt;&amp;&#39;&quot;\xEF\xBF\xBD"), 8);
}

TEST(TrainingPage, BearsOddLogsAndStaysSmall) {
  expect_balanced(training_page({}));
  for (double value : {0.0, -3.0, 1e12, 1e300, kChartInfinity, std::nan("")}) {
    TrainingLog log = falling(20, 5);
    for (auto& s : log.steps) s.loss = s.norm = s.lr = s.seconds = s.loss_scale = value;
    for (auto& e : log.evaluations) e.loss = value;
    const std::string page = training_page(log);
    expect_balanced(page);
    EXPECT_EQ(page.find("nan"), std::string::npos) << value;
    EXPECT_EQ(page.find("inf,"), std::string::npos) << value;
  }
  EXPECT_LT(training_page(falling(200000, 10000)).size(), size_t{200} << 10);
}

}  // namespace
}  // namespace hone
