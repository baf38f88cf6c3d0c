// A training as one HTML page to keep: losses, held-out perplexity, learning rate, gradient norm
// and speed over the steps, and its settings. Static SVG, no script, nothing to fetch, in the style
// of the report. All strings are data from outside and are escaped.
#pragma once

#include <string>

#include "eval/training_log.h"

namespace hone {

/// The whole page, UTF-8. Its size is bounded however many steps there are.
std::string training_page(const TrainingLog& log);

/// "loss 5.61 → 2.31 in 1 400 steps, 18 min 02 s; held-out perplexity 9.80". The losses are
/// smoothed.
std::string training_headline(const TrainingLog& log);

}  // namespace hone
