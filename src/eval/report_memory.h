// Internal to the report: what a sequence takes beside the weights, and what a smaller KV cache
// costs, on the page (report.h has them for the terminal).
#pragma once

#include <string>

#include "eval/report.h"

namespace hone::report_memory {

/// Whether the variants' caches or states differ.
bool differ(const Report& report);

/// HTML: the line of report_memory_line, a table of the variants where they differ, and one of the
/// types of KV cache where several were measured. Empty where nothing is known.
std::string section_body(const Report& report);

}  // namespace hone::report_memory
