// A teacher's largest logits in a file, so that a student can be trained without it.
//
// A framed file (base/framed_file.h), of the kind "honeteac":
//
//   width            2 where the vocabulary has at most 65536 ids, else 4
//   rows             one for each position with a target, of 4 + k·(2 + width) bytes, padded with
//                    zeros to 4:
//                      rest   f32: Σ exp((t − max t)/T) over all but the k largest logits t
//                      below  k × f16: max t − t of the k largest
//                      ids    k × u16 or i32, ascending
//   sequences        from a multiple of 8 on, {key u64, first row i64, rows i64}, ascending keys
//   description      vocabulary, k, temperature, rows, sequences, teacher
//
// k is 1024 by default: with 16 GB, that is 4 million positions of a vocabulary of at most 65536.
// Halves keep max t − t to 0.05 %, which is least where the probability is largest; what is read is
// a distribution whatever they lost, since `rest` is a share of the same sum.
//
// A key is the fingerprint of a sequence's tokens and of which of them have a target. Rows are
// found by it, so that a cache made once serves every order of batches, every number of
// micro-batches, and every epoch: packed sequences are laid once (text/batches.h).
#pragma once

#include <nlohmann/json.hpp>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/framed_file.h"
#include "nn/model.h"
#include "text/batches.h"

namespace hone {

/// One row of a cache, as numbers.
struct TopLogits {
  std::vector<int32_t> ids;  ///< ascending
  std::vector<float> below;  ///< the largest logit minus that of each id: 0 or more
  float rest = 0;            ///< Σ exp(−below/T) over all other ids
};

/// An open cache. Everything was checked when it was opened, so that no accessor has to.
class TeacherCache {
 public:
  /// Maps the file and checks all of it. Raises io, or corrupt for bytes that are no whole cache.
  static std::shared_ptr<const TeacherCache> open(const fs::path& path);

  int64_t vocabulary() const { return vocabulary_; }
  int64_t k() const { return k_; }
  double temperature() const { return temperature_; }
  int64_t rows() const { return rows_; }
  int64_t sequences() const { return static_cast<int64_t>(sequences_.size()); }
  /// Who made it, as given to write_teacher_cache.
  const Json& teacher() const { return teacher_; }

  /// The row of each target of the batch, in order. Raises invalid_argument where it lacks one of
  /// the sequences.
  std::vector<int64_t> find(const TrainingBatch& batch) const;
  /// 0 ≤ row < rows().
  void read(int64_t row, TopLogits& out) const;

 private:
  struct Sequence {
    uint64_t key;
    int64_t first, rows;
  };
  friend class TeacherCacheWriter;
  explicit TeacherCache(FramedFile file) : file_(std::move(file)) {}
  void map();
  void check() const;
  const std::string& name() const { return file_.name(); }

  FramedFile file_;
  int64_t vocabulary_ = 0, k_ = 0, rows_ = 0, id_bytes_ = 0;
  double temperature_ = 1;
  std::span<const Sequence> sequences_;
  Json teacher_;
};

struct TeacherCacheOptions {
  int64_t k = 1024;        ///< at most the vocabulary is kept
  double temperature = 1;  ///< T of `rest`: of the distillation that it is for
  Activations activations = Activations::int8;

  /// Raises invalid_argument.
  void check() const;
};

/// Runs the teacher over batches 0 … count − 1 once and writes its logits; sequences that come
/// again are run once. The file appears when this returns, whole. `teacher_name` is kept in it;
/// `progress` (or null) gets the batches done.
void write_teacher_cache(const fs::path& path, Model& teacher,
                         const std::function<TrainingBatch(int64_t)>& batch, int64_t count,
                         const TeacherCacheOptions& options, const Json& teacher_name,
                         const std::function<void(int64_t)>& progress = nullptr);

/// The hidden states [R, D] of the batch's rows that have a target, in order; nothing is recorded.
Tensor target_states(Model& model, const TrainingBatch& batch, Activations activations);

/// The k largest of a row of logits; of equal ones those with the lowest ids. Raises
/// invalid_argument where the largest is not finite, or one is NaN.
void take_largest(const float* logits, int64_t vocabulary, int64_t k, double temperature,
                  TopLogits& out);

}  // namespace hone
