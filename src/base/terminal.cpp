#include "base/terminal.h"

#include <fmt/core.h>
#include <langinfo.h>
#include <locale.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "base/error.h"

namespace hone {
namespace {

std::mutex g_mutex;
bool g_stands = false;
std::string g_text;  // what stands at the bottom
int g_columns = 0;   // of the terminal when it was drawn

constexpr std::string_view kClearLine = "\r\033[K", kClearBelow = "\033[J";

void put(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

/// To the first line of what stands. After a change of width its lines may have been broken, and
/// nobody knows where it begins: then it stays, and the next is drawn below.
std::string to_top() {
  const auto lines = std::count(g_text.begin(), g_text.end(), '\n');
  const auto now = terminal();
  if (lines == 0 || !now || now->columns != g_columns) return {};
  return fmt::format("\033[{}F", lines);
}

bool locale_is_utf8() {
  // The process's own locale is the command's affair, and may be "C".
  ::locale_t users = ::newlocale(LC_CTYPE_MASK, "", nullptr);
  if (users == nullptr) return false;
  const bool utf8 = std::string_view(::nl_langinfo_l(CODESET, users)) == "UTF-8";
  ::freelocale(users);
  return utf8;
}

}  // namespace

std::optional<Terminal> terminal() {
  if (::isatty(2) == 0) return {};
  const char* kind = std::getenv("TERM");
  if (kind == nullptr || std::string_view(kind) == "dumb") return {};
  struct winsize size {};
  if (::ioctl(2, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0)
    return Terminal{80, 24, locale_is_utf8()};
  return Terminal{size.ws_col, size.ws_row, locale_is_utf8()};
}

void print_line(std::string_view line) {
  std::lock_guard lock(g_mutex);
  const std::string top = to_top();
  if (top.empty()) g_text.clear();
  const std::string_view clear = !top.empty() ? kClearBelow : ::isatty(2) != 0 ? kClearLine : "";
  put(fmt::format("{}{}{}\n{}", top, clear, line, g_text));
}

void draw_line(std::string_view line, bool last) {
  std::lock_guard lock(g_mutex);
  if (!g_stands) put(fmt::format("{}{}{}", kClearLine, line, last ? "\n" : ""));
}

StandingText::StandingText() {
  std::lock_guard lock(g_mutex);
  HONE_ASSERT(!g_stands);
  g_stands = true;
  put(std::string(kClearLine));
}

StandingText::~StandingText() {
  std::lock_guard lock(g_mutex);
  g_stands = false;
  g_text.clear();
}

void StandingText::show(const std::string& text) {
  std::lock_guard lock(g_mutex);
  // Line by line over the old one, since clearing it first would flicker.
  std::string drawn = to_top();
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    drawn += text.substr(at, end - at) + "\033[K\n";
    at = end + 1;
  }
  put(drawn + std::string(kClearBelow));
  g_text = text;
  const auto now = terminal();
  g_columns = now ? now->columns : 0;
}

}  // namespace hone
