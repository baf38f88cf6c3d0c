// StreamingLLM (Xiao et al. 2023): text without end through a model of a limited context, in
// constant memory. A query sees the first `sinks` tokens and the last `window`, and positions are
// places inside that cache: keys of the window stand at their true distance, however far the text
// has run, and the sinks right in front of the window.
//
// Scores of rotary positions depend on the difference of two positions alone. So keys are cached
// rotated by their true positions, as ever, and a query runs twice: at its true position against
// the window, and against the sinks at the place that it has inside a full cache, sinks + window −
// 1. The two results are merged by their log sums. That is the definition, token by token, whatever
// pages hold; pages behind the window are given back as a whole, so that a layer holds
// ⌈sinks/64⌉ + ⌈window/64⌉ + 1 of them at most, and those of the tokens that run together. Until
// sinks + window tokens have run nothing differs from the model without streaming, but for the last
// bits of the angles.
//
// A layer that has a pattern of its own (a window) keeps it. Limits: learned positions are part of
// what every layer has computed of a token, and ALiBi of the distance to the key; neither can be
// moved, and models that have them are refused. A model without softmax attention only loses the
// limit of its context.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/attention.h"
#include "nn/layers.h"

namespace hone {

class Model;

struct Streaming {
  int64_t sinks = 4;   ///< first tokens that are always seen; a prefix and a prompt come on top
  int64_t window = 0;  ///< last tokens that are seen, itself among them; 0 = as the context leaves
};

/// Makes the model stream: sessions made from now on have no end. Returns what it runs with, window
/// and virtual tokens filled in. Raises invalid_argument where both together exceed the context,
/// unsupported where the model's positions cannot be moved. Once for each model; not for training.
Streaming set_streaming(Model& model, const Streaming& streaming);

/// What a layer does differently while its model streams.
struct StreamingAttention {
  AttentionSpec recent, sinks;  ///< the parts of what its queries see
  bool has_sinks = false;       ///< else its own pattern hides all that leaves the window
  Rope sink_rope;
  int64_t last_place = 0;  ///< of a query in a full cache

  /// Unrotated queries [T, heads·k_dim] of these positions as the sinks see them.
  Tensor sink_queries(const Tensor& q, std::vector<int64_t> positions) const;
  /// As hone::attend(), of queries rotated by their true positions and of those for the sinks.
  Tensor attend(const Tensor& q, const Tensor& sink_q, KvCache& cache, int64_t layer,
                const std::vector<SequenceSpan>& spans) const;
};

}  // namespace hone
