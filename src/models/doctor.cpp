#include "models/doctor.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>

#include "base/checked.h"
#include "encodings/encoding.h"
#include "models/export_weights.h"

namespace hone {
namespace {

constexpr int64_t kPanelRows = 64;  // decoded at a time
/// Groups whose means say something about all zero points together.
constexpr size_t kLeastGroups = 64;

bool is_matrix(const Weight& w) { return w.shape.size() == 2; }

// Rows [r, r+n) of w, as f32, for panels of all rows.
void each_panel(const Weight& w,
                const std::function<void(int64_t row, int64_t n, const float*)>& f) {
  if (w.numel() == 0) return;
  const int64_t panel = std::min(kPanelRows, w.rows());
  std::vector<float> values(static_cast<size_t>(checked_mul(panel, w.cols(), "a panel")));
  for (int64_t r = 0; r < w.rows(); r += panel) {
    const int64_t n = std::min(panel, w.rows() - r);
    encoding(w.encoding).decode(w, r, r + n, values.data());
    f(r, n, values.data());
  }
}

int64_t not_finite(const float* x, int64_t n) {
  return std::count_if(x, x + n, [](float v) { return !std::isfinite(v); });
}

int64_t not_finite(const Tensor& t) {
  const Tensor values = t.to(DType::f32);
  return not_finite(values.data<float>(), values.numel());
}

// Of a matrix that can be decoded.
struct MatrixFacts {
  int64_t not_finite = 0, dead_rows = 0, dead_columns = 0;
};

MatrixFacts facts_of_matrix(const Weight& w) {
  MatrixFacts f;
  const int64_t k = w.cols();
  std::vector<uint8_t> alive(static_cast<size_t>(k));
  each_panel(w, [&](int64_t, int64_t n, const float* x) {
    f.not_finite += not_finite(x, n * k);
    for (int64_t r = 0; r < n; ++r, x += k) {
      bool any = false;
      for (int64_t i = 0; i < k; ++i) {
        const bool lives = x[i] != 0;
        alive[static_cast<size_t>(i)] |= lives;
        any |= lives;
      }
      f.dead_rows += !any;
    }
  });
  f.dead_columns = std::count(alive.begin(), alive.end(), uint8_t{0});
  return f;
}

// Groups of a scaled weight whose scale is zero, that is, whose values all are.
int64_t dead_groups(const Weight& w) {
  if (w.encoding != "int_group" || !w.planes.contains("scales")) return 0;
  const Tensor scales = w.plane("scales").to(DType::f32);
  return std::count(scales.data<float>(), scales.data<float>() + scales.numel(), 0.0f);
}

// Whether cleared() would find something: scales inside blocks of bytes are out of its reach.
bool has_bad_floats(const Weight& w) {
  return std::ranges::any_of(w.planes, [](const auto& plane) {
    return is_float(plane.second.dtype()) && not_finite(plane.second) > 0;
  });
}

class Examination {
 public:
  explicit Examination(const std::filesystem::path& path) : checkpoint_(open_checkpoint(path)) {}

  std::vector<Finding> run(const std::function<void(int64_t, int64_t)>& progress) {
    const std::vector<std::string> names = checkpoint_->names();
    for (size_t i = 0; i < names.size(); ++i) {
      tensor(names[i]);
      if (progress) progress(static_cast<int64_t>(i) + 1, static_cast<int64_t>(names.size()));
    }
    whole();
    std::ranges::stable_sort(findings_, {}, [](const Finding& f) { return f.level; });
    return std::move(findings_);
  }

