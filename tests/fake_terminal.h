// A terminal for tests: stderr becomes one, and what it would show can be read.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

namespace hone::testing {

/// From construction until screen(), stderr is a terminal of this size with a UTF-8 locale.
class FakeTerminal {
 public:
  FakeTerminal(int columns, int rows) : rows_(rows) {
    ::setenv("TERM", "xterm", 1);
    ::setenv("LC_ALL", "C.UTF-8", 1);
    master_ = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (master_ < 0 || ::grantpt(master_) != 0 || ::unlockpt(master_) != 0) return;
    resize(columns, rows);
    const int slave = ::open(::ptsname(master_), O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0) return;
    std::fflush(stderr);
    saved_ = ::dup(2);
    ::dup2(slave, 2);
    ::close(slave);
    reader_ = std::thread([this] { read(); });
  }
  ~FakeTerminal() {
    finish();
    if (master_ >= 0) ::close(master_);
  }
  bool works() const { return saved_ >= 0; }
  void resize(int columns, int rows) {
    struct winsize size {};
    size.ws_col = static_cast<unsigned short>(columns);
    size.ws_row = static_cast<unsigned short>(rows);
    ::ioctl(master_, TIOCSWINSZ, &size);
  }

  /// Everything that was written.
  const std::string& bytes() {
    finish();
    return bytes_;
  }
  /// All lines, also those that scrolled out above, without colours and spaces at their ends.
  std::vector<std::string> screen() {
    finish();
    std::vector<std::vector<std::string>> lines(1);
    size_t row = 0, column = 0;
    for (size_t at = 0; at < bytes_.size();) {
      const char c = bytes_[at];
      if (c == '\033') {
        size_t end = at + 2;
        while (!std::isalpha(static_cast<unsigned char>(bytes_[end]))) ++end;
        const size_t count = static_cast<size_t>(std::atoi(bytes_.c_str() + at + 2));
        const size_t top = lines.size() - std::min(lines.size(), static_cast<size_t>(rows_));
        if (bytes_[end] == 'F') row = std::max(top, row - std::min(row, count)), column = 0;
        if (bytes_[end] == 'K' || bytes_[end] == 'J')
          lines[row].resize(std::min(lines[row].size(), column));
        if (bytes_[end] == 'J')
          for (size_t below = row + 1; below < lines.size(); ++below) lines[below].clear();
        at = end + 1;
      } else if (c == '\r') {
        column = 0, ++at;
      } else if (c == '\n') {
        if (++row == lines.size()) lines.emplace_back();
        ++at;
      } else {
        size_t end = at + 1;
        while (end < bytes_.size() && (bytes_[end] & 0xC0) == 0x80) ++end;
        if (lines[row].size() <= column) lines[row].resize(column + 1, " ");
        lines[row][column++] = bytes_.substr(at, end - at);
        at = end;
      }
    }
    std::vector<std::string> result;
    for (const auto& line : lines) {
      result.emplace_back();
      for (const auto& glyph : line) result.back() += glyph;
      result.back().erase(result.back().find_last_not_of(' ') + 1);
    }
    return result;
  }

 private:
  void read() {
    char buffer[4096];
    for (;;) {
      pollfd ready{master_, POLLIN, 0};
      const bool last = done_;  // before the poll: what came until then must be read
      if (::poll(&ready, 1, 20) > 0 && (ready.revents & POLLIN) != 0) {
        ssize_t n = ::read(master_, buffer, sizeof buffer);
        if (n > 0) bytes_.append(buffer, static_cast<size_t>(n));
      } else if (last) {
        return;
      }
    }
  }
  void finish() {
    if (!reader_.joinable()) return;
    std::fflush(stderr);
    ::dup2(saved_, 2);
    ::close(saved_);
    done_ = true;
    reader_.join();
  }

  int rows_, master_ = -1, saved_ = -1;
  std::atomic<bool> done_{false};
  std::string bytes_;
  std::thread reader_;
};

}  // namespace hone::testing
