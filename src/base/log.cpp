#include "base/log.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "base/terminal.h"

namespace hone {
namespace {

std::atomic<LogLevel> g_level{LogLevel::info};
constexpr int kBarWidth = 28;
constexpr double kUnnoticed = 0.3;  // seconds: what is over by then needs no bar

}  // namespace

void set_log_level(LogLevel level) { g_level = level; }
LogLevel log_level() { return g_level; }

void log_line(LogLevel level, const std::string& line) {
  const std::string prefix = level == LogLevel::warning ? "warning: " : "";
  print_line(prefix + line);
}

double monotonic_seconds() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

Progress::Progress(std::string what, int64_t total)
    : what_(std::move(what)),
      total_(std::max<int64_t>(total, 1)),
      started_(monotonic_seconds()),
      terminal_(::isatty(2) != 0) {}

Progress::~Progress() {
  if (drawn_ > 0 && terminal_) draw(true);
}

void Progress::update(int64_t done, const std::string& note) {
  done_ = done;
  note_ = note;
  if (log_level() < LogLevel::info) return;
  double now = monotonic_seconds();
  if (now - started_ < kUnnoticed) return;
  int64_t percent = 100 * done_ / total_;
  if (terminal_) {
    if (now - drawn_ < 0.1 && done_ < total_) return;
  } else if (percent / 10 == last_percent_ / 10 && last_percent_ >= 0) {
    return;
  }
  last_percent_ = percent;
  drawn_ = now;
  draw(false);
}

void Progress::draw(bool last) {
  double elapsed = monotonic_seconds() - started_;
  int64_t percent = std::min<int64_t>(100, 100 * done_ / total_);
  std::string left;
  if (done_ > 0 && done_ < total_)
    left = ", " + human_seconds(elapsed / double(done_) * double(total_ - done_)) + " left";
  if (!terminal_) {
    print_line(fmt::format("{}: {:3} % after {}{}{}{}", what_, percent, human_seconds(elapsed),
                           left, note_.empty() ? "" : "  ", note_));
    return;
  }
  int full = static_cast<int>(kBarWidth * percent / 100);
  std::string bar;
  for (int i = 0; i < kBarWidth; ++i) bar += i < full ? "█" : "░";
  draw_line(fmt::format("{} {} {:3} %  {}{}  {}", what_, bar, percent, human_seconds(elapsed), left,
                        note_),
            last);
}

std::string human_bytes(double bytes) {
  const char* units[] = {"B", "kB", "MB", "GB", "TB"};
  int unit = 0;
  while (bytes >= 999.5 && unit < 4) {  // what would print as 1000
    bytes /= 1000;
    ++unit;
  }
  int decimals = unit == 0 || bytes >= 99.95 ? 0 : bytes >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f} {}", bytes, decimals, units[unit]);
}

std::string human_seconds(double s) {
  if (s < 0.9995) return fmt::format("{:.0f} ms", s * 1000);
  if (s < 99.95) return fmt::format("{:.1f} s", s);
  auto whole = static_cast<int64_t>(s);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
}

}  // namespace hone