 private:
  void tensor(const std::string& name) {
    auto add = [&](Finding::Level level, const char* check, std::string text, bool mendable) {
      findings_.push_back({level, check, name, std::move(text), mendable});
    };
    const auto fault = Finding::Level::fault, remark = Finding::Level::remark;
    try {
      const Weight w = checkpoint_->weight(name);
      if (is_matrix(w)) {
        encoding(w.encoding).validate(w);
        const MatrixFacts f = facts_of_matrix(w);
        if (f.not_finite > 0)
          add(fault, "finite",
              fmt::format("{} of {} values are NaN or infinite", f.not_finite, w.numel()),
              has_bad_floats(w));
        if (f.dead_rows > 0)
          add(remark, "dead", fmt::format("{} of {} rows are all zero", f.dead_rows, w.rows()),
              false);
        if (f.dead_columns > 0)
          add(remark, "dead",
              fmt::format("{} of {} columns are all zero", f.dead_columns, w.cols()), false);
        if (const int64_t dead = dead_groups(w); dead > 0)
          add(remark, "dead", fmt::format("{} groups have the scale 0", dead), false);
        if (const int shift = zero_point_shift(w); shift != 0)
          add(fault, "zero points",
              fmt::format("all are one too {}, as by a wrong version tag",
                          shift > 0 ? "small" : "large"),
              true);
      } else {
        for (const auto& [plane, t] : w.planes)
          if (is_float(t.dtype()))
            if (const int64_t bad = not_finite(t); bad > 0)
              add(fault, "finite",
                  fmt::format("{} of {} values are NaN or infinite", bad, t.numel()),
                  w.shape.size() == 3);
      }
    } catch (const Error& e) {
      add(fault, "reads", e.what(), false);
    }
    checkpoint_->release(name);
  }

  void whole() {
    auto add = [&](Finding::Level level, const char* check, std::string text, bool mendable) {
      findings_.push_back({level, check, "", std::move(text), mendable});
    };
    try {
      LoadOptions only_read;
      only_read.inference = false;
      const LoadedModel m = load_model(checkpoint_->path, only_read);
      if (head_repeats_embedding(m))
        add(Finding::Level::remark, "tied",
            fmt::format("the head repeats the embedding: {} bytes stored twice",
                        m.model->head.weight().byte_size()),
            true);
      if (m.config.tied_head)
        for (const char* head : {"lm_head.weight", "output.weight"})
          if (checkpoint_->has(head))
            add(Finding::Level::remark, "tied",
                fmt::format("{} is stored although the head is the embedding: {} bytes", head,
                            checkpoint_->weight(head).byte_size()),
                true);
      if (m.tokenizer == nullptr)
        add(Finding::Level::remark, "tokenizer", "there is none: it can only be fed token ids",
            false);
      else if (const int64_t ids = m.tokenizer->vocab_size(); ids > m.model->vocabulary())
        add(Finding::Level::fault, "tokenizer",
            fmt::format("it knows {} tokens, the embedding {}", ids, m.model->vocabulary()), false);
      for (int32_t id : m.end_ids)
        if (id >= m.model->vocabulary())
          add(Finding::Level::fault, "tokenizer",
              fmt::format("the end token {} is beyond the vocabulary of {}", id,
                          m.model->vocabulary()),
              false);
    } catch (const Error& e) {
      add(Finding::Level::fault, "loads", e.what(), false);
    }
  }

  static bool head_repeats_embedding(const LoadedModel& m);

