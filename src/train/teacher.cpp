#include "train/teacher.h"

#include <algorithm>

#include "base/log.h"
#include "train/dwq.h"

namespace hone {

namespace fs = std::filesystem;

void TeacherOptions::visit(OptionVisitor& v) {
  v.option("teacher", teacher, "a model of the same vocabulary to be like");
  v.option("teacher_top", top, "its largest logits, in a file made first; 0: it runs beside");
  v.option("lambda", lambda, "the teacher's share of the loss; dwq 1, else 0.5");
  v.option("temperature", temperature, "of the teacher; 0: dwq 2, else 1");
}

void TeacherOptions::finish(const std::string& method) {
  HONE_CHECK(!teacher.empty() || (method != "distill" && method != "dwq"), invalid_argument,
             "the method {} needs a teacher", method);
  HONE_CHECK(!teacher.empty() || (top == 0 && lambda == -1 && temperature == 0), invalid_argument,
             "teacher_top, lambda and temperature belong to a teacher, and none is named");
  if (teacher.empty()) return;
  HONE_CHECK(top >= 0, invalid_argument, "teacher_top {}: expected 0 or more", top);
  if (lambda == -1) lambda = method == "dwq" ? 1 : 0.5;
  if (temperature == 0) temperature = method == "dwq" ? kDwqTemperature : 1;
  DistillationOptions{lambda, temperature}.check();
}

void Teacher::load(const LoadedModel& student, const TeacherOptions& o) {
  model_ = load_model(o.teacher);
  HONE_CHECK(model_.model->vocabulary() == student.model->vocabulary(), invalid_argument,
             "{} has a vocabulary of {} tokens and {} one of {}: a teacher needs the student's",
             o.teacher, model_.model->vocabulary(), student.path, student.model->vocabulary());
}

void Teacher::open_beside(const LoadedModel& student, const TeacherOptions& o) {
  if (o.teacher.empty()) return;
  load(student, o);
  distillation_ = std::make_unique<Distillation>(*model_.model, Activations::int8,
                                                 DistillationOptions{o.lambda, o.temperature});
}

void Teacher::open(const LoadedModel& student, const TeacherOptions& o, const Batches& batches,
                   int64_t steps, const fs::path& cache) {
  cached_ = o.top > 0;
  if (!cached_) return open_beside(student, o);
  if (!fs::exists(cache)) {
    load(student, o);
    // Later passes over the data have the same sequences in another order.
    const int64_t count = std::min(steps, batches.steps());
    write_teacher_cache(
        cache, *model_.model, [&](int64_t i) { return batches.batch(i); }, count,
        {.k = std::min(o.top, model_.model->vocabulary()), .temperature = o.temperature},
        Json(o.teacher),
        [&](int64_t done) {
          if (done % 100 == 0 || done == count)
            log_info("the teacher's logits: {} of {} batches", done, count);
        });
    model_ = {};
  }
  distillation_ = std::make_unique<Distillation>(TeacherCache::open(cache),
                                                 DistillationOptions{o.lambda, o.temperature});
}

Objective& Teacher::objective() {
  return distillation_ != nullptr ? static_cast<Objective&>(*distillation_) : targets_;
}

}  // namespace hone
