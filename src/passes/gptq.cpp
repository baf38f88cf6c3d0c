// gptq: quantises block after block with error feedback, in bounded memory.
//
// The calibration sequences run through the model one stage of one block at a time. What is held:
// the states in front of one stage, one block's weights in kernel layout, and the Hessians of one
// block. With true_sequential each stage (q,k,v; o; gate,up; down) sees the inputs that the
// quantised earlier stages give; always, the next block sees the outputs of the quantised block.
//
// Resume: finished blocks are quantised already; the states in front of the first unfinished block
// are recomputed from them, which gives the same bits as the run that was interrupted.
#include "encodings/int_grid.h"
#include "ops/dense.h"
#include "passes/calibration_walk.h"
#include "passes/gptq_solver.h"
#include "passes/pass.h"

namespace hone {
namespace {

class Gptq final : public Pass {
 public:
  PassKind kind() const override { return PassKind::encode; }
  bool needs_calibration() const override { return true; }
  bool blocks_only() const override { return true; }
  void visit_options(OptionVisitor& v) override {
    v.option("bits", o_.bits, "2 to 8");
    v.option("group", o_.group, "columns that share a scale (0 = the whole row)");
    v.option("symmetric", o_.symmetric, "no zero points");
    v.option("act_order", o_.act_order, "columns with the largest inputs first (desc_act)");
    v.option("static_groups", o_.static_groups, "scales from the weights before any feedback");
    v.option("mse", o_.mse, "search each scale for the smallest error");
    v.option("damp", o_.damp, "share of the mean diagonal added to the diagonal");
    v.option("damp_step", o_.damp_step, "added to damp until the Hessian is positive definite");
    v.option("true_sequential", o_.true_sequential, "each stage sees the quantised earlier ones");
    v.option("keep_better", o_.keep_better, "keep round-to-nearest where it errs less");
  }
  void check_options() const override {
    HONE_CHECK(o_.bits >= 2 && o_.bits <= 8, invalid_argument, "gptq: bits {}: expected 2 to 8",
               o_.bits);
    HONE_CHECK(o_.group >= 0, invalid_argument, "gptq: group {}: expected 0 or more", o_.group);
    HONE_CHECK(o_.damp >= 0 && o_.damp <= 1 && o_.damp_step > 0 && o_.damp_step <= 1,
               invalid_argument, "gptq: damp {} and damp_step {}: expected 0 to 1", o_.damp,
               o_.damp_step);
  }
  WeightForm form(int64_t k) const override {
    WeightForm f = nearest_form(k);
    f.params.act_order = o_.act_order && !o_.static_groups && o_.group != 0 && o_.group < k;
    f.params.scale_type = o_.scale_type;
    return f;
  }
  void run(PassContext& c) override;

 private:
  // Of what keep_better compares with: the same grid, columns in their own order.
  WeightForm nearest_form(int64_t k) const {
    return integer_form(o_.bits, o_.group, o_.symmetric, k);
  }
  // Of a stage's linears, or one that all share.
  using Hessians = std::vector<Tensor>;
  void quantize_block(PassContext& c, CalibrationWalk& walk);
  void quantize_stage(PassContext& c, const std::vector<Linear*>& stage, const Hessians& hessians);

  GptqOptions o_;
};

void Gptq::quantize_stage(PassContext& c, const std::vector<Linear*>& stage,
                          const Hessians& hessians) {
  GptqFactor factor;
  for (size_t i = 0; i < stage.size(); ++i) {
    Linear* l = stage[i];
    const Tensor& hessian = hessians[std::min(i, hessians.size() - 1)];
    if (i < hessians.size()) factor = gptq_factor(hessian, o_);
    Tensor values = decode_weight(l->weight());
    Weight solved = gptq_solve(values, factor, o_);
    Weight nearest = encode_module(l->name(), values, nearest_form(values.dim(1)));
    auto error = [&](const Weight& w) {
      Tensor e = decode_weight(w);
      float* x = e.mutable_data<float>();
      for (int64_t i = 0; i < e.numel(); ++i) x[i] = values.data<float>()[i] - x[i];
      return hessian_norm(e, hessian);
    };
    double output = std::max(hessian_norm(values, hessian), 1e-30);
    double own = error(solved) / output, other = error(nearest) / output;
    // Of an expert that no token of the calibration reached nothing is known but its values.
    const bool unseen = hessian_norm(values, hessian) == 0;
    bool use_nearest = unseen || (o_.keep_better && other < own);
    replace_weight(c, *l, use_nearest ? nearest : solved, values, use_nearest ? "rtn" : "gptq");
    if (c.records) {
      LayerRecord& r = c.records->back();
      r.error = use_nearest ? other : own;
      r.rtn_error = other;
      r.from_inputs = true;
    }
  }
}

void Gptq::quantize_block(PassContext& c, CalibrationWalk& walk) {
  std::vector<Linear*> selected = c.selected(walk.block(), false);
  Block& block = c.model.model->blocks[walk.block()];
  const auto whole = block.stages();
  auto stages = whole;
  for (auto& stage : stages)
    std::erase_if(stage, [&](Linear* l) {
      return std::find(selected.begin(), selected.end(), l) == selected.end();
    });
  auto hessians_here = [&] {
    Hessians all;
    const auto& here = stages[walk.stage()];
    for (size_t i = 0; i < (block.shares_input(walk.stage()) ? 1 : here.size()); ++i) {
      int64_t k = here[i]->in_features();
      Tensor h = Tensor::zeros({k, k}, DType::f32);
      const auto& unselected = whole[walk.stage()];
      auto at = std::ranges::find(unselected, here[i]) - unselected.begin();
      walk.visit_inputs(static_cast<size_t>(at),
                        [&](const Tensor& x) { ops::accumulate_gram(x, h); });
      all.push_back(h);
    }
    return all;
  };
  if (o_.true_sequential) {
    for (int stage = 0; stage < Block::kStages; ++stage) {
      if (!stages[stage].empty()) quantize_stage(c, stages[stage], hessians_here());
      bool seen = stage + 1 < Block::kStages || !walk.in_last_block();
      if (seen) walk.advance();
    }
    return;
  }
  std::vector<Hessians> hessians(stages.size());
  walk.visit_stages([&](int stage) {
    if (!stages[stage].empty()) hessians[stage] = hessians_here();
  });
  for (int stage = 0; stage < Block::kStages; ++stage)
    if (!stages[stage].empty()) quantize_stage(c, stages[stage], hessians[stage]);
  if (!walk.in_last_block()) walk.finish_block();
}

void Gptq::run(PassContext& c) {
  each_calibrated_block(c, [&](CalibrationWalk& walk) { quantize_block(c, walk); });
}

}  // namespace

std::unique_ptr<Pass> make_gptq_pass() { return std::make_unique<Gptq>(); }

}  // namespace hone
