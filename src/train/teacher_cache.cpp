#include "train/teacher_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <unordered_set>

#include "base/checked.h"
#include "base/fingerprint.h"
#include "base/threads.h"
#include "ops/elementwise.h"
#include "ops/tape.h"
#include "train/model_batch.h"

namespace hone {
namespace {

constexpr FrameKind kKind{"honeteac", 1, "cache of a teacher's logits"};
// Logits of the teacher that are in memory at once.
constexpr int64_t kLogitBytes = int64_t{64} << 20;

int64_t id_bytes_of(int64_t vocabulary) { return vocabulary <= 1 << 16 ? 2 : 4; }

int64_t row_bytes(int64_t k, int64_t id_bytes) {
  return round_up(checked_add(4, checked_mul(k, 2 + id_bytes, "teacher logits"), "teacher logits"),
                  4);
}

template <typename T>
T read_at(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

struct Key {
  uint64_t key;
  int64_t targets;
};

Key key_of(const TrainingBatch& b, const TrainingBatch::Span& s) {
  const auto n = static_cast<size_t>(s.end - s.begin);
  std::string learned(n, '\0');
  int64_t targets = 0;
  for (size_t i = 0; i < n; ++i)
    if (b.targets[size_t(s.begin) + i] >= 0) learned[i] = 1, ++targets;
  const auto* tokens = reinterpret_cast<const char*>(b.tokens.data() + s.begin);
  return {bytes_fingerprint(learned, bytes_fingerprint({tokens, n * sizeof(int32_t)})), targets};
}

// One row as the file has it.
void pack_row(const TopLogits& top, int64_t id_bytes, std::byte* out) {
  std::memcpy(out, &top.rest, 4);
  std::byte* below = out + 4;
  std::byte* ids = below + 2 * top.ids.size();
  for (size_t i = 0; i < top.ids.size(); ++i, below += 2, ids += id_bytes) {
    const uint16_t bits = to_f16(top.below[i]).bits;
    std::memcpy(below, &bits, 2);
    std::memcpy(ids, &top.ids[i], static_cast<size_t>(id_bytes));
  }
}

}  // namespace

std::shared_ptr<const TeacherCache> TeacherCache::open(const fs::path& path) {
  std::shared_ptr<TeacherCache> cache(new TeacherCache(FramedFile(MappedFile::open(path), kKind)));
  cache->map();
  cache->check();
  return cache;
}

void TeacherCache::map() {
  const auto size = static_cast<int64_t>(file_.bytes().size());
  vocabulary_ = file_.count("vocabulary", 1, INT32_MAX);
  k_ = file_.count("k", 1, vocabulary_);
  rows_ = file_.count("rows", 0, size);
  const int64_t sequences = file_.count("sequences", 0, size);
  const Json& temperature = file_.member("temperature");
  HONE_CHECK(temperature.is_number(), corrupt, "{}: the temperature is no number", name());
  temperature_ = temperature.get<double>();
  HONE_CHECK(std::isfinite(temperature_) && temperature_ > 0, corrupt, "{}: temperature {}", name(),
             temperature_);
  teacher_ = file_.member("teacher");
  id_bytes_ = id_bytes_of(vocabulary_);
  HONE_CHECK(file_.width() == uint32_t(id_bytes_), corrupt,
             "{}: ids of {} bytes for a vocabulary of {}", name(), file_.width(), vocabulary_);
  const char* what = "teacher logits";
  const int64_t rows_end =
      checked_add(FramedFile::kFront, checked_mul(rows_, row_bytes(k_, id_bytes_), what), what);
  const int64_t begin = round_up(rows_end, FramedFile::kAlign);
  const int64_t end = checked_add(begin, checked_mul(sequences, sizeof(Sequence), what), what);
  HONE_CHECK(end == file_.end(), corrupt,
             "{}: {} rows and {} sequences end at byte {}, and the description begins at {}",
             name(), rows_, sequences, end, file_.end());
  sequences_ = {reinterpret_cast<const Sequence*>(file_.bytes().data() + begin),
                static_cast<size_t>(sequences)};
}

void TeacherCache::check() const {
  const Sequence* before = nullptr;
  for (const Sequence& s : sequences_) {
    HONE_CHECK(before == nullptr || before->key < s.key, corrupt,
               "{}: the sequences are not in ascending order", name());
    HONE_CHECK(s.rows > 0 && s.first >= 0 && s.first <= rows_ && s.rows <= rows_ - s.first, corrupt,
               "{}: a sequence of {} rows from row {} on, of {}", name(), s.rows, s.first, rows_);
    before = &s;
  }
  parallel_for(rows_, 64, [&](int64_t begin, int64_t end) {
    TopLogits top;
    for (int64_t r = begin; r < end; ++r) {
      read(r, top);
      HONE_CHECK(std::isfinite(top.rest) && top.rest >= 0, corrupt, "{}: row {}: the rest is {}",
                 name(), r, top.rest);
      // The largest is 0 below itself; with it the row is a distribution.
      float least = top.below[0];
      for (size_t i = 0; i < top.ids.size(); ++i) {
        HONE_CHECK(top.below[i] >= 0, corrupt, "{}: row {}: a logit of {} below the largest",
                   name(), r, top.below[i]);
        HONE_CHECK(top.ids[i] < vocabulary_ && top.ids[i] > (i == 0 ? -1 : top.ids[i - 1]), corrupt,
                   "{}: row {}: its tokens are not ascending, or beyond {}", name(), r,
                   vocabulary_);
        least = std::min(least, top.below[i]);
      }
      HONE_CHECK(least == 0, corrupt, "{}: row {}: it lacks the largest logit", name(), r);
    }
  });
  file_.check_sum();
}

std::vector<int64_t> TeacherCache::find(const TrainingBatch& batch) const {
  std::vector<int64_t> rows;
  for (const TrainingBatch::Span& s : batch.spans) {
    const Key k = key_of(batch, s);
    if (k.targets == 0) continue;
    const auto at = std::ranges::lower_bound(sequences_, k.key, {}, &Sequence::key);
    HONE_CHECK(at != sequences_.end() && at->key == k.key && at->rows == k.targets,
               invalid_argument,
               "{}: it lacks a sequence of {} tokens; was it made of the same data, with the same "
               "packing and seed?",
               name(), s.end - s.begin);
    for (int64_t i = 0; i < k.targets; ++i) rows.push_back(at->first + i);
  }
  return rows;
}

void TeacherCache::read(int64_t row, TopLogits& out) const {
  const auto* at = reinterpret_cast<const std::byte*>(file_.bytes().data()) + FramedFile::kFront +
                   row * row_bytes(k_, id_bytes_);
  out.rest = read_at<float>(at);
  const std::byte* below = at + 4;
  const std::byte* ids = below + 2 * k_;
  out.ids.resize(static_cast<size_t>(k_));
  out.below.resize(static_cast<size_t>(k_));
  for (size_t i = 0; i < out.ids.size(); ++i, below += 2, ids += id_bytes_) {
    out.below[i] = to_f32(f16{read_at<uint16_t>(below)});
    out.ids[i] = id_bytes_ == 2 ? read_at<uint16_t>(ids) : read_at<int32_t>(ids);
  }
}

void TeacherCacheOptions::check() const {
  HONE_CHECK(k >= 1, invalid_argument, "k {}: expected 1 or more", k);
  HONE_CHECK(temperature >= 0.01 && temperature <= 100, invalid_argument,
             "temperature {}: expected 0.01 to 100", temperature);
}

// The file as it is written.
class TeacherCacheWriter {
 public:
  TeacherCacheWriter(const fs::path& path, int64_t id_bytes)
      : file_(path, kKind, static_cast<uint32_t>(id_bytes)) {}

