// Perplexity of a text under a model, and how far its predictions are from a reference model's.
//
// Two conventions, by name, because their figures differ and people compare them:
//   llama.cpp  non-overlapping chunks of `context` tokens, the first replaced by bos where the
//              tokenizer adds one; the second half of each chunk is scored.
//   hf         windows of `context` tokens that start every `stride` tokens; each token is scored
//              once, in the first window that holds it (Hugging Face's documentation).
// A model that streams (nn/streaming.h) reads the text as one sequence, whatever the convention,
// and is scored from its second token on.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "models/loader.h"

namespace hone {

enum class PerplexityConvention { llama_cpp, hf };
/// "llama.cpp" or "hf"; raises invalid_argument otherwise.
PerplexityConvention convention_from_name(const std::string& name);
const char* convention_name(PerplexityConvention c);

struct PerplexityOptions {
  int64_t context = 512;
  PerplexityConvention convention = PerplexityConvention::llama_cpp;
  int64_t stride = 0;      ///< hf: tokens between windows; 0 = context/2
  int64_t max_tokens = 0;  ///< stop after about this many tokens of text; 0 = all
  Activations activations = Activations::int8;
  KvType kv = KvType::f32;  ///< type of the KV cache
  /// The reference runs with f32 activations and an f32 cache, so that what int8 activations and a
  /// smaller cache cost is part of the divergence.
  bool exact_reference = false;
  /// Where above 0, the perplexity of positions [0, n), [n, 2n), [2n, 4n) … as well.
  int64_t first_range = 0;
};

struct Perplexity {
  /// Of the tokens at places [begin, end) of their chunks.
  struct Range {
    int64_t begin = 0, end = 0;
    double perplexity = 0;
  };
  double perplexity = 0;
  double standard_error = 0;  ///< of perplexity, over tokens
  double nll = 0;             ///< mean, nats per token
  double bits_per_byte = 0;
  int64_t tokens = 0;  ///< scored
  double seconds = 0;
  std::vector<Range> ranges;
  int64_t kv_bytes = 0;  ///< of the longest sequence, at its end

  // Against the reference; NaN without one. KL is of the candidate from the reference, in nats.
  double reference_perplexity = std::numeric_limits<double>::quiet_NaN();
  double kl_mean = std::numeric_limits<double>::quiet_NaN();
  double kl_median = std::numeric_limits<double>::quiet_NaN();
  double kl_p99 = std::numeric_limits<double>::quiet_NaN();
  double top1_agreement = std::numeric_limits<double>::quiet_NaN();  ///< share of tokens
  double rms_dp = std::numeric_limits<double>::quiet_NaN();  ///< of the true token's probability
  double max_dp = std::numeric_limits<double>::quiet_NaN();
};

/// Scores `text`; with `reference` (same vocabulary) both models run side by side, a few rows of
/// logits at a time. Raises invalid_argument where the text is too short, the context exceeds the
/// model's (unless that streams), or the vocabularies differ.
Perplexity measure_perplexity(LoadedModel& model, const std::string& text,
                              const PerplexityOptions& options, LoadedModel* reference = nullptr);

/// The same with caches of several types, in their order, side by side, against `reference` (null:
/// the model itself) with an f32 cache. options.kv is not looked at.
std::vector<Perplexity> measure_caches(LoadedModel& model, const std::string& text,
                                       const PerplexityOptions& options,
                                       std::span<const KvType> types,
                                       LoadedModel* reference = nullptr);

/// The token that this tokenizer puts before a text, if it does; before every chunk of one, too.
std::optional<int32_t> text_bos(const Tokenizer& tokenizer);

/// One stretch of tokens to run, of which the targets from `score_from` on are scored (the token at
/// index i is predicted at i−1).
struct ScoredChunk {
  std::vector<int32_t> tokens;
  int64_t score_from = 1;
};
/// The chunks of a text under a convention. `bos` replaces the first token of llama.cpp's chunks.
std::vector<ScoredChunk> perplexity_chunks(const std::vector<int32_t>& tokens,
                                           std::optional<int32_t> bos,
                                           const PerplexityOptions& options);

}  // namespace hone
