// Merging adapters into a model's weights, taking them out again, and what that costs.
//
// W becomes W′ = W + s·BA (whatever the method adds) in f32, and is stored again: as Q(W′). Where Q
// is coarse its error ‖Q(W′) − W′‖ may exceed the change ‖W′ − W‖ itself, and the tune is erased
// (peft#2321). So each changed weight comes with the ratio of the two, and with a text the result
// is held against the model with its adapters beside the weights. The advisor does so for every
// form that a user may choose.
#pragma once

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "base/files.h"
#include "eval/perplexity.h"
#include "eval/report.h"

namespace hone {

struct AdapterSource {
  fs::path path;  ///< a PEFT directory or a GGUF LoRA file
  float weight = 1;
};

/// MergeOptions::encoding for weights that keep the encodings of the base.
inline constexpr const char* kOwnEncoding = "own";

struct MergeOptions {
  fs::path model;
  std::vector<AdapterSource> adapters;
  bool unmerge = false;  ///< take them out of a model that they were merged into
  /// How weights are stored. Empty: floats as they were, quantised ones in bf16. kOwnEncoding: as
  /// they were. A float type: all in that. Another encoding: all weights of blocks in that; what is
  /// changed outside them as it was.
  std::string encoding;
  fs::path out;        ///< a new directory, or a new .gguf file; not used by advise_merge
  std::string layout;  ///< empty: what fits
  fs::path report;     ///< an HTML page, and its JSON twin beside it; empty: none
  fs::path text;       ///< measure on it; empty: not (the advisor lets the model write one)
  PerplexityOptions evaluate;
  uint64_t seed = 0;
};

/// One weight that the adapters changed.
struct MergedLayer {
  std::string module, before, after;  ///< encodings
  int64_t bytes_before = 0, bytes_after = 0;
  double change = 0;  ///< ‖W′ − W‖/‖W‖
  double ratio = 0;  ///< ‖Q(W′) − W′‖/‖W′ − W‖; from 1 on the change is lost in the rounding
  double error = 0;  ///< ‖Q(W′) − W′‖²/‖W′‖²
};

/// One way to keep a tune, and what it costs.
struct MergeChoice {
  std::string name;     ///< "bf16", "q4_k, the base's own", "separate", "untuned"
  std::string refusal;  ///< why it cannot be; the rest is empty then
  int64_t bytes = 0;    ///< of all weights, and of adapters kept separate
  std::vector<MergedLayer> layers;
  std::optional<Perplexity> quality;  ///< against the tuned model unmerged

  double worst_ratio() const;
  double mean_ratio() const;
  int64_t erased() const;  ///< layers whose ratio is 1 or more
};

/// Merges (or unmerges) and writes the model, complete or not at all. Raises unsupported where an
/// adapter, or several together, cannot be merged, where a weight cannot be stored so, or the
/// layout cannot hold it; nothing is written then.
MergeChoice merge_adapters(const MergeOptions& options);

struct MergeAdvice {
  std::vector<MergeChoice> choices;  ///< separate first, the untuned base last
  std::string measured_on;           ///< "" where nothing was
  std::string recommendation;        ///< one or two sentences
};
/// Tries the forms that the result may have; nothing is written.
MergeAdvice advise_merge(const MergeOptions& options);
/// The sentences for such choices.
std::string merge_recommendation(const std::vector<MergeChoice>& choices);

}  // namespace hone
