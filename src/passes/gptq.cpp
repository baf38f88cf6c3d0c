// gptq: quantises block after block with error feedback, in bounded memory.
//
// The calibration sequences run through the model one block at a time. What is held: the hidden
// states between two blocks, one block's weights in kernel layout, and the Hessians of one block.
// With true_sequential each stage (q,k,v; o; gate,up; down) sees the inputs that the quantised
// earlier stages give; always, the next block sees the outputs of the quantised block.
//
// Resume: finished blocks are quantised already; the states in front of the first unfinished block
// are recomputed from them, which gives the same bits as the run that was interrupted.
#include <cmath>
#include <cstring>

#include "encodings/int_grid.h"
#include "ops/dense.h"
#include "passes/gptq_solver.h"
#include "passes/pass.h"

namespace hone {
namespace {

// Thrown by an observer that has seen the inputs it needs: what the block would still compute for
// these tokens is of no use to anybody.
struct StageReached {};

// Sequences that run through a block together.
constexpr size_t kBatchSequences = 4;

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
    v.option("keep_better", o_.keep_better, "keep round-to-nearest where it has the smaller error");
  }
  void check_options() const override {
    HONE_CHECK(o_.bits >= 2 && o_.bits <= 8, invalid_argument, "gptq: bits {}: expected 2 to 8",
               o_.bits);
    HONE_CHECK(o_.group >= 0, invalid_argument, "gptq: group {}: expected 0 or more", o_.group);
    HONE_CHECK(o_.damp >= 0 && o_.damp <= 1 && o_.damp_step > 0 && o_.damp_step <= 1,
               invalid_argument, "gptq: damp {} and damp_step {}: expected 0 to 1", o_.damp,
               o_.damp_step);
  }
  void run(PassContext& c) override;

 private:
  // Hidden states of all samples in front of a block, [samples][length, D].
  struct States {
    std::vector<Tensor> x;
  };
  void forward_block(PassContext& c, States& states, int64_t block, bool keep_outputs);
  void quantize_stage(PassContext& c, const std::vector<Linear*>& stage, const Tensor& hessian);
  void quantize_block(PassContext& c, States& states, int64_t block);

  GptqOptions o_;
};

// Batches of a few sequences through one block; with keep_outputs the states become its outputs.
void Gptq::forward_block(PassContext& c, States& s, int64_t block, bool keep_outputs) {
  Model& m = *c.model.model;
  KvCache cache({m.blocks[block].mixer->kv_shape()});
  for (size_t first = 0; first < s.x.size(); first += kBatchSequences) {
    size_t last = std::min(s.x.size(), first + kBatchSequences);
    int64_t length = s.x[first].dim(0), d = s.x[first].dim(1);
    std::vector<KvSequence> sequences(last - first);
    Batch batch;
    Tensor x = Tensor::empty({static_cast<int64_t>(last - first) * length, d}, DType::f32);
    for (size_t i = first; i < last; ++i) {
      batch.append(c.calibration->samples[i], &sequences[i - first]);
      cache.reserve(sequences[i - first], length);
      std::memcpy(x.mutable_data<float>() + static_cast<int64_t>(i - first) * length * d,
                  s.x[i].data<float>(), static_cast<size_t>(s.x[i].byte_size()));
    }
    try {
      Tensor y = m.blocks[block].forward(x, batch, cache, 0);
      for (size_t i = first; keep_outputs && i < last; ++i) {
        auto row = static_cast<int64_t>(i - first) * length;
        s.x[i] = y.rows(row, row + length).clone();
      }
    } catch (const StageReached&) {
      HONE_ASSERT(!keep_outputs);
    }
    for (KvSequence& q : sequences) cache.truncate(q, 0);
  }
}

void Gptq::quantize_stage(PassContext& c, const std::vector<Linear*>& stage,
                          const Tensor& hessian) {
  GptqFactor factor = gptq_factor(hessian, o_);
  EncodeOptions rtn;
  rtn.params.bits = static_cast<int>(o_.bits);
  rtn.params.group = o_.group;
  rtn.params.symmetric = o_.symmetric;
  for (Linear* l : stage) {
    Tensor values = decode_weight(l->weight());
    Weight solved = gptq_solve(values, factor, o_);
    Weight nearest = encode_module(l->name(), values, "int_group", rtn);
    auto error = [&](const Weight& w) {
      Tensor e = decode_weight(w);
      float* x = e.mutable_data<float>();
      for (int64_t i = 0; i < e.numel(); ++i) x[i] = values.data<float>()[i] - x[i];
      return hessian_norm(e, hessian);
    };
    double output = std::max(hessian_norm(values, hessian), 1e-30);
    double own = error(solved) / output, other = error(nearest) / output;
    bool use_nearest = o_.keep_better && other < own;
    replace_weight(c, *l, use_nearest ? nearest : solved, values, use_nearest ? "rtn" : "gptq");
    if (c.records) {
      LayerRecord& r = c.records->back();
      r.error = use_nearest ? other : own;
      r.rtn_error = other;
      r.from_inputs = true;
    }
  }
}

void Gptq::quantize_block(PassContext& c, States& states, int64_t block) {
  std::vector<Linear*> wanted = c.selected(block, false);
  auto selected = [&](Linear* l) {
    return std::find(wanted.begin(), wanted.end(), l) != wanted.end();
  };
  std::vector<std::vector<Linear*>> stages;
  for (auto& stage : c.model.model->blocks[block].stages()) {
    std::vector<Linear*> part;
    for (Linear* l : stage)
      if (selected(l)) part.push_back(l);
    if (!part.empty()) stages.push_back(part);
  }
  // One forward for each stage, or one for all.
  size_t at_once = o_.true_sequential ? 1 : stages.size();
  for (size_t first = 0; first < stages.size(); first += at_once) {
    std::vector<Tensor> hessians;
    for (size_t i = first; i < first + at_once; ++i) {
      Linear* l = stages[i][0];
      hessians.push_back(Tensor::zeros({l->in_features(), l->in_features()}, DType::f32));
      bool last = i + 1 == first + at_once;
      l->observer = [h = hessians.back(), last](const Tensor& x) mutable {
        ops::accumulate_gram(x, h);
        if (last) throw StageReached();
      };
    }
    forward_block(c, states, block, false);
    for (size_t i = first; i < first + at_once; ++i) stages[i][0]->observer = nullptr;
    for (size_t i = first; i < first + at_once; ++i)
      quantize_stage(c, stages[i], hessians[i - first]);
  }
}

void Gptq::run(PassContext& c) {
  HONE_ASSERT(c.calibration != nullptr);
  Model& m = *c.model.model;
  auto blocks = static_cast<int64_t>(m.blocks.size());
  States states;
  for (const auto& sample : c.calibration->samples) {
    KvSequence sequence;
    Batch batch;
    batch.append(sample, &sequence);
    states.x.push_back(m.embed(batch));
  }
  for (int64_t b = 0; b < blocks; ++b) {
    if (b >= c.first_unit) {
      quantize_block(c, states, b);
      if (c.unit_done) c.unit_done(b);
    }
    if (b + 1 < blocks) forward_block(c, states, b, true);
    // The block's kernel layouts are of no further use.
    for (auto& stage : m.blocks[b].stages())
      for (Linear* l : stage) l->unpack();
    if (c.progress) c.progress(b + 1, blocks, fmt::format("block {} of {}", b + 1, blocks));
  }
}

}  // namespace

std::unique_ptr<Pass> make_gptq_pass() { return std::make_unique<Gptq>(); }

}  // namespace hone
