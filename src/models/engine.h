// Engine: many requests through one model; what a server drives.
//
// Each step is one hybrid batch in one forward: first every request that waits for one token
// (decode), then chunks of prompts up to a budget of tokens (Sarathi-Serve, Agrawal et al. 2024).
// So the weights are read once for all of them, no decode waits for a long prompt, and attention
// has both kinds of work at hand (HybridOrder). A request's logits are the bits that it gets alone,
// whatever runs beside it.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "models/session.h"

namespace hone {

struct EngineOptions {
  Activations activations = Activations::f32;
  KvType kv = KvType::f32;
  /// Most tokens of one step; at least 1. Decodes come first; what they leave is
  /// for prompts, and where they leave nothing one token of every second step.
  int64_t step_tokens = kChunkTokens;
};

class Engine {
 public:
  using Id = int64_t;
  /// Behind all tokens that a request was given: logits [V] of the last one.
  struct Output {
    Id id;
    Tensor logits;
  };
  /// What the last step ran.
  struct Step {
    int64_t decodes = 0;         ///< requests that waited for one token
    int64_t prefills = 0;        ///< requests that a chunk of several came from
    int64_t prefill_tokens = 0;  ///< of these chunks
  };

  /// `model` must outlive the engine. Raises invalid_argument.
  Engine(Model& model, const EngineOptions& options);

  /// A new request, that begins with `prompt`. Prompts run in the order of their ids.
  Id add(std::span<const int32_t> prompt);
  /// More tokens of a request: the one that was sampled, or the next turn of a dialogue. Of add and
  /// append: raises invalid_argument where there are none, one is not in the vocabulary, they do
  /// not fit the model's context or there is no such request; nothing has changed then.
  void append(Id id, std::span<const int32_t> tokens);
  /// Forgets a request and gives its pages back.
  void end(Id id);

  /// Runs one batch; outputs of the requests that are through with their tokens, by id. Empty where
  /// nothing waits, or only prompts that are longer than a chunk. Raises out_of_memory where the
  /// pages do not fit: no request has lost anything then, and the step can be run again once some
  /// have ended.
  std::vector<Output> step();
  /// Whether a step has anything to run.
  bool waits() const;
  const Step& last_step() const { return last_; }
  /// Tokens that a request holds, without those that wait.
  int64_t length(Id id) const;

 private:
  struct Request {
    KvSequence sequence;
    std::vector<int32_t> waiting;
    int64_t before = 0;  // positions of a prefix and a prompt
  };
  struct Turn {
    Id id;
    Request* request;
    int64_t tokens;
  };
  Request& find(Id id);
  void check(std::span<const int32_t> tokens, int64_t held) const;
  std::vector<Turn> schedule();

  Model& model_;
  EngineOptions options_;
  KvCache cache_;
  std::map<Id, Request> requests_;
  Id next_ = 0;
  Id begin_at_ = 0;                // where decodes begin that did not all fit the step before
  bool kept_for_prompts_ = false;  // a token of the last step, which decodes would have filled
  Step last_;
};

}  // namespace hone
