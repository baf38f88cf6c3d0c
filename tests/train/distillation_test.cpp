// Distillation beside PyTorch and beside differences in double, and the cache of a teacher's
// logits: what it gives, and that a spoiled one is refused.
#include "train/distillation.h"

#include <map>

#include "base/threads.h"
#include "tiny_models.h"
#include "train_testing.h"

namespace hone {
namespace {

using testing::error_of;
using testing::golden;
using testing::random_values;
using testing::relative_distance;

// Sum of losses of `rows` rows and, in place of the logits, its gradient.
double loss_of(LogitLoss& loss, std::vector<float>& logits, int64_t rows, float gradient = 1) {
  return loss.take(logits.data(), 0, rows, std::ssize(logits) / rows, gradient);
}

TEST(Distillation, EqualsPyTorchs) {
  const auto file = SafetensorsFile::open(golden("distillation.safetensors"));
  const Tensor student = file.tensor("student"), teacher = file.tensor("teacher");
  const Tensor targets = file.tensor("targets");
  const int64_t rows = student.dim(0), n = student.numel();
  const auto cases = nlohmann::json::parse(file.metadata().at("cases"));
  for (const auto& [name, options] : cases.items()) {
    const auto o = testing::options_from<DistillationOptions>(options);
    DistillationLoss loss(
        {targets.data<int32_t>(), size_t(rows)},
        [&](int64_t b, int64_t e) { return teacher.rows(b, e).clone(); }, o);
    std::vector<float> z(student.data<float>(), student.data<float>() + n);
    const double sum = loss_of(loss, z, rows);
    const Tensor expected = file.tensor(name + ".loss"), slope = file.tensor(name + ".gradient");
    double all = 0;
    for (int64_t r = 0; r < rows; ++r) all += expected.data<double>()[r];
    EXPECT_NEAR(sum, all, 2e-6 * all) << name;
    EXPECT_LT(relative_distance(z.data(), slope.data<float>(), n), 2e-6) << name;
    // The last row has a divergence of 1e-7: it is not lost beside logits of 10.
    const int64_t last = rows - 1, width = n / rows;
    DistillationLoss one(
        {targets.data<int32_t>() + last, 1},
        [&](int64_t, int64_t) { return teacher.rows(last, rows).clone(); }, o);
    std::vector<float> row(student.data<float>() + last * width, student.data<float>() + n);
    EXPECT_NEAR(loss_of(one, row, 1, 0), expected.data<double>()[last],
                1e-6 * expected.data<double>()[last] + 1e-10)
        << name;
  }
}

// What a model knows of some random sequences.
class Tiny {
 public:
  explicit Tiny(uint32_t seed = 1) : seed_(seed) {
    testing::write_tiny(directory_ / "model", testing::tiny_fixture("llama"), seed);
    loaded_ = testing::load_editable(directory_ / "model");
  }
  Model& model() { return *loaded_.model; }
  fs::path file(const std::string& name) const { return directory_ / name; }

