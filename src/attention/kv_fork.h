// A second sequence that holds what one holds already: a context read once, for all that may come
// behind it.
#pragma once

#include "attention/kv_cache.h"

namespace hone {

/// A sequence of the same cache with a copy of what `s` holds, recurrent state included, that goes
/// on by itself. Not while a batch runs. Its pages are its own: they go back by truncate(…, 0).
/// Raises out_of_memory.
KvSequence fork(KvCache& cache, const KvSequence& s);

}  // namespace hone
