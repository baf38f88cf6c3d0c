// Calibration data: fixed-length token sequences cut from a text or JSONL file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "models/loader.h"

namespace hone {

struct Calibration {
  std::vector<std::vector<int32_t>> samples;  ///< all of one length
  std::string source;
  int64_t tokens() const;
};

/// `samples` sequences of `length` tokens from the file: evenly spaced windows of the whole text
/// (JSONL: the "text", "content", "prompt"+"completion" or "messages" contents of each line,
/// joined). Fewer where the text is short; raises invalid_argument where it has not one, or no
/// tokenizer is given. Depends on nothing but file, tokenizer, counts and seed.
Calibration read_calibration(const std::filesystem::path& path, const LoadedModel& model,
                             int64_t samples, int64_t length, uint64_t seed);

}  // namespace hone
