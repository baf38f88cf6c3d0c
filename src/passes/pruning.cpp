#include "passes/pruning.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/threads.h"
#include "ops/dense.h"
#include "passes/calibration_walk.h"
#include "passes/gptq_solver.h"

namespace hone {
namespace {

/// Longer groups are no pattern that anything runs faster.
constexpr int64_t kLongestPattern = 128;

// False where the text is no n:m.
bool parse_pattern(const std::string& text, PruneOptions::NofM& p) {
  const char *end = text.data() + text.size(), *colon = std::find(text.data(), end, ':');
  if (colon == end) return false;
  auto left = std::from_chars(text.data(), colon, p.kept);
  auto right = std::from_chars(colon + 1, end, p.of);
  return left.ec == std::errc() && left.ptr == colon && right.ec == std::errc() &&
         right.ptr == end && p.kept >= 1 && p.of > p.kept && p.of <= kLongestPattern;
}

}  // namespace

void PruneOptions::visit(OptionVisitor& v) {
  v.option("sparsity", sparsity, "share of weights that become zero");
  v.option("pattern", pattern, "n:m keeps n of m neighbours, as 2:4");
}

void PruneOptions::check(const char* pass) const {
  HONE_CHECK(sparsity >= 0 && sparsity < 1, invalid_argument,
             "{}: sparsity {}: expected 0 or more and less than 1", pass, sparsity);
  NofM p;
  if (pattern.empty()) return;
  HONE_CHECK(parse_pattern(pattern, p), invalid_argument,
             "{}: pattern '{}': expected n:m with 1 <= n < m <= {}, such as 2:4", pass, pattern,
             kLongestPattern);
  double share = 1 - static_cast<double>(p.kept) / static_cast<double>(p.of);
  HONE_CHECK(sparsity == PruneOptions().sparsity || std::fabs(sparsity - share) < 1e-9,
             invalid_argument,
             "{}: sparsity {} and pattern {}, which makes {} of it zero; give one", pass, sparsity,
             pattern, share);
}

PruneOptions::NofM PruneOptions::n_of_m() const {
  NofM p;
  if (!pattern.empty()) HONE_ASSERT(parse_pattern(pattern, p));
  return p;
}

void smallest(std::span<const float> scores, int64_t count, std::vector<int32_t>& out) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  auto less = [&](int32_t a, int32_t b) {
    return scores[a] != scores[b] ? scores[a] < scores[b] : a < b;
  };
  if (count < std::ssize(order))
    std::nth_element(order.begin(), order.begin() + count, order.end(), less);
  out.insert(out.end(), order.begin(), order.begin() + count);
}

void prune_rows(Tensor& values, const Tensor& scores, const PruneOptions& o) {
  const int64_t n = values.dim(0), k = values.dim(1);
  const PruneOptions::NofM p = o.n_of_m();
  const int64_t group = p.of > 0 ? p.of : k;
  const int64_t zeros =
      p.of > 0 ? p.of - p.kept : static_cast<int64_t>(static_cast<double>(k) * o.sparsity);
  float* w = values.mutable_data<float>();
  const float* s = scores.data<float>();
  parallel_for(n, 16, [&](int64_t r0, int64_t r1) {
    std::vector<int32_t> gone;
    for (int64_t at = r0 * k; at < r1 * k; at += group) {
      gone.clear();
      smallest({s + at, static_cast<size_t>(group)}, zeros, gone);
      for (int32_t i : gone) w[at + i] = 0;
    }
  });
}

Tensor magnitudes(const Tensor& values) {
  Tensor scores = values.clone();
  float* s = scores.mutable_data<float>();
  for (int64_t i = 0; i < scores.numel(); ++i) s[i] = std::fabs(s[i]);
  return scores;
}

Tensor wanda_scores(const Tensor& values, const Tensor& hessian) {
  const int64_t n = values.dim(0), k = values.dim(1);
  std::vector<float> norm(static_cast<size_t>(k));
  for (int64_t i = 0; i < k; ++i) norm[i] = std::sqrt(hessian.data<float>()[i * k + i]);
  Tensor scores = Tensor::empty({n, k}, DType::f32);
  float* s = scores.mutable_data<float>();
  const float* w = values.data<float>();
  parallel_for(n, 16, [&](int64_t r0, int64_t r1) {
    for (int64_t r = r0; r < r1; ++r)
      for (int64_t i = 0; i < k; ++i) s[r * k + i] = std::fabs(w[r * k + i]) * norm[i];
  });
  return scores;
}

