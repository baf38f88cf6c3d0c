// awq: scales channels by what the calibration shows in them, clips, and rounds to nearest (Lin et
// al. 2023, "AWQ"). The searches are awq_scales.h's; what folds is folding.h's.
//
// Block after block in bounded memory: the untouched block shows what each of its Linears reads;
// scales are found and folded into the norm or the Linear before, the weights clipped (not q and k,
// whose product the authors keep) and rounded; the next block sees what the quantised one gives.
// What does not fold keeps scale 1. Norms and biases change too, but never what is not selected: a
// scale is searched only where all that reads it, and the Linear that gives it, are.
#include "passes/awq_scales.h"
#include "passes/calibration_walk.h"
#include "passes/folding.h"

namespace hone {
namespace {

class Awq final : public Pass {
 public:
  PassKind kind() const override { return PassKind::encode; }
  bool needs_calibration() const override { return true; }
  bool blocks_only() const override { return true; }
  bool folds_scales() const override { return true; }
  void visit_options(OptionVisitor& v) override {
    v.option("bits", o_.bits, "2 to 8");
    v.option("group", o_.group, "columns that share a scale (0 = the whole row)");
    v.option("symmetric", o_.symmetric, "no zero points");
    v.option("scale", o_.scale, "search scales of channels");
    v.option("clip", o_.clip, "search how far to clip each group");
    v.option("duo", o_.duo, "scales look at the weights too");
    v.option("steps", o_.steps, "of the searches");
  }
  void check_options() const override {
    HONE_CHECK(o_.bits >= 2 && o_.bits <= 8, invalid_argument, "awq: bits {}: expected 2 to 8",
               o_.bits);
    HONE_CHECK(o_.group >= 0, invalid_argument, "awq: group {}: expected 0 or more", o_.group);
    HONE_CHECK(o_.steps >= 1 && o_.steps <= 1000, invalid_argument,
               "awq: steps {}: expected 1 to 1000", o_.steps);
  }
  WeightForm form(int64_t k) const override {
    return integer_form(o_.bits, o_.group, o_.symmetric, k);
  }
  void run(PassContext& c) override;

 private:
  // A selected Linear of the block at hand.
  struct Module {
    Linear* linear;
    const InputStatistics* inputs;
    std::vector<float> columns, rows;  // what its input and its output are divided by
    bool clip = true;
  };
  using Statistics = std::vector<std::vector<InputStatistics>>;  // of the inputs of each stage
  static Statistics gather(CalibrationWalk& walk, Block& block,
                           const std::vector<Linear*>& selected);
  std::vector<Module> modules_of(Block& block, const std::vector<Linear*>& selected,
                                 const Statistics& all) const;
  void fold_scales(Block& block, std::vector<Module>& modules, const Statistics& all) const;
  void quantize_block(PassContext& c, CalibrationWalk& walk);

  AwqOptions o_;
};

bool is_among(const std::vector<Linear*>& some, const Linear* l) {
  return std::ranges::find(some, l) != some.end();
}

Awq::Statistics Awq::gather(CalibrationWalk& walk, Block& block,
                            const std::vector<Linear*>& selected) {
  const auto stages = block.stages();
  Statistics all(stages.size());
  walk.visit_stages([&](int stage) {
    const auto& here = stages[stage];
    const bool shared = block.shares_input(stage);
    all[stage].resize(shared && !here.empty() ? 1 : here.size());
    for (size_t i = 0; i < all[stage].size(); ++i) {
      const bool wanted =
          shared ? std::ranges::any_of(here, [&](Linear* l) { return is_among(selected, l); })
                 : is_among(selected, here[i]);
      if (wanted) walk.visit_inputs(i, [&](const Tensor& x) { all[stage][i].add(x); });
    }
  });
  return all;
}

std::vector<Awq::Module> Awq::modules_of(Block& block, const std::vector<Linear*>& selected,
                                         const Statistics& all) const {
  std::vector<Module> out;
  const auto stages = block.stages();
  auto* attention = dynamic_cast<SoftmaxAttention*>(block.mixer.get());
  for (size_t stage = 0; stage < stages.size(); ++stage)
    for (size_t i = 0; i < stages[stage].size(); ++i) {
      Linear* l = stages[stage][i];
      if (!is_among(selected, l)) continue;
      Module m{l, &all[stage][std::min(i, all[stage].size() - 1)], {}, {}, o_.clip};
      m.columns.assign(static_cast<size_t>(l->in_features()), 1.0f);
      m.rows.assign(static_cast<size_t>(l->out_features()), 1.0f);
      if (attention != nullptr && (l == &attention->q || l == &attention->k)) m.clip = false;
      out.push_back(std::move(m));
    }
  return out;
}

void Awq::fold_scales(Block& block, std::vector<Module>& modules, const Statistics& all) const {
  auto module_of = [&](const Linear* l) {
    auto it = std::ranges::find_if(modules, [&](const Module& m) { return m.linear == l; });
    return it == modules.end() ? nullptr : &*it;
  };
  for (const Coupling& coupling : couplings_of(block)) {
    std::vector<Module*> readers;
    for (Linear* l : coupling.readers) readers.push_back(module_of(l));
    Module* previous = coupling.previous ? module_of(coupling.previous) : nullptr;
    const bool whole = std::ranges::find(readers, nullptr) == readers.end();
    if (!whole || (coupling.previous != nullptr && previous == nullptr)) continue;
    std::vector<AwqLayer> layers;
    for (Module* m : readers) layers.push_back({decode_weight(m->linear->weight()), m->rows});
    const auto stage = static_cast<size_t>(coupling.stage);
    const std::vector<float> s = awq_search(layers, all[stage][coupling.place], o_);
    for (Module* m : readers) m->columns = s;
    if (previous != nullptr) {
      previous->rows = s;
      divide_bias(*previous->linear, s);
    } else {
      divide_norm(*coupling.norm, s);
    }
  }
}

void Awq::quantize_block(PassContext& c, CalibrationWalk& walk) {
  const std::vector<Linear*> selected = c.selected(walk.block(), false);
  Block& block = c.model.model->blocks[walk.block()];
  if (!selected.empty()) {
    const Statistics all = gather(walk, block, selected);
    std::vector<Module> modules = modules_of(block, selected, all);
    if (o_.scale) fold_scales(block, modules, all);
    for (Module& m : modules) {
      const AwqLayer layer{decode_weight(m.linear->weight()), m.rows};
      AwqResult r = awq_store(m.linear->name(), layer, m.columns, *m.inputs, m.clip, o_);
      const bool nearest = r.error == r.rtn_error;
      replace_weight(c, *m.linear, std::move(r.weight), layer.values, nearest ? "rtn" : "awq");
      if (c.records == nullptr) continue;
      LayerRecord& record = c.records->back();
      record.error = r.error;
      record.rtn_error = r.rtn_error;
      record.from_inputs = true;
    }
    // The states in front of the block were made with its old norm.
    walk.enter_again();
  }
  if (!walk.in_last_block()) walk.finish_block();
}

void Awq::run(PassContext& c) {
  each_calibrated_block(c, [&](CalibrationWalk& walk) { quantize_block(c, walk); });
}

}  // namespace

std::unique_ptr<Pass> make_awq_pass() { return std::make_unique<Awq>(); }

}  // namespace hone
