// Data files as one token cache, made when it is not there or is of something else.
//
// A cache is of these files (their bytes, not their names), this tokenizer, this chat template and
// these options; it says so in its identity, and is made anew where any of them differs, or where
// its bytes are spoiled.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "text/dataset.h"
#include "text/token_cache.h"

namespace hone {

/// Of everything that ids depend on.
uint64_t tokenizer_fingerprint(const Tokenizer& tokenizer);

/// The examples of `files`, in order, from the cache at `cache`, which is written first where need
/// be: through a temporary file, so that it is there whole or not at all. Raises io or corrupt on
/// bad data (naming file and line), invalid_argument where `cache` is another kind of file.
std::shared_ptr<const TokenCache> open_tokenized(std::span<const fs::path> files,
                                                 const Tokenizer& tokenizer,
                                                 const std::string& chat_template,
                                                 const DataOptions& options, const fs::path& cache);

}  // namespace hone
