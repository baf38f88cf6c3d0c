// What a sequence takes beside the weights: the keys and values that its layers keep, of windows no
// more than these, and its recurrent state.
#pragma once

#include "nn/model.h"

namespace hone {

struct SequenceMemory {
  double kv_bytes_per_token = 0;  ///< what a position adds, before windows begin to drop others
  int64_t kv_bytes = 0;           ///< of the whole sequence: the cache's pages
  int64_t state_bytes = 0;        ///< whatever the length

  double bytes() const { return double(kv_bytes) + double(state_bytes); }
};

/// Of a sequence of `length` positions. Coded caches keep the page that is being filled in f32
/// beside the pool; that is part of kv_bytes.
SequenceMemory sequence_memory(const Model& model, KvType type, int64_t length);

}  // namespace hone
