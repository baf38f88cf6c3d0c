// What converting a model to a narrower float type does to its predictions, and what to leave in
// f32 where it does too much.
//
// Weights: each type's cast runs beside the original on the same tokens. Where predictions move by
// more than a limit, or weights became infinite, a list of modules is looked for that, kept as they
// are, repairs it: first those that overflow, then the shortest beginning of the list by the error
// that the cast makes in each module's output, found by bisection and checked by running it; then
// what can be struck off again is.
// Activations: the type's range beside what flows between the layers, and a run in which every
// linear's input and the residual stream are held in the type.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "eval/precision_walk.h"
#include "models/loader.h"

namespace hone {

/// The tokens that predictions are compared on: windows of at most `context` tokens of a text, each
/// beginning with bos where the tokenizer adds one; about `max_tokens` in all, 0 = the whole text.
/// Raises invalid_argument where there are fewer than 2 tokens.
std::vector<std::vector<int32_t>> text_samples(const LoadedModel& model, const std::string& text,
                                               int64_t context, int64_t max_tokens);
/// As many tokens that the model writes itself, drawn from its own distribution: a text for models
/// that nobody has one for. Depends on model, sizes and seed.
std::vector<std::vector<int32_t>> written_samples(LoadedModel& model, int64_t context,
                                                  int64_t max_tokens, uint64_t seed);

struct PrecisionOptions {
  std::vector<std::string> types = precision_types();
  bool row_scaled = true;  ///< FP8 with a scale for each row (activations: each token)
  /// A cast is safe where the mean KL from the original, in nats, is at most this, or at most the
  /// noise floor.
  double max_kl = 1e-3;
  /// ‖ŷ−y‖/‖y‖ from which a layer's output counts as another one.
  double departure = 0.05;
};

enum class Verdict { safe, safe_with, not_safe };
/// "safe", "safe with these in f32", "not safe".
const char* verdict_name(Verdict v);

/// Whether a conversion is safe, and with what left as it is.
struct Judgement {
  Verdict verdict = Verdict::not_safe;
  Predictions converted;  ///< all of it
  std::vector<std::string> keep;
  std::optional<Predictions> repaired;  ///< with `keep` left as it is, where that was run
  /// The first place whose result is not finite, departs or does not fit the type; or empty.
  std::string first_site;
  std::string first_reason;
};

struct TypeReport {
  FloatTarget target;
  CastCounts weights;               ///< all tensors together
  std::vector<TensorCast> tensors;  ///< in model order
  Judgement cast;                   ///< weights in the type, activations in f32; keeps modules
  double kept_share = 0;            ///< of the parameters
  /// Activations too; keeps sites. Not run where the cast itself is not safe.
  std::optional<Judgement> held;
};

struct PrecisionReport {
  int64_t samples = 0, tokens = 0;    ///< tokens: scored
  double perplexity = 0;              ///< of the original
  double limit = 0;                   ///< of the mean KL
  Predictions noise;                  ///< of the original with the last bit of each weight flipped
  std::vector<ActivationSite> sites;  ///< held and departure by type, in the order of `types`
  std::vector<TypeReport> types;
};

/// Compares on `samples` (each of 2 to context tokens). The model must have been loaded with its
/// canonical weights; it is as before afterwards.
PrecisionReport measure_precision(LoadedModel& model,
                                  const std::vector<std::vector<int32_t>>& samples,
                                  const PrecisionOptions& options);

}  // namespace hone
