// A training's losses as a chart in text: the smoothed training loss as a line of braille dots,
// 2 × 4 to a character (without UTF-8: . ' and :), and a mark for each evaluation.
#pragma once

#include <string>

#include "eval/training_log.h"

namespace hone {

struct TextChartStyle {
  static constexpr int kNarrowest = 48, kLowest = 8;
  int width = 80;   ///< columns at most
  int height = 16;  ///< lines with all labels
  bool utf8 = true;
  bool colours = false;  ///< escape sequences
};

/// `height` lines that end in newlines; empty where there is no loss yet that can be drawn.
std::string text_chart(const TrainingLog& log, const TextChartStyle& style);

/// One line, with columns as wide for every step of a training: "step  120/1000  loss 3.214  held
/// out 3.301  lr 4.20e-4  1 840 tok/s  3 min 05 s left". The loss is the smoothed one. `steps`: of
/// the whole training. Negative `seconds_left`: not known.
std::string training_status(const TrainingLog& log, int64_t steps, double seconds_left);

}  // namespace hone
