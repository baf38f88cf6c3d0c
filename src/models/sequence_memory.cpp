#include "models/sequence_memory.h"

namespace hone {

SequenceMemory sequence_memory(const Model& model, KvType type, int64_t length) {
  KvCache cache(model.kv_shapes(), type);
  SequenceMemory m;
  m.kv_bytes_per_token = double(cache.page_bytes()) / double(kernels::kPageKeys);
  m.kv_bytes = cache.bytes_of(length);
  if (kv_is_coded(type) && length > 0)
    m.kv_bytes += KvCache(model.kv_shapes(), KvType::f32).page_bytes();
  m.state_bytes = model.state_bytes();
  return m;
}

}  // namespace hone
