// Talk on stderr: levels, progress in plain lines, and figures for people.
#include "base/log.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace hone {
namespace {

class Log : public ::testing::Test {
 protected:
  void TearDown() override { set_log_level(LogLevel::info); }

  template <typename F>
  std::string said(LogLevel level, F&& f) {
    set_log_level(level);
    ::testing::internal::CaptureStderr();  // a file, so no terminal
    f();
    return ::testing::internal::GetCapturedStderr();
  }
};

TEST_F(Log, KeepsToItsLevel) {
  auto talk = [] {
    log_info("{} files", 3);
    log_warning("only {}", 2);
  };
  EXPECT_EQ(said(LogLevel::quiet, talk), "");
  EXPECT_EQ(said(LogLevel::warning, talk), "warning: only 2\n");
  EXPECT_EQ(said(LogLevel::info, talk), "3 files\nwarning: only 2\n");
}

// Longer than what is over too soon to need a bar.
void wait() { std::this_thread::sleep_for(std::chrono::milliseconds(350)); }

TEST_F(Log, ProgressSaysNothingOfWhatIsOverAtOnce) {
  EXPECT_EQ(said(LogLevel::info, [] { Progress("work", 2).update(2); }), "");
}

TEST_F(Log, ProgressSaysOneLineForEachTenth) {
  auto work = [] {
    Progress progress("work", 1000);
    wait();
    for (int i = 1; i <= 1000; ++i) progress.update(i, "note");
  };
  const std::string text = said(LogLevel::info, work);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 11) << text;
  EXPECT_EQ(text.find('\r'), std::string::npos);
  EXPECT_NE(text.find("work: 100 % after "), std::string::npos) << text;
  EXPECT_NE(text.find("  note\n"), std::string::npos) << text;
  EXPECT_EQ(said(LogLevel::warning, work), "");
}

TEST_F(Log, ProgressBearsOddTotals) {
  auto work = [](int64_t total, int64_t done) {
    Progress progress("work", total);
    wait();
    progress.update(done);
  };
  EXPECT_NE(said(LogLevel::info, [&] { work(0, 0); }).find("work:   0 %"), std::string::npos);
  EXPECT_NE(said(LogLevel::info, [&] { work(3, 7); }).find("work: 100 %"), std::string::npos);
}

TEST_F(Log, FiguresHaveThreeDigits) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(999), "999 B");
  EXPECT_EQ(human_bytes(1000), "1.00 kB");
  EXPECT_EQ(human_bytes(9'996), "10.0 kB");
  EXPECT_EQ(human_bytes(12'345'678), "12.3 MB");
  EXPECT_EQ(human_bytes(999'400), "999 kB");
  EXPECT_EQ(human_bytes(999'999), "1.00 MB");
  EXPECT_EQ(human_bytes(1.2e9), "1.20 GB");
  EXPECT_EQ(human_bytes(5e15), "5000 TB");
  EXPECT_EQ(human_seconds(0.85), "850 ms");
  EXPECT_EQ(human_seconds(0.9999), "1.0 s");
  EXPECT_EQ(human_seconds(12.34), "12.3 s");
  EXPECT_EQ(human_seconds(99.99), "1 min 39 s");
  EXPECT_EQ(human_seconds(185), "3 min 05 s");
  EXPECT_EQ(human_seconds(7325), "2 h 02 min");
}

TEST_F(Log, TimeGoesForward) {
  const double before = monotonic_seconds();
  EXPECT_GE(monotonic_seconds(), before);
}

}  // namespace
}  // namespace hone
