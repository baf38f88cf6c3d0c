// What each type of KV cache costs a model, in bytes and in predictions.
#pragma once

#include "eval/perplexity.h"
#include "eval/report.h"

namespace hone {

/// One row a type: measure_caches, and the bytes of a sequence as long as the model's context.
std::vector<ReportCache> cache_costs(LoadedModel& model, const std::string& text,
                                     const PerplexityOptions& options,
                                     std::span<const KvType> types,
                                     LoadedModel* reference = nullptr);

}  // namespace hone
