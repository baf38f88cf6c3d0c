// Distillation: a model is trained towards what a teacher says of each next token (Hinton et al.
// 2015), which recovers what quantisation, pruning or another change of the model has cost.
//
//   loss = (1−λ)·CE(z, target) + λ·T²·KL(softmax(t/T) ‖ softmax(z/T))
//
// for logits z of the student and t of the teacher. The divergence is the forward one, in f32 with
// sums in double; T² keeps its gradient of one size for every T. Mean over the rows with a target,
// as the trainer takes it.
//
// The teacher is a model that runs beside the student, of any encoding, in any form and with any
// activations: its hidden states of a batch are held, its logits made for a few rows at a time. Or
// it is a file of its k largest logits (teacher_cache.h): then the divergence is that of k+1
// outcomes, those k tokens and all others as one. That is never more than the full divergence, and
// says nothing of how the others share what is left to them.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "base/options.h"
#include "train/teacher_cache.h"
#include "train/trainer.h"

namespace hone {

struct DistillationOptions {
  double lambda = 0.5;     ///< the share of the divergence; 1: targets do not matter
  double temperature = 1;  ///< T

  void visit(OptionVisitor& v);
  /// Raises invalid_argument.
  void check() const;
};

/// The loss beside full logits of a teacher.
class DistillationLoss : public LogitLoss {
 public:
  /// The teacher's logits [last − first, V] of these rows; they are spoilt.
  using Logits = std::function<Tensor(int64_t first, int64_t last)>;
  DistillationLoss(std::span<const int32_t> targets, Logits teacher, DistillationOptions options)
      : targets_(targets), teacher_(std::move(teacher)), options_(options) {}
  /// Raises invalid_argument where the teacher has another vocabulary.
  double take(float* logits, int64_t first, int64_t count, int64_t vocabulary,
              float gradient) override;

 private:
  std::span<const int32_t> targets_;
  Logits teacher_;
  DistillationOptions options_;
};

/// The loss beside a teacher's largest logits.
class TopDistillationLoss : public LogitLoss {
 public:
  /// rows: of the cache, one for each target.
  TopDistillationLoss(std::span<const int32_t> targets, std::vector<int64_t> rows,
                      std::shared_ptr<const TeacherCache> cache, DistillationOptions options)
      : targets_(targets), rows_(std::move(rows)), cache_(std::move(cache)), options_(options) {}
  double take(float* logits, int64_t first, int64_t count, int64_t vocabulary,
              float gradient) override;

 private:
  std::span<const int32_t> targets_;
  std::vector<int64_t> rows_;
  std::shared_ptr<const TeacherCache> cache_;
  DistillationOptions options_;
};

class Distillation : public Objective {
 public:
  /// `teacher` outlives it. It must have the student's vocabulary, and must not share layers with
  /// it that training changes.
  Distillation(Model& teacher, Activations activations, const DistillationOptions& options);
  /// Raises invalid_argument where the cache was made for another temperature.
  Distillation(std::shared_ptr<const TeacherCache> cache, const DistillationOptions& options);

  /// Raises invalid_argument where the cache lacks a sequence of the batch.
  std::unique_ptr<LogitLoss> loss(const TrainingBatch& batch, std::span<const int64_t> rows,
                                  std::span<const int32_t> targets) override;

 private:
  Model* teacher_ = nullptr;  // or the cache
  std::shared_ptr<const TeacherCache> cache_;
  Activations activations_ = Activations::f32;
  DistillationOptions options_;
};

}  // namespace hone
