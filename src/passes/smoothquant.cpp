// smoothquant: moves outliers of activations into weights before both become int8 (Xiao et al.
// 2023, "SmoothQuant"). Channel j of what a norm gives is divided by
// s_j = max|x_j|^α / max|W_j|^(1−α), the columns behind it multiplied by that; weights are then
// rounded to int8 by rows, activations where they meet them (--activations int8).
//
// Scales fold into norms only, in front of q, k, v and of gate, up, as published (folding.h). With
// keep_better a norm keeps its scale 1 where, on the calibration inputs and with int8 activations,
// smoothing makes the output of one of its readers worse: hone's activations have a scale for each
// few columns of a row, so outliers cost less here than with one scale for a row.
#include <array>
#include <cmath>
#include <map>

#include "base/threads.h"
#include "passes/calibration_walk.h"
#include "passes/folding.h"
#include "passes/pass.h"

namespace hone {
namespace {

class SmoothQuant final : public Pass {
 public:
  PassKind kind() const override { return PassKind::encode; }
  bool needs_calibration() const override { return true; }
  bool blocks_only() const override { return true; }
  bool folds_scales() const override { return true; }
  void visit_options(OptionVisitor& v) override {
    v.option("alpha", alpha_, "share of outliers that moves into weights, 0 to 1");
    v.option("keep_better", keep_better_, "keep round-to-nearest where it errs less");
  }
  void check_options() const override {
    HONE_CHECK(alpha_ >= 0 && alpha_ <= 1, invalid_argument,
               "smoothquant: alpha {}: expected 0 to 1", alpha_);
  }
  WeightForm form(int64_t) const override { return {"int8_row", {}}; }
  void run(PassContext& c) override;

 private:
  // A selected Linear of the block at hand.
  struct Module {
    Linear* linear;
    int stage;
    size_t place;                // of its input in the stage
    Tensor values;               // [N, K] f32
    std::vector<float> largest;  // max|x| [K]
    std::vector<float> scales;   // [K]; empty where none fold
    Weight nearest, smoothed;
    double output = 0, nearest_error = 0, smoothed_error = 0;
  };
  static void visit(CalibrationWalk& walk, std::vector<Module>& modules,
                    const std::function<void(Module&, const Tensor& x)>& f);
  std::vector<float> scales_of(const std::vector<Module*>& readers) const;
  void smooth_block(Block& block, CalibrationWalk& walk, std::vector<Module>& modules) const;
  void quantize_block(PassContext& c, CalibrationWalk& walk);

  double alpha_ = 0.5;
  bool keep_better_ = true;
};

// Every module's inputs from the untouched block.
void SmoothQuant::visit(CalibrationWalk& walk, std::vector<Module>& modules,
                        const std::function<void(Module&, const Tensor& x)>& f) {
  walk.visit_stages([&](int stage) {
    for (Module& m : modules)
      if (m.stage == stage) walk.visit_inputs(m.place, [&](const Tensor& x) { f(m, x); });
  });
}

void raise_largest(const Tensor& x, std::vector<float>& largest) {
  const int64_t rows = x.dim(0), k = x.dim(1);
  const float* v = x.data<float>();
  largest.resize(static_cast<size_t>(k));
  parallel_for(k, 64, [&](int64_t c0, int64_t c1) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = c0; c < c1; ++c) largest[c] = std::max(largest[c], std::fabs(v[r * k + c]));
  });
}

std::vector<float> SmoothQuant::scales_of(const std::vector<Module*>& readers) const {
  const std::vector<float>& inputs = readers[0]->largest;
  std::vector<float> weights(inputs.size());
  for (const Module* m : readers) raise_largest(m->values, weights);
  std::vector<float> s(inputs.size(), 1.0f);
  const auto alpha = static_cast<float>(alpha_);
  for (size_t i = 0; i < s.size(); ++i)  // a channel that is silent on either side keeps 1
    if (inputs[i] > 0 && weights[i] > 0)
      s[i] = std::max(std::pow(inputs[i], alpha) / std::pow(weights[i], 1 - alpha), 1e-5f);
  return s;
}

Tensor divided_columns(const Tensor& x, std::span<const float> s) {
  Tensor y = x.clone();
  float* v = y.mutable_data<float>();
  const int64_t k = x.dim(1);
  for (int64_t i = 0; i < x.numel(); ++i) v[i] /= s[i % k];
  return y;
}

double squared_distance(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    const double d = double{a.data<float>()[i]} - b.data<float>()[i];
    sum += d * d;
  }
  return sum;
}

