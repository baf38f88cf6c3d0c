// Text that stands on a terminal, beside log lines and progress.
#include "base/terminal.h"

#include <unistd.h>

#include "base/log.h"
#include "fake_terminal.h"

namespace hone {
namespace {

using testing::FakeTerminal;
using Lines = std::vector<std::string>;

TEST(Terminal, IsFoundWhereStderrIsOne) {
  ::testing::internal::CaptureStderr();  // a file
  EXPECT_FALSE(terminal().has_value());
  ::testing::internal::GetCapturedStderr();
  FakeTerminal fake(70, 20);
  ASSERT_TRUE(fake.works());
  const auto found = terminal();
  ::setenv("TERM", "dumb", 1);
  const auto dumb = terminal();
  ::setenv("LC_ALL", "C", 1);
  ::setenv("TERM", "xterm", 1);
  const auto plain = terminal();
  fake.bytes();
  ASSERT_TRUE(found && plain);
  EXPECT_EQ(found->columns, 70);
  EXPECT_EQ(found->rows, 20);
  EXPECT_TRUE(found->utf8);
  EXPECT_FALSE(plain->utf8);
  EXPECT_FALSE(dumb.has_value());
}

TEST(Terminal, TextStandsBelowWhatIsLogged) {
  FakeTerminal fake(40, 10);
  ASSERT_TRUE(fake.works());
  log_info("before");
  {
    StandingText text;
    log_info("not yet");
    text.show("one\ntwo is long\n");
    log_info("meanwhile");
    text.show("1\n2\n3\n");
    text.show("last\nlines\n");
    log_warning("careful");
  }
  log_info("after");
  EXPECT_EQ(fake.screen(), (Lines{"before", "not yet", "meanwhile", "warning: careful", "last",
                                  "lines", "after", ""}));
}

TEST(Terminal, TextStandsWhereLinesScroll) {
  FakeTerminal fake(40, 4);
  ASSERT_TRUE(fake.works());
  {
    StandingText text;
    for (int i = 0; i < 5; ++i) {
      text.show("a" + std::to_string(i) + "\nb\n");
      log_info("line {}", i);
    }
  }
  EXPECT_EQ(fake.screen(),
            (Lines{"line 0", "line 1", "line 2", "line 3", "line 4", "a4", "b", ""}));
}

TEST(Terminal, ProgressKeepsOutOfTheText) {
  FakeTerminal fake(60, 10);
  ASSERT_TRUE(fake.works());
  {
    StandingText text;
    text.show("one\ntwo\n");
    Progress progress("work", 2);
    ::usleep(350'000);
    progress.update(1);
    progress.update(2);
  }
  EXPECT_EQ(fake.screen(), (Lines{"one", "two", ""}));
}

TEST(Terminal, AfterAChangeOfWidthTheTextBeginsBelow) {
  FakeTerminal fake(60, 10);
  ASSERT_TRUE(fake.works());
  {
    StandingText text;
    text.show("old\n");
    fake.resize(50, 10);
    text.show("new\n");
    text.show("newer\n");
    fake.resize(40, 10);
    log_info("line");
  }
  EXPECT_EQ(fake.screen(), (Lines{"old", "newer", "line", ""}));
}

TEST(Terminal, ProgressDrawsOneLine) {
  FakeTerminal fake(80, 10);
  ASSERT_TRUE(fake.works());
  {
    Progress progress("work", 2);
    ::usleep(350'000);
    progress.update(1);
    log_info("line");
    progress.update(2);
  }
  const auto screen = fake.screen();
  ASSERT_EQ(screen.size(), 3u);
  EXPECT_EQ(screen[0], "line");
  EXPECT_EQ(screen[1].find("work ████████████████████████████ 100 %"), 0u) << screen[1];
}

}  // namespace
}  // namespace hone
