// Losses of logits x·Wᵀ that are never whole in memory.
//
// With a vocabulary of 50,000 the logits of 1,000 tokens take 200 MB, their gradient as much again.
// Here tokens go through in chunks: their logits are made, become the gradient in place, and are
// multiplied into dX and dW before the next chunk is begun. As the gradient is made beside the
// loss, the factor that it is scaled by is an argument of the forward.
#pragma once

#include <cstdint>
#include <span>

#include "encodings/product.h"

namespace hone {

/// What is made of rows of logits: cross-entropy here, distillation in train/.
class LogitLoss {
 public:
  virtual ~LogitLoss() = default;
  /// The sum of the losses of rows first … first + count − 1, whose logits are [count, vocabulary].
  /// Where `gradient` is not 0 the logits become `gradient` times its derivative; else they may be
  /// spoilt. The sum's order does not depend on threads.
  virtual double take(float* logits, int64_t first, int64_t count, int64_t vocabulary,
                      float gradient) = 0;
};

/// −log softmax(logits)[target] of each row.
class CrossEntropy : public LogitLoss {
 public:
  /// One target in [0, vocabulary) for each row; checked by whoever made them.
  explicit CrossEntropy(std::span<const int32_t> targets) : targets_(targets) {}
  double take(float* logits, int64_t first, int64_t count, int64_t vocabulary,
              float gradient) override;

 private:
  std::span<const int32_t> targets_;
};

struct LinearLoss {
  double sum = 0;
  /// Under a tape, where x or W requires a gradient: seeding it with 1 lets `gradient`·d(sum)/dx
  /// flow back to x. What W gets has been added to its gradient already.
  Tensor root;
};
/// The loss of softcap(x·Wᵀ + b) for x [T, K]; softcap 0 = none.
LinearLoss linear_loss(const Tensor& x, const Product& head, float softcap, LogitLoss& loss,
                       float gradient, Activations a);

/// The same for logits that are there already; they are spoilt unless they are to be kept, as under
/// a tape they must be where the function that they come from needs its result again.
LinearLoss loss_of_logits(Tensor logits, LogitLoss& loss, float gradient, bool keep = false);

}  // namespace hone
