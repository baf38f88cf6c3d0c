// Log-likelihoods of continuations behind contexts, for many requests at once.
//
// Requests come in groups, the choices of an item. What the requests of a group begin with alike
// runs once; each request goes on from a copy of its keys and values (kv_fork.h). Groups run in
// waves, longest first, so that a forward has enough tokens to reuse each weight, and memory is
// bounded by a wave's. Logits are made of the rows alone that predict a continuation. A request's
// figures are, bit for bit, those that it gets alone.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "eval/task.h"
#include "models/loader.h"

namespace hone {

struct TokenRequest {
  std::vector<int32_t> tokens;  ///< context, then continuation
  int64_t scored_from = 0;      ///< index of the continuation's first token; at least 1
  bool cut = false;             ///< the context's beginning did not fit
};

/// A request's tokens, split as lm-evaluation-harness splits them: white space at the end of the
/// context goes to the continuation; the context is tokenized alone, and the continuation is what
/// both together have behind as many tokens. An empty context is bos (else eos). Of what exceeds
/// `room` + 1 tokens the beginning is cut off (the last token is never run). Raises
/// invalid_argument where no token is left to score, or they alone exceed the room.
TokenRequest tokenize_request(const LoadedModel& model, const TaskRequest& request, int64_t room);

struct TaskScore {
  double log_likelihood = 0;  ///< of the whole continuation, nats
  bool greedy = true;         ///< each of its tokens is the likeliest one
  int64_t tokens = 0;         ///< of the continuation
};

struct TaskRunOptions {
  Activations activations = Activations::int8;
  KvType kv = KvType::f32;
};

/// What was asked for and what it took.
struct TaskTokens {
  int64_t asked = 0;  ///< of all requests, each run alone
  int64_t run = 0;    ///< through the model
};

/// Scores of every request of every group. `done` is called with the indices of groups as they
/// finish. Raises corrupt where logits are not numbers, out_of_memory.
std::vector<std::vector<TaskScore>> score_groups(
    LoadedModel& model, std::span<const std::vector<TokenRequest>> groups,
    const TaskRunOptions& options, TaskTokens& tokens,
    const std::function<void(size_t group, const std::vector<TaskScore>& scores)>& done = {});

}  // namespace hone
