// llama.cpp's importance matrix, a GGUF file: for each matrix the sums of the squares of what its
// columns multiplied, over a text.
//
// general.type is "imatrix"; for a tensor X there are X.in_sum2, f32 [experts, K], and X.counts,
// f32 [experts, 1], the tokens that were counted. The older files of another layout (.dat) are
// refused.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/files.h"

namespace hone {

/// By GGUF tensor name: the mean squares of each column's inputs.
using ImportanceMatrix = std::map<std::string, std::vector<float>>;

/// Raises io, corrupt, or unsupported (of experts, or another kind of file). A tensor that saw no
/// token is left out.
ImportanceMatrix read_imatrix(const fs::path& path);

}  // namespace hone
