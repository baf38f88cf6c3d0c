// A model that has learned nothing yet: what pre-training begins with.
#pragma once

#include <cstdint>
#include <filesystem>

#include "base/json.h"

namespace hone {

/// Writes a Hugging Face directory of f32 weights drawn from (seed): matrices and embeddings normal
/// with the config's initializer_range (0.02 where it names none), those that write to the residual
/// divided by √(2·layers) (Radford et al. 2019); norms 1, biases 0. `config` is a config.json;
/// `tokenizer` as load_tokenizer takes it. All or nothing; raises as load_model would for it.
void write_initial_model(const std::filesystem::path& path, const Json& config,
                         const std::filesystem::path& tokenizer, uint64_t seed);

}  // namespace hone