 private:
  testing::TemporaryDirectory directory_;
  uint32_t seed_;
  LoadedModel loaded_;
};

// Three sequences, of which the first has positions that nothing is learned of.
TrainingBatch batch_of(uint32_t seed) {
  TrainingBatch b;
  for (int64_t length : {9, 14, 6}) {
    const auto ids = testing::tiny_ids(length + 1, seed++);
    const int64_t begin = std::ssize(b.tokens);
    b.row_spans.push_back(std::ssize(b.spans));
    for (int64_t t = 0; t < length; ++t) {
      b.tokens.push_back(ids[size_t(t)]);
      const bool learned = begin > 0 || t > 3;
      b.targets.push_back(learned ? ids[size_t(t + 1)] : -1);
      b.target_count += learned;
    }
    b.spans.push_back({begin, begin + length});
  }
  b.row_spans.push_back(std::ssize(b.spans));
  return b;
}

std::vector<int32_t> targets_of(const TrainingBatch& b) {
  std::vector<int32_t> targets = b.targets;
  std::erase(targets, -1);
  return targets;
}

std::shared_ptr<const TeacherCache> cache_of(Tiny& teacher, const TeacherCacheOptions& o,
                                             const std::vector<TrainingBatch>& batches) {
  const fs::path path = teacher.file("cache");
  write_teacher_cache(path, teacher.model(), [&](int64_t i) { return batches[size_t(i)]; },
                      std::ssize(batches), o, {{"name", "tiny"}});
  return TeacherCache::open(path);
}

TeacherCacheOptions top(int64_t k, double temperature) {
  TeacherCacheOptions o;
  o.k = k;
  o.temperature = temperature;
  o.activations = Activations::f32;
  return o;
}

// (1−λ)·CE + λ·T²·KL of the outcomes: k tokens, and all others as one.
double plain_top(const std::vector<double>& z, const TopLogits& t, int32_t target,
                 const DistillationOptions& o) {
  double lse = 0, lse_t = 0, sum = double{t.rest}, kl = 0;
  for (double x : z) lse += std::exp(x), lse_t += std::exp(x / o.temperature);
  for (float below : t.below) sum += std::exp(-double{below} / o.temperature);
  double q_rest = 1;
  for (size_t i = 0; i < t.ids.size(); ++i) {
    const double p = std::exp(-double{t.below[i]} / o.temperature) / sum;
    const double q = std::exp(z[size_t(t.ids[i])] / o.temperature) / lse_t;
    kl += p * std::log(p / q);
    q_rest -= q;
  }
  if (t.rest > 0) kl += t.rest / sum * std::log(t.rest / sum / q_rest);
  return (1 - o.lambda) * (std::log(lse) - z[size_t(target)]) +
         o.lambda * o.temperature * o.temperature * kl;
}

TEST(Distillation, TopLogitsEqualDifferencesInDouble) {
  Tiny teacher;
  const TrainingBatch b = batch_of(5);
  const auto targets = targets_of(b);
  const DistillationOptions o{.lambda = 0.7, .temperature = 2};
  const auto cache = cache_of(teacher, top(11, 2), {b});
  const auto rows = cache->find(b);
  const int64_t n = 272, count = 4;
  TopDistillationLoss loss(targets, rows, cache, o);
  const std::vector<float> z = random_values(size_t(count * n), 3, 2);
  std::vector<float> gradient = z;
  const double sum = loss_of(loss, gradient, count, 0.5f);
  double expected = 0;
  std::vector<float> slopes;
  for (int64_t r = 0; r < count; ++r) {
    TopLogits t;
    cache->read(rows[size_t(r)], t);
    std::vector<double> row(z.begin() + r * n, z.begin() + (r + 1) * n);
    expected += plain_top(row, t, targets[size_t(r)], o);
    for (double& x : row) {
      const double at = x, step = 1e-5;
      x = at + step;
      double up = plain_top(row, t, targets[size_t(r)], o);
      x = at - step;
      slopes.push_back(float(0.5 * (up - plain_top(row, t, targets[size_t(r)], o)) / (2 * step)));
      x = at;
    }
  }
  EXPECT_NEAR(sum, expected, 1e-6 * expected);
  EXPECT_LT(relative_distance(gradient.data(), slopes.data(), count * n), 2e-5);
}

TEST(Distillation, AllLogitsOfACacheAreTheFullOnes) {
  Tiny teacher, student(40);
  const TrainingBatch b = batch_of(5);
  const auto targets = targets_of(b);
  const DistillationOptions o{.lambda = 0.5, .temperature = 2};
  // As many as there are: the cache holds them all, and nothing is left for the others.
  const auto cache = cache_of(teacher, top(5000, 2), {b});
  EXPECT_EQ(cache->k(), 272);
  Distillation full(teacher.model(), Activations::f32, o), cached(cache, o);
  std::vector<float> z = random_values(targets.size() * 272, 3), other = z;
  const auto rows = std::ssize(targets);
  const double exact = loss_of(*full.loss(b, {}, targets), z, rows);
  EXPECT_NEAR(loss_of(*cached.loss(b, {}, targets), other, rows), exact, 1e-5 * exact);
  EXPECT_LT(relative_distance(other.data(), z.data(), std::ssize(z)), 1e-3);
  // Fewer of them say less, never more.
  const auto few = cache_of(teacher, top(20, 2), {b});
  std::vector<float> again = random_values(targets.size() * 272, 3);
  EXPECT_LT(loss_of(*Distillation(few, o).loss(b, {}, targets), again, rows), exact);
}

TEST(Distillation, AModelIsItsOwnTeacher) {
  Tiny teacher;
  const TrainingBatch b = batch_of(5);
  const auto targets = targets_of(b);
  Distillation self(teacher.model(), Activations::f32, {.lambda = 1, .temperature = 2});
  const Tensor hidden = target_states(teacher.model(), b, Activations::f32);
  auto loss = self.loss(b, {}, targets);
  const LinearLoss none = teacher.model().loss(hidden, *loss, 1, Activations::f32);
  EXPECT_LT(std::fabs(none.sum), 1e-9);
  // A teacher of other weights is another one.
  Tiny other(40);
  Distillation foreign(other.model(), Activations::f32, {.lambda = 1, .temperature = 2});
  auto far = foreign.loss(b, {}, targets);
  EXPECT_GT(teacher.model().loss(hidden, *far, 1, Activations::f32).sum, 1);
}

double trained(Tiny& student, Objective& objective, const std::vector<TrainingBatch>& batches) {
  std::vector<Parameter> parameters;
  for (const NamedTensor& t : student.model().train([](const auto&) { return true; }))
    parameters.push_back({t.name, t.value, true});
  TrainerOptions o;
  o.steps = 12;
  o.optimizer.lr = 3e-3;
  Trainer trainer(student.model(), parameters, o, [&] { student.model().values_changed(); });
  const double before = trainer.evaluate(batches, objective);
  for (int64_t i = 0; i < o.steps; ++i) trainer.step({&batches[size_t(i) % 2], 1}, objective);
  return trainer.evaluate(batches, objective) / before;
}

TEST(Distillation, BringsAStudentTowardsItsTeacher) {
  Tiny teacher;
  // Packed for inference, with other activations than the student's.
  teacher.model().pack(false);
  const std::vector<TrainingBatch> batches = {batch_of(5), batch_of(50)};
  const DistillationOptions o{.lambda = 1, .temperature = 2};
  const auto cache = cache_of(teacher, top(64, 2), batches);
  std::vector<double> left;
  for (int run = 0; run < 2; ++run) {
    Tiny student(40);
    auto objective = run == 0
                         ? std::make_unique<Distillation>(teacher.model(), Activations::int8, o)
                         : std::make_unique<Distillation>(cache, o);
    left.push_back(trained(student, *objective, batches));
    EXPECT_LT(left.back(), 0.5);
  }
  EXPECT_NEAR(left[0], left[1], 0.2);
}

TEST(Distillation, DoesNotDependOnThreads) {
  Tiny teacher;
  const TrainingBatch b = batch_of(5);
  const auto targets = targets_of(b);
  const DistillationOptions o{.lambda = 0.5, .temperature = 2};
  std::vector<std::vector<float>> results;
  for (int threads : {1, 0}) {
    set_threads(threads);
    const auto cache = cache_of(teacher, top(16, 2), {b});
    for (int which = 0; which < 2; ++which) {
      std::vector<float> z = random_values(targets.size() * 272, 3);
      Distillation d =
          which == 0 ? Distillation(teacher.model(), Activations::f32, o) : Distillation(cache, o);
      const double sum = loss_of(*d.loss(b, {}, targets), z, std::ssize(targets));
      z.push_back(float(sum));
      results.push_back(z);
    }
  }
  EXPECT_EQ(results[0], results[2]);
  EXPECT_EQ(results[1], results[3]);
}

TEST(Distillation, RefusesWhatDoesNotFit) {
  Tiny teacher;
  const TrainingBatch b = batch_of(5);
  const auto targets = targets_of(b);
  const auto cache = cache_of(teacher, top(4, 2), {b});
  EXPECT_EQ(error_of([&] { Distillation(cache, {.lambda = 0.5, .temperature = 1}); }),
            "invalid_argument: the teacher's logits were cached for temperature 2, and 1 is asked "
            "for");
  EXPECT_EQ(error_of([] { DistillationOptions{.lambda = 2}.check(); }),
            "invalid_argument: lambda 2: expected 0 to 1");
  EXPECT_EQ(error_of([] { DistillationOptions{.temperature = 0}.check(); }),
            "invalid_argument: temperature 0: expected 0.01 to 100");
  std::vector<float> narrow(targets.size() * 271);
  for (int which = 0; which < 2; ++which) {
    const DistillationOptions o{.lambda = 0.5, .temperature = 2};
    Distillation d =
        which == 0 ? Distillation(teacher.model(), Activations::f32, o) : Distillation(cache, o);
    auto loss = d.loss(b, {}, targets);
    EXPECT_EQ(error_of([&] { loss_of(*loss, narrow, std::ssize(targets)); }),
              "invalid_argument: the teacher's vocabulary has 272 tokens, the student's 271: "
              "expected the same");
  }
  const TrainingBatch other = batch_of(6);
  EXPECT_NE(error_of([&] { cache->find(other); }).find("it lacks a sequence of 9 tokens"),
            std::string::npos);
}

TEST(TeacherCache, FindsSequencesInEveryOrder) {
  Tiny teacher;
  const TrainingBatch a = batch_of(5), b = batch_of(50);
  // Sequences that come again are kept once.
  const auto cache = cache_of(teacher, top(6, 1), {a, b, a});
  EXPECT_EQ(cache->sequences(), 6);
  EXPECT_EQ(cache->rows(), a.target_count + b.target_count);
  EXPECT_EQ(cache->teacher()["name"], "tiny");
  for (const TrainingBatch& part : split_batch(b, 3)) {
    const auto rows = cache->find(part);
    ASSERT_EQ(std::ssize(rows), part.target_count);
    const Tensor logits = teacher.model().logits(
        target_states(teacher.model(), part, Activations::f32), Activations::f32);
    for (size_t i = 0; i < rows.size(); ++i) {
      TopLogits expected, got;
      take_largest(logits.data<float>() + int64_t(i) * 272, 272, 6, 1, expected);
      cache->read(rows[i], got);
      EXPECT_EQ(got.ids, expected.ids);
      EXPECT_EQ(got.rest, expected.rest);
      for (size_t j = 0; j < 6; ++j) EXPECT_EQ(got.below[j], to_f32(to_f16(expected.below[j])));
    }
  }
}

TEST(TeacherCache, TakesTheLargest) {
  const std::vector<float> z = {1, 5, 3, 5, 2, 3};
  TopLogits t;
  take_largest(z.data(), 6, 3, 2, t);
  // Of two that are equal the first.
  EXPECT_EQ(t.ids, (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(t.below, (std::vector<float>{0, 2, 0}));
  EXPECT_NEAR(t.rest, std::exp(-2.0) + std::exp(-1.5) + std::exp(-1.0), 1e-6);
  for (float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    std::vector<float> x = z;
    x[4] = bad;
    EXPECT_NE(error_of([&] { take_largest(x.data(), 6, 3, 2, t); }).find("are not numbers"),
              std::string::npos);
  }
}

std::string bytes_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(TeacherCache, SpoiledFilesAreRefused) {
  Tiny teacher;
  cache_of(teacher, top(3, 1), {batch_of(5)});
  const std::string bytes = bytes_of(teacher.file("cache"));
  const fs::path path = teacher.file("spoiled");
  auto error_with = [&](const std::string& b) {
    testing::put_file(path, b);
    return error_of([&] { TeacherCache::open(path); });
  };
  EXPECT_EQ(error_with(bytes), "no error");
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string b = bytes;
    b[i] = static_cast<char>(b[i] ^ 0x41);
    ASSERT_TRUE(error_with(b).starts_with("corrupt")) << "byte " << i;
  }
  for (size_t n = 0; n < bytes.size(); n += 7)
    ASSERT_TRUE(error_with(bytes.substr(0, n)).starts_with("corrupt")) << n << " bytes";
  // With the right checksum too: what is said of it then is more to the point.
  auto sealed = [&](size_t at, const std::string& what) {
    std::string b = bytes;
    b.replace(at, what.size(), what);
    const uint64_t sum = frame_checksum(std::string_view(b).substr(0, b.size() - 16));
    b.replace(b.size() - 16, 8, std::string(reinterpret_cast<const char*>(&sum), 8));
    return error_with(b);
  };
  const float negative = -1, huge = std::numeric_limits<float>::infinity();
  auto raw = [](auto x) { return std::string(reinterpret_cast<const char*>(&x), sizeof x); };
  EXPECT_NE(sealed(16, raw(negative)).find("the rest is -1"), std::string::npos);
  EXPECT_NE(sealed(16, raw(huge)).find("the rest is inf"), std::string::npos);
  EXPECT_NE(sealed(20, raw(uint16_t{0xbc00})).find("a logit of -1 below"), std::string::npos);
  EXPECT_NE(sealed(20, raw(uint16_t{0x7e00})).find("below the largest"), std::string::npos);
  EXPECT_NE(sealed(30, raw(uint16_t{272})).find("not ascending, or beyond 272"), std::string::npos);
  EXPECT_NE(sealed(26, std::string(4, '\0')).find("not ascending"), std::string::npos);
  const size_t sequences = bytes.find("{\"vocabulary\"") - 3 * 24;
  EXPECT_NE(sealed(sequences + 16, raw(int64_t{1} << 62)).find("rows from row"), std::string::npos);
  EXPECT_NE(sealed(sequences + 8, raw(int64_t{-1})).find("rows from row"), std::string::npos);
  EXPECT_NE(sealed(sequences, raw(~uint64_t{0})).find("ascending order"), std::string::npos);
}

}  // namespace
}  // namespace hone
