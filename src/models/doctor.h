// Doctor: what is wrong with a checkpoint, tensor by tensor, and what of it can be mended.
//
// It looks at files that load and at files that do not: every tensor is read by itself, so that one
// that is broken hides no other. What it cannot know is whether finite numbers are the right ones.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "models/loader.h"

namespace hone {

struct Finding {
  enum class Level {
    fault,   ///< it does not load, or computes garbage
    remark,  ///< it works, but wastes something or surprises
  };
  Level level = Level::fault;
  std::string check;   ///< "reads", "finite", "zero points", "dead", "tied", "tokenizer", "loads"
  std::string module;  ///< tensor or module; empty = the whole model
  std::string text;    ///< one line
  bool mendable = false;
};

/// Findings about the checkpoint at `path`, faults first, in file order. Raises what
/// open_checkpoint does where it cannot be opened at all. Depends on no thread count. `progress`
/// may be empty.
std::vector<Finding> examine(const std::filesystem::path& path,
                             const std::function<void(int64_t done, int64_t total)>& progress);

/// How far zero points are off, in steps of the grid: 1 where all of them are one too small, as by
/// a wrong version tag; 0 where they look right, or the weight has no integer zero points.
int zero_point_shift(const Weight& w);

/// Mends what can be: zero points that are one off, values and scales that are no finite numbers
/// (they become 0), a head that repeats the embedding (it is tied). Of a model loaded with
/// inference == false; says what it did.
std::vector<Finding> mend(LoadedModel& model);

}  // namespace hone
