// The terminal behind stderr: whether there is one, its size, and text that stands at its bottom
// and is drawn anew in place, while log lines scroll by above.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace hone {

struct Terminal {
  int columns, rows;
  bool utf8;  ///< the locale's encoding
};
/// Nothing where stderr is no terminal, or one that cannot move its cursor. Its size may change.
std::optional<Terminal> terminal();

// What base/log writes with.

/// A line, without its newline, above the text that stands there, or in the place of a line that
/// was drawn.
void print_line(std::string_view line);
/// On a terminal: the line that the cursor stands on, drawn anew; `last` goes on to the next.
/// Nothing while a text stands there.
void draw_line(std::string_view line, bool last);

/// One at a time, on a terminal only. Needs no cleaning up: the cursor always rests below the text,
/// and what was shown last stays.
class StandingText {
 public:
  StandingText();
  ~StandingText();
  StandingText(const StandingText&) = delete;
  StandingText& operator=(const StandingText&) = delete;

  /// Lines that end in newlines, fewer than the terminal has rows, narrower than its columns.
  void show(const std::string& text);
};

}  // namespace hone
