#include "eval/cache_cost.h"

#include "models/sequence_memory.h"

namespace hone {

std::vector<ReportCache> cache_costs(LoadedModel& model, const std::string& text,
                                     const PerplexityOptions& options,
                                     std::span<const KvType> types, LoadedModel* reference) {
  const std::vector<Perplexity> measured = measure_caches(model, text, options, types, reference);
  std::vector<ReportCache> rows;
  for (size_t i = 0; i < types.size(); ++i) {
    const SequenceMemory memory = sequence_memory(*model.model, types[i], model.model->context);
    const Perplexity& p = measured[i];
    rows.push_back({std::string(kv_type_name(types[i])), memory.kv_bytes_per_token, memory.bytes(),
                    p.perplexity, p.standard_error, p.kl_mean, p.kl_p99, p.top1_agreement,
                    p.rms_dp});
  }
  return rows;
}

}  // namespace hone
