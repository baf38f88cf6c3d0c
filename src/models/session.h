// Session: one sequence running through a model; what generate, chat and the evaluations drive.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "nn/model.h"

namespace hone {

/// Tokens that run through the stack together: enough to reuse each weight, few enough that the
/// widest activation stays in the cache.
constexpr int64_t kChunkTokens = 512;

/// Tokens that fit behind `held` positions of a sequence: INT64_MAX where the model streams.
int64_t room_behind(const Model& model, int64_t held);
/// Raises invalid_argument, with both counts, where `more` do not fit.
void check_room(const Model& model, int64_t held, size_t more);

class Session {
 public:
  /// `model` must outlive the session. `kv` is the type of its KV cache.
  Session(Model& model, Activations activations, KvType kv = KvType::f32);

  /// Appends `tokens` and returns the logits of the last one: [V]. Long inputs run in chunks, which
  /// changes no bit of the result. Raises invalid_argument past the model's context, with both
  /// counts, before anything is computed; a model that streams has no end.
  Tensor append(std::span<const int32_t> tokens);
  /// Appends `tokens` and returns their hidden states [T, D], for logits().
  Tensor hidden(std::span<const int32_t> tokens);
  /// Logits [R, V] of rows of hidden().
  Tensor logits(const Tensor& hidden) { return model_.logits(hidden, activations_); }
  /// Forgets all positions from `length` on. Where a recurrent state has to be made for that
  /// length, tokens run again: from the beginning, or from the start of one of the last few inputs
  /// of several tokens.
  void truncate(int64_t length);
  /// Tokens it holds, without a prefix or a prompt.
  int64_t length() const { return sequence_.length - before_; }
  /// Tokens that may still come; INT64_MAX where the model streams.
  int64_t room() const;
  Model& model() { return model_; }
  /// Of the keys and values that it holds.
  int64_t kv_bytes() const { return cache_.bytes_of(sequence_.length); }
  int64_t page_bytes() const { return cache_.page_bytes(); }

 private:
  /// Appends, in chunks; each chunk's hidden states go to `f`.
  void run(std::span<const int32_t> tokens, const std::function<void(const Tensor&)>& f);
  void check_room(size_t more) const;

  Model& model_;
  Activations activations_;
  KvCache cache_;
  KvSequence sequence_;
  bool keeps_tokens_;            // where truncate() may have to run them again
  std::vector<int32_t> tokens_;  // what it holds
  int64_t before_ = 0;           // positions of a prefix and a prompt
};

}  // namespace hone