  std::shared_ptr<const Checkpoint> checkpoint_;
  std::vector<Finding> findings_;
};

bool same_weight(const Weight& a, const Weight& b) {
  return a.shape == b.shape && a.encoding == b.encoding && a.planes.size() == b.planes.size() &&
         std::ranges::all_of(a.planes, [&](const auto& plane) {
           return b.planes.contains(plane.first) &&
                  plane.second.dtype() == b.plane(plane.first).dtype() &&
                  same_bytes(plane.second, b.plane(plane.first));
         });
}

bool Examination::head_repeats_embedding(const LoadedModel& m) {
  return !m.model->tied_head && m.model->head.bias().empty_handle() &&
         same_weight(m.model->head.weight(), m.model->embedding.weight());
}

// Float planes with 0 for what is no finite number; how many there were.
int64_t cleared(Weight& w) {
  int64_t count = 0;
  for (auto& [name, plane] : w.planes) {
    if (!is_float(plane.dtype())) continue;
    const int64_t bad = not_finite(plane);
    if (bad == 0) continue;
    Tensor values = plane.to(DType::f32);
    float* x = values.mutable_data<float>();
    for (int64_t i = 0; i < values.numel(); ++i)
      if (!std::isfinite(x[i])) x[i] = 0;
    plane = values.to(plane.dtype());
    count += bad;
  }
  return count;
}

void shift_zero_points(Weight& w, int shift) {
  Tensor zeros = w.plane("zeros").clone();
  auto* z = zeros.mutable_data<uint8_t>();
  const int mask = (1 << w.params.bits) - 1;
  for (int64_t i = 0; i < zeros.numel(); ++i) z[i] = static_cast<uint8_t>((z[i] + shift) & mask);
  w.planes["zeros"] = zeros;
}

}  // namespace

std::vector<Finding> examine(const std::filesystem::path& path,
                             const std::function<void(int64_t done, int64_t total)>& progress) {
  return Examination(path).run(progress);
}

int zero_point_shift(const Weight& w) {
  if (w.encoding != "int_group" || !w.planes.contains("zeros")) return 0;
  const int64_t k = w.cols(), groups = w.plane("scales").dim(1);
  const int64_t group = w.params.group > 0 ? w.params.group : k;
  const int32_t* index = w.planes.contains("g_idx") ? w.plane("g_idx").data<int32_t>() : nullptr;
  const Tensor scales = w.plane("scales").to(DType::f32);
  std::vector<int64_t> size(static_cast<size_t>(groups));
  for (int64_t i = 0; i < k; ++i) ++size[static_cast<size_t>(index ? index[i] : i / group)];
  // Weights lie about zero, so that the mean of a group is a small part of a step from it: of good
  // zero points the median of all groups' means is near 0, of shifted ones near ±1. Zero points
  // that wrapped around are outliers that a median does not see.
  std::vector<float> means;
  std::vector<double> sums(static_cast<size_t>(groups));
  each_panel(w, [&](int64_t row, int64_t n, const float* x) {
    for (int64_t r = 0; r < n; ++r, x += k) {
      std::ranges::fill(sums, 0.0);
      for (int64_t i = 0; i < k; ++i)
        sums[static_cast<size_t>(index ? index[i] : i / group)] += x[i];
      for (int64_t g = 0; g < groups; ++g) {
        const float scale = scales.data<float>()[(row + r) * groups + g];
        const double mean = sums[g] / static_cast<double>(size[g]) / scale;
        if (size[g] > 0 && scale > 0 && std::isfinite(mean)) means.push_back(float(mean));
      }
    }
  });
  if (means.size() < kLeastGroups) return 0;
  auto quantile = [&](double q) {
    auto at = means.begin() + static_cast<int64_t>(q * static_cast<double>(means.size() - 1));
    std::ranges::nth_element(means, at);
    return *at;
  };
  const float low = quantile(0.25), median = quantile(0.5), high = quantile(0.75);
  const double error = (high - low) / std::sqrt(static_cast<double>(means.size()));
  const float size_of = std::fabs(median);
  if (size_of < 0.6f || size_of > 1.4f || size_of < 4 * error) return 0;
  // w = (code − zero)·scale: a mean above zero says that the zero points are too small.
  return median > 0 ? 1 : -1;
}

std::vector<Finding> mend(LoadedModel& m) {
  std::vector<Finding> done;
  auto add = [&](Finding::Level level, const char* check, const std::string& module,
                 std::string text) {
    done.push_back({level, check, module, std::move(text), true});
  };
  auto mended = [&](const std::string& module, const Weight& before) -> std::optional<Weight> {
    Weight w = before;
    const int64_t bad = cleared(w);
    if (bad > 0)
      add(Finding::Level::fault, "finite", module, fmt::format("{} numbers became 0", bad));
    const int shift = zero_point_shift(w);
    if (shift != 0) {
      shift_zero_points(w, shift);
      add(Finding::Level::fault, "zero points", module,
          fmt::format("each {} one", shift > 0 ? "plus" : "minus"));
    }
    if (bad == 0 && shift == 0) return std::nullopt;
    return w;
  };
  Model& model = *m.model;
  if (!model.position_table.empty_handle())
    if (auto w = mended(model.position_name, float_weight(model.position_table)))
      model.position_table = w->plane("values");
  if (auto w = mended(model.embedding.name(), model.embedding.weight())) {
    model.embedding.set_weight(*w);
    if (model.tied_head) model.head.set_weight(std::move(*w));
  }
  std::vector<Linear*> linears = model.linears();
  std::ranges::copy(model.side_linears(), std::back_inserter(linears));
  for (Linear* l : linears) {
    if (l == &model.head && model.tied_head) continue;
    if (auto w = mended(l->name(), l->weight())) l->set_weight(std::move(*w));
  }
  if (!model.tied_head && model.head.bias().empty_handle() &&
      same_weight(model.head.weight(), model.embedding.weight())) {
    model.tied_head = true;
    add(Finding::Level::remark, "tied", model.head.name(), "it is the embedding again");
  }
  return done;
}

}  // namespace hone
