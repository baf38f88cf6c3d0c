// Generation: sampling tokens until a stop, with the text streamed out as it becomes certain.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "models/loader.h"
#include "models/sampler.h"
#include "models/session.h"

namespace hone {

struct GenerateOptions {
  int64_t max_tokens = 128;
  SamplerOptions sampler;
  std::vector<std::string> stop;  ///< ends before the first of these texts
  bool ignore_end = false;        ///< go on past end-of-generation tokens
};

struct Generation {
  std::vector<int32_t> tokens;  ///< without the end token
  std::string text;
  std::string finish_reason;  ///< "stop" (end token or stop text) or "length"
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  ///< of the prompt: those that the session held already
  double prefill_seconds = 0;
  int64_t decode_steps = 0;  ///< runs of the model for one token; the first comes from the prompt
  double decode_seconds = 0;

  /// Tokens per second; the prompt's cached tokens do not count.
  double prefill_speed() const;
  double decode_speed() const;
};

/// Runs `prompt` and then generates. What the session holds already must be a beginning of the
/// prompt, and is not run again. `emit` gets the text piece by piece; its pieces together are the
/// result's text. The session keeps prompt and output, but for the last token sampled. Raises
/// invalid_argument where the prompt does not fit the context; stops at the context's end, which a
/// model that streams does not have.
Generation generate(const LoadedModel& model, Session& session, std::span<const int32_t> prompt,
                    const GenerateOptions& options,
                    const std::function<void(std::string_view)>& emit);

}  // namespace hone
