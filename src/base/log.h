// Talk for people, on stderr: log lines and progress. Data never goes this way.
//
// src/ calls these; the command decides (set_log_level, set_progress_style) how much is shown.
#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <string>
#include <utility>

namespace hone {

enum class LogLevel { quiet, warning, info, debug };

void set_log_level(LogLevel level);
LogLevel log_level();
void log_line(LogLevel level, const std::string& line);

template <typename... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  if (log_level() >= LogLevel::info)
    log_line(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  if (log_level() >= LogLevel::warning)
    log_line(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
}

/// Progress of one long task: a bar on a terminal, a plain line now and then otherwise, nothing
/// when quiet or over at once. `total` steps are expected; update() may be called often, it draws
/// at most 10 times a second (a plain log: every 10 %).
class Progress {
 public:
  Progress(std::string what, int64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void update(int64_t done, const std::string& note = {});

 private:
  void draw(bool last);
  std::string what_;
  std::string note_;
  int64_t total_;
  int64_t done_ = 0;
  int64_t last_percent_ = -1;
  double started_;
  double drawn_ = 0;
  bool terminal_;
};

/// Seconds on a clock that only goes forward.
double monotonic_seconds();

/// "12.3 MB", "1.20 GB": decimal units, three significant digits.
std::string human_bytes(double bytes);
/// "850 ms", "12.3 s", "3 min 05 s".
std::string human_seconds(double seconds);

}  // namespace hone