WeightForm PruningPass::form_of(const LoadedModel& model, const std::string& module,
                                int64_t k) const {
  const PruneOptions::NofM p = o_.n_of_m();
  HONE_CHECK(p.of == 0 || k % p.of == 0, unsupported,
             "{}: its {} columns are no multiple of {} (pattern {})", module, k, p.of, o_.pattern);
  const Model& m = *model.model;
  std::string now = "f32";
  if (module == m.embedding.name()) now = m.embedding.weight().encoding;
  for (Linear* l : model.model->linears())
    if (l->name() == module) now = l->weight().encoding;
  return {now == "f16" || now == "bf16" ? now : "f32", {}};
}

namespace {

// Of a stage's linears, or one that all share.
using StageHessians = std::vector<Tensor>;

class BlockPruning {
 public:
  BlockPruning(PassContext& c, const Pass& pass, const char* kept, const PruneOptions& o,
               const std::function<void(Tensor&, const Tensor&)>& solve)
      : c_(c), pass_(pass), kept_(kept), o_(o), solve_(solve) {}

  void run(CalibrationWalk& walk) {
    Block& block = c_.model.model->blocks[walk.block()];
    const std::vector<Linear*> selected = c_.selected(walk.block(), false);
    const auto stages = block.stages();
    std::vector<StageHessians> hessians(stages.size());
    walk.visit_stages([&](int stage) {
      if (touches(stages[stage], selected))
        hessians[stage] = hessians_of(walk, stages[stage], block.shares_input(stage));
    });
    for (int stage = 0; stage < Block::kStages; ++stage)
      for (size_t i = 0; i < stages[stage].size(); ++i)
        if (std::ranges::find(selected, stages[stage][i]) != selected.end())
          prune(*stages[stage][i], hessians[stage][std::min(i, hessians[stage].size() - 1)]);
    if (!walk.in_last_block()) walk.finish_block();
  }

 private:
  static bool touches(const std::vector<Linear*>& stage, const std::vector<Linear*>& selected) {
    return std::ranges::any_of(
        stage, [&](Linear* l) { return std::ranges::find(selected, l) != selected.end(); });
  }

  static StageHessians hessians_of(CalibrationWalk& walk, const std::vector<Linear*>& stage,
                                   bool shared) {
    StageHessians all;
    for (size_t i = 0; i < (shared ? 1 : stage.size()); ++i) {
      const int64_t k = stage[i]->in_features();
      Tensor h = Tensor::zeros({k, k}, DType::f32);
      walk.visit_inputs(i, [&](const Tensor& x) { ops::accumulate_gram(x, h); });
      all.push_back(h);
    }
    return all;
  }

  void prune(Linear& l, const Tensor& hessian) {
    const Tensor values = decode_weight(l.weight());
    Tensor pruned = values.clone();
    const double output = hessian_norm(values, hessian);
    // Of an expert that no token of the calibration reached nothing is known but its values.
    const bool unseen = output == 0;
    if (unseen)
      prune_rows(pruned, magnitudes(values), o_);
    else
      solve_(pruned, hessian);
    WeightForm form = pass_.form_of(c_.model, l.name(), values.dim(1));
    Weight w = encode_module(l.name(), pruned, form);
    Tensor difference = decode_weight(w);
    float* d = difference.mutable_data<float>();
    for (int64_t i = 0; i < difference.numel(); ++i) d[i] -= values.data<float>()[i];
    const double error = c_.records && !unseen ? hessian_norm(difference, hessian) / output : 0;
    replace_weight(c_, l, std::move(w), values, unseen ? "magnitude" : kept_);
    if (!c_.records || unseen) return;
    c_.records->back().error = error;
    c_.records->back().from_inputs = true;
  }

  PassContext& c_;
  const Pass& pass_;
  const char* kept_;
  const PruneOptions& o_;
  const std::function<void(Tensor&, const Tensor&)>& solve_;
};

}  // namespace

void prune_blocks(PassContext& c, const Pass& pass, const char* kept, const PruneOptions& o,
                  const std::function<void(Tensor&, const Tensor&)>& solve) {
  each_calibrated_block(
      c, [&](CalibrationWalk& walk) { BlockPruning(c, pass, kept, o, solve).run(walk); });
}

}  // namespace hone
