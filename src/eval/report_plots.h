// Internal to the report: its figures, as static SVG (see report_svg.h for why and how).
#pragma once

#include <string>

#include "eval/report.h"
#include "eval/report_svg.h"

namespace hone::report_plots {

/// Where a module sits: model.layers.3.mlp.up_proj is block 3, kind "mlp.up_proj"; a module
/// outside the blocks (embedding, head) has block −1. Numbers further down, as those of experts,
/// become "*".
struct Place {
  int block = -1;
  std::string kind;
};
Place place_of(const std::string& module);

/// Distance from the original (KL; without it, the change of perplexity) against model size, with
/// the noise floor of the casts and the frontier of variants nothing else beats. Empty if fewer
/// than two variants have both numbers.
std::string quality_plot(const Report& report, Fit fit);
/// True where the plot above shows KL.
bool plots_kl(const Report& report);

/// Bytes before and after, a column per block. Empty without blocks.
std::string block_plot(const Report& report, Fit fit);

/// Relative output error along the depth of the model, a small panel per kind of module, with one
/// scale. Empty if no layer has an error.
std::string error_panels(const Report& report);

}  // namespace hone::report_plots
