// Internal to the training's page: its figures, as static SVG.
#pragma once

#include <string>

#include "eval/report_svg.h"
#include "eval/training_curves.h"

namespace hone::training_plots {

/// Training loss (faint, and smoothed) and evaluations over the steps; on the right their
/// perplexity. Empty without a loss.
std::string loss_plot(const TrainingLog& log, report_plots::Fit fit);

/// A small figure of one number over the steps. `smooth`: faint, with a smoothed line over it.
struct Panel {
  std::string title;
  std::string hint;  ///< HTML
  training_curves::Curve curve;
  bool logarithmic = false;
  bool smooth = false;
  std::vector<double> marks;  ///< steps to point at, along the top
};
/// Empty without points.
std::string panel(const Panel& panel);

}  // namespace hone::training_plots
