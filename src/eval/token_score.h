// What a row of logits says about the token that came, and how far it is from a reference's row:
// the part that all measures of predictions share.
#pragma once

#include <cstdint>
#include <vector>

#include "eval/perplexity.h"
#include "tensor/tensor.h"

namespace hone {

/// Rows of logits held at once: a large vocabulary makes them the largest activation by far.
constexpr int64_t kLogitRows = 64;

struct TokenScore {
  double nll = 0, reference_nll = 0;  ///< nats
  double kl = 0;                      ///< of the candidate from the reference; not below 0
  bool same_top = false;
};

/// Scores the rows of `logits` [R, V] (and of `reference`, if any): row i predicts target[i]. Rows
/// that are not finite give scores that are not.
void score_rows(const Tensor& logits, const Tensor* reference, const int32_t* target,
                TokenScore* out);

/// Means and quantiles of at least one score; `bytes` of text that the tokens stand for. The
/// figures against a reference are NaN without one.
Perplexity summarise(const std::vector<TokenScore>& scores, int64_t bytes, bool reference);

}  // namespace hone