// Rounds all modules, smoothed where they may be, and folds what stays smoothed.
void SmoothQuant::smooth_block(Block& block, CalibrationWalk& walk,
                               std::vector<Module>& modules) const {
  visit(walk, modules, [](Module& m, const Tensor& x) { raise_largest(x, m.largest); });
  auto module_of = [&](const Linear* l) {
    auto it = std::ranges::find_if(modules, [&](const Module& m) { return m.linear == l; });
    return it == modules.end() ? nullptr : &*it;
  };
  std::vector<std::pair<Norm*, std::vector<Module*>>> smoothed;
  for (const Coupling& coupling : couplings_of(block)) {
    if (coupling.norm == nullptr) continue;
    std::vector<Module*> readers;
    for (Linear* l : coupling.readers) readers.push_back(module_of(l));
    if (std::ranges::find(readers, nullptr) != readers.end()) continue;
    const std::vector<float> s = scales_of(readers);
    for (Module* m : readers) m->scales = s;
    smoothed.emplace_back(coupling.norm, std::move(readers));
  }
  std::map<Module*, std::array<PackedWeight, 3>> packed;
  for (Module& m : modules) {
    const WeightForm f = form(m.values.dim(1));
    m.nearest = encode_module(m.linear->name(), m.values, f);
    packed[&m][0] = pack_weight(float_weight(m.values));
    packed[&m][1] = pack_weight(m.nearest);
    if (m.scales.empty()) continue;
    const std::vector<float> rows(static_cast<size_t>(m.values.dim(0)), 1.0f);
    m.smoothed = encode_module(m.linear->name(), scaled_weight(m.values, m.scales, rows), f);
    packed[&m][2] = pack_weight(m.smoothed);
  }
  visit(walk, modules, [&](Module& m, const Tensor& x) {
    if (x.dim(0) == 0) return;
    const auto& [exact, nearest, other] = packed.at(&m);
    const Tensor y = multiply(LinearInput(x), exact, {}, Activations::f32);
    for (float v : std::span(y.data<float>(), static_cast<size_t>(y.numel())))
      m.output += double{v} * v;
    auto error = [&](const Tensor& in, const PackedWeight& w) {
      return squared_distance(y, multiply(LinearInput(in), w, {}, Activations::int8));
    };
    m.nearest_error += error(x, nearest);
    if (!m.scales.empty()) m.smoothed_error += error(divided_columns(x, m.scales), other);
  });
  for (auto& [norm, readers] : smoothed) {
    const bool worse = std::ranges::any_of(
        readers, [](const Module* m) { return !(m->smoothed_error < m->nearest_error); });
    if (keep_better_ && worse)
      for (Module* m : readers) m->scales.clear();
    else
      divide_norm(*norm, readers[0]->scales);
  }
}

void SmoothQuant::quantize_block(PassContext& c, CalibrationWalk& walk) {
  const std::vector<Linear*> selected = c.selected(walk.block(), false);
  Block& block = c.model.model->blocks[walk.block()];
  std::vector<Module> modules;
  const auto stages = block.stages();
  for (int stage = 0; stage < Block::kStages; ++stage)
    for (size_t i = 0; i < stages[stage].size(); ++i)
      if (Linear* l = stages[stage][i]; std::ranges::find(selected, l) != selected.end())
        modules.push_back({l, stage, i, decode_weight(l->weight()), {}, {}, {}, {}});
  if (!modules.empty()) smooth_block(block, walk, modules);
  for (Module& m : modules) {
    const bool smoothed = !m.scales.empty();
    replace_weight(c, *m.linear, smoothed ? m.smoothed : m.nearest, m.values,
                   smoothed ? "smoothquant" : "rtn");
    if (c.records == nullptr) continue;
    LayerRecord& r = c.records->back();
    r.rtn_error = m.nearest_error / std::max(m.output, 1e-30);
    r.error = smoothed ? m.smoothed_error / std::max(m.output, 1e-30) : r.rtn_error;
    r.from_inputs = true;
  }
  if (!modules.empty()) walk.enter_again();  // with the norm that changed
  if (!walk.in_last_block()) walk.finish_block();
}

void SmoothQuant::run(PassContext& c) {
  each_calibrated_block(c, [&](CalibrationWalk& walk) { quantize_block(c, walk); });
}

}  // namespace

std::unique_ptr<Pass> make_smoothquant_pass() { return std::make_unique<SmoothQuant>(); }

}  // namespace hone
