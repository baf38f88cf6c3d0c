// The teacher of a run: a model that runs beside the one that is trained, or its largest logits in
// a file that is made in front of the first step (distillation.h).
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "models/loader.h"
#include "text/batches.h"
#include "train/distillation.h"

namespace hone {

struct TeacherOptions {
  std::string teacher;     ///< a MODEL; empty: targets alone
  int64_t top = 0;         ///< logits of a token that are cached; 0 = it runs beside
  double lambda = -1;      ///< −1: dwq 1, else 0.5
  double temperature = 0;  ///< 0: dwq 2, else 1

  void visit(OptionVisitor& v);
  /// Fills in the method's defaults. Raises invalid_argument.
  void finish(const std::string& method);
};

class Teacher {
 public:
  /// Loads it, to run beside the student. Raises what loading raises, and invalid_argument where it
  /// has another vocabulary than the student.
  void open_beside(const LoadedModel& student, const TeacherOptions& options);
  /// The same, or where its logits are cached writes them to `cache`, unless they are there: those
  /// of `steps` steps of `batches`.
  void open(const LoadedModel& student, const TeacherOptions& options, const Batches& batches,
            int64_t steps, const std::filesystem::path& cache);

  Objective& objective();
  /// For a rehearsal, of which no cache knows.
  Objective& rehearsed() { return cached_ ? targets_ : objective(); }

 private:
  void load(const LoadedModel& student, const TeacherOptions& options);
  LoadedModel model_;
  std::unique_ptr<Distillation> distillation_;
  Objective targets_;
  bool cached_ = false;
};

}  // namespace hone
