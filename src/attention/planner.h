// What attention will do on this machine, and why: the kernel and the path that attend() and
// attention() take for a spec and lengths, the tiles that the pattern keeps, and from the measured
// limits of the machine how long it takes. `hone explain attention` prints it.
//
// The prediction: of each row and tile that is kept, its multiply-adds and the operations of its
// softmax at the f32 peak, times what the kernels reach of it (bench/attention.cpp measures both);
// or the bytes of the keys and values, where reading them takes longer.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "attention/attention.h"
#include "kernels/machine.h"

namespace hone {

struct AttentionTask {
  int64_t queries = 0, keys = 0;  ///< the queries are the last of the keys
  bool backward = false;
  KvType cache = KvType::f32;
};

struct AttentionPlan {
  std::string isa, kernel, path;
  int64_t units = 0, unit_rows = 0, splits = 0;  ///< splits: the most of one unit
  /// Of one head: tiles of 64 keys × the positions of a unit.
  int64_t tiles_kept = 0, tiles_full = 0, tiles_all = 0;
  double row_tiles = 0;      ///< rows × tiles that are multiplied, over all heads
  double operations = 0;     ///< of their products
  double bytes = 0;          ///< of keys and values that are read
  int64_t memory_bytes = 0;  ///< results, pages and buffers
  double scores_bytes = 0;   ///< that all scores would take
  std::optional<double> seconds;
  struct Refusal {
    std::string path, why;
  };
  std::vector<Refusal> refused;
};

/// Sequences of a batch that are alike.
struct HybridPart {
  AttentionTask task;
  int64_t sequences = 1;
};
/// What attend() does with a batch of prefill chunks and decodes, in the interleaved order.
struct HybridPlan {
  int64_t computing_units = 0, streaming_units = 0;
  double operations = 0;  ///< of the products of units that compute
  double bytes = 0;       ///< that units read which stream
  int64_t pace = 0;       ///< steps of the products for each line that is fetched meanwhile
  double hidden = 0;      ///< part of these bytes that there are steps enough for
  struct Times {
    double prefill, decode;  ///< each kind alone
    double interleaved;
    /// Most that any order gains over one behind the other: their sum / the longer one.
    double bound() const { return (prefill + decode) / std::max(prefill, decode); }
    double gain() const { return (prefill + decode) / interleaved; }
  };
  std::optional<Times> seconds;
};

/// `roofs`: of the current instruction set and threads, where they were measured. Raises
/// invalid_argument where the spec or the lengths make no sense, unsupported for a backward over
/// keys that are not f32.
AttentionPlan plan_attention(const AttentionSpec& spec, const AttentionTask& task,
                             const std::optional<kernels::Roofs>& roofs);
/// The same for a batch; without gradients. Raises invalid_argument where there is no part.
HybridPlan plan_hybrid(const AttentionSpec& spec, const std::vector<HybridPart>& parts,
                       const std::optional<kernels::Roofs>& roofs);

}  // namespace hone