  void put(const void* data, size_t size) { file_.put(data, size); }

  void sequence(const Key& k) {
    sequences_.push_back({k.key, rows_, k.targets});
    rows_ += k.targets;
  }

  void finish(Json description) {
    std::ranges::sort(sequences_, {}, &TeacherCache::Sequence::key);
    file_.pad();
    file_.put(sequences_.data(), sequences_.size() * sizeof(TeacherCache::Sequence));
    description["rows"] = rows_;
    description["sequences"] = sequences_.size();
    file_.finish(description);
  }

 private:
  FramedWriter file_;
  int64_t rows_ = 0;
  std::vector<TeacherCache::Sequence> sequences_;
};

void take_largest(const float* logits, int64_t vocabulary, int64_t k, double temperature,
                  TopLogits& out) {
  const auto n = static_cast<size_t>(vocabulary), kept = static_cast<size_t>(k);
  static thread_local std::vector<int32_t> order;
  order.resize(n);
  std::iota(order.begin(), order.end(), 0);
  const float largest = *std::max_element(logits, logits + n);
  HONE_CHECK(std::isfinite(largest) &&
                 std::none_of(logits, logits + n, [](float x) { return std::isnan(x); }),
             invalid_argument, "the teacher's logits are not numbers; the largest is {}", largest);
  auto larger = [logits](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  if (kept < n) std::nth_element(order.begin(), order.begin() + k, order.end(), larger);
  double rest = 0;
  // In order of ids, so that the sum does not depend on how the elements were found.
  std::sort(order.begin() + k, order.end());
  for (size_t i = kept; i < n; ++i)
    rest += std::exp((double{logits[order[i]]} - double{largest}) / temperature);
  out.rest = static_cast<float>(rest);
  out.ids.assign(order.begin(), order.begin() + k);
  std::sort(out.ids.begin(), out.ids.end());
  out.below.resize(kept);
  for (size_t i = 0; i < kept; ++i) out.below[i] = largest - logits[out.ids[i]];
}

Tensor target_states(Model& model, const TrainingBatch& batch, Activations activations) {
  TapePause pause;
  TrainingPause no_training;
  ModelBatch in = model_batch(model, batch);
  in.batch.activations = activations;
  return ops::gather_rows(model.forward(in.batch), in.rows);
}

namespace {

// The rows of `part` to the writer.
void write_rows(TeacherCacheWriter& writer, Model& teacher, const TrainingBatch& part, int64_t k,
                const TeacherCacheOptions& o) {
  TapePause pause;
  const Tensor hidden = target_states(teacher, part, o.activations);
  const int64_t vocabulary = teacher.vocabulary(), rows = hidden.dim(0);
  const int64_t step = std::max<int64_t>(96, kLogitBytes / 4 / vocabulary / 96 * 96);
  const int64_t id_bytes = id_bytes_of(vocabulary), size = row_bytes(k, id_bytes);
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t count = std::min(step, rows - first);
    const Tensor logits = teacher.logits(hidden.rows(first, first + count), o.activations);
    std::vector<std::byte> bytes(static_cast<size_t>(count * size));
    parallel_for(count, 1, [&](int64_t b, int64_t e) {
      TopLogits top;
      for (int64_t r = b; r < e; ++r) {
        take_largest(logits.data<float>() + r * vocabulary, vocabulary, k, o.temperature, top);
        pack_row(top, id_bytes, bytes.data() + r * size);
      }
    });
    writer.put(bytes.data(), bytes.size());
  }
}

}  // namespace

void write_teacher_cache(const fs::path& path, Model& teacher,
                         const std::function<TrainingBatch(int64_t)>& batch, int64_t count,
                         const TeacherCacheOptions& o, const Json& teacher_name,
                         const std::function<void(int64_t)>& progress) {
  o.check();
  const int64_t vocabulary = teacher.vocabulary(), k = std::min(o.k, vocabulary);
  TeacherCacheWriter writer(path, id_bytes_of(vocabulary));
  std::unordered_set<uint64_t> known;
  for (int64_t i = 0; i < count; ++i) {
    const TrainingBatch all = batch(i);
    TrainingBatch part;
    for (const TrainingBatch::Span& s : all.spans) {
      const Key key = key_of(all, s);
      if (key.targets == 0 || !known.insert(key.key).second) continue;
      writer.sequence(key);
      const auto begin = std::ssize(part.tokens);
      part.tokens.insert(part.tokens.end(), all.tokens.begin() + s.begin,
                         all.tokens.begin() + s.end);
      part.targets.insert(part.targets.end(), all.targets.begin() + s.begin,
                          all.targets.begin() + s.end);
      part.spans.push_back({begin, std::ssize(part.tokens)});
    }
    if (!part.spans.empty()) write_rows(writer, teacher, part, k, o);
    if (progress) progress(i + 1);
  }
  writer.finish({{"vocabulary", vocabulary},
                 {"k", k},
                 {"temperature", o.temperature},
                 {"teacher", teacher_name}});
}

}  // namespace hone
