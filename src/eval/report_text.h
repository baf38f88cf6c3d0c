// Internal to the report: how its numbers, names and comparisons read, the same in every rendering.
#pragma once

#include <string>
#include <string_view>

#include "eval/report.h"

namespace hone::report_text {

inline constexpr std::string_view kDash = "–";

/// `text` with every byte that is not part of valid UTF-8 replaced by U+FFFD.
std::string valid_utf8(std::string_view text);
/// Code points in valid UTF-8, taken as columns.
int columns(std::string_view text);
/// The first `limit` code points, the last of them an ellipsis if something was cut.
std::string shorten(std::string_view text, int limit);

// Numbers. NaN gives the dash, infinity "∞".
std::string fixed(double value, int decimals);
/// Three significant digits; powers of ten past 1e-4 and 1e5, so never wider than 8 columns.
std::string significant(double value);
/// A fraction as percent, without the sign "%".
std::string percent(double fraction);
std::string perplexity(double value);
std::string bytes(double value);
std::string seconds(double value);
/// 134515008 -> "134.5 million".
std::string count(double value);
/// Tokens a second: no decimals past 100.
std::string speed(double value);

/// "4.1× smaller", "12 % larger", "same size". `less` and `more` are the words for a smaller and a
/// larger `after`, `same` the one for a change below `tolerance`. Empty if either is unusable.
std::string change(double before, double after, std::string_view less, std::string_view more,
                   std::string_view same, double tolerance);
/// "+1.8 %", "−0.4 %"; empty if either is unusable.
std::string relative(double before, double after);

/// Whether `v` competes for the best value of a column.
bool is_candidate(const ReportVariant& v);
/// The best value among the candidates, `better` +1: the largest, −1: the smallest; NaN if `better`
/// is 0 or fewer than two candidates have the number.
double best_of(const Report& report, double ReportVariant::*value, int better);

/// The first variant so marked, or null.
const ReportVariant* original(const Report& report);
const ReportVariant* output(const Report& report);

}  // namespace hone::report_text
