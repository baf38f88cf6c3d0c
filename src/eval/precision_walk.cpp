#include "eval/precision_walk.h"

#include <fmt/ranges.h>

#include <cmath>
#include <limits>
#include <memory>

#include "encodings/encoding.h"
#include "ops/dense.h"

namespace hone {
namespace {

constexpr size_t kNone = SIZE_MAX;

// Cast copies that take the place of a model's parts while they run.
class StandIn {
 public:
  template <typename T>
  void add(T& own, T copy) {
    auto kept = std::make_shared<T>(std::move(copy));
    swaps_.push_back([&own, kept] { std::swap(own, *kept); });
  }
  void swap() const {
    for (const auto& s : swaps_) s();
  }

 private:
  std::vector<std::function<void()>> swaps_;
};

// In place for as long as this lives.
class InPlace {
 public:
  explicit InPlace(const StandIn& s) : stand_in_(s) { stand_in_.swap(); }
  ~InPlace() { stand_in_.swap(); }
  InPlace(const InPlace&) = delete;
  InPlace& operator=(const InPlace&) = delete;

 private:
  const StandIn& stand_in_;
};

double sum_of(const std::vector<double>& v) {
  double sum = 0;
  for (double x : v) sum += x;
  return sum;
}

struct Sums {
  double difference = 0, norm = 0;
  void add(const Sums& o) {
    difference += o.difference;
    norm += o.norm;
  }
};

Sums compare(const Tensor& a, const Tensor& b) {
  const float *x = a.data<float>(), *y = b.data<float>();
  return sum_parts(a.numel(), [&](int64_t begin, int64_t end) {
    Sums s;
    for (int64_t i = begin; i < end; ++i) {
      double d = double{x[i]} - y[i];
      s.difference += d * d;
      s.norm += double{x[i]} * x[i];
    }
    return s;
  });
}

// Σ of squares of each column.
void add_squares(const Tensor& x, std::vector<double>& columns) {
  const int64_t k = x.dim(1);
  columns.resize(static_cast<size_t>(k));
  const float* v = x.data<float>();
  parallel_for(k, 64, [&](int64_t b, int64_t e) {
    for (int64_t t = 0; t < x.dim(0); ++t)
      for (int64_t i = b; i < e; ++i)
        columns[static_cast<size_t>(i)] += double{v[t * k + i]} * v[t * k + i];
  });
}

std::string path_of(const std::string& name) { return name.substr(0, name.rfind('.') + 1); }

// "model.layers.0.self_attn.{q_proj,k_proj,v_proj}"
std::string shared_name(const std::vector<Linear*>& linears) {
  const std::string& first = linears[0]->name();
  if (linears.size() == 1) return first;
  std::vector<std::string> leaves;
  for (const Linear* l : linears) {
    if (path_of(l->name()) != path_of(first)) return first;
    leaves.push_back(l->name().substr(path_of(first).size()));
  }
  return fmt::format("{}{{{}}}", path_of(first), fmt::join(leaves, ","));
}

// Σ ΔW² of each column of a linear, and what a stage's inputs and outputs were, to weigh it with.
struct ColumnErrors {
  size_t module = kNone;  // in the record, or none where the module is kept
  std::vector<double> weight;
  double bias = 0;
};

}  // namespace

// One run. Lane 0 is the original, which runs where there is a record; then come the variants.
class PrecisionRun {
 public:
  PrecisionRun(Model& model, const std::vector<std::vector<int32_t>>& samples,
               std::span<const PrecisionVariant> variants, PrecisionRecord* record)
      : model_(model), samples_(samples), record_(record), first_(record ? 0 : 1) {
    lanes_.push_back(nullptr);
    if (record_) {
      record_->tensors.assign(variants.size(), {});
      record_->modules.assign(variants.size(), {});
      for (const PrecisionVariant& v : variants) recorded_.push_back(&v.target);
    }
    for (const PrecisionVariant& v : variants) lanes_.push_back(&v);
    states_.assign(lanes_.size(), std::vector<BlockState>(samples.size()));
  }
  PrecisionRun(const PrecisionRun&) = delete;
  PrecisionRun& operator=(const PrecisionRun&) = delete;
  // Also after an error, what was packed goes.
  ~PrecisionRun() {
    for (Linear* l : model_.linears()) l->unpack();
  }

  // One lane at a time: the ends of a model can be large.
  void embed() {
    for (size_t lane = first_; lane < lanes_.size(); ++lane) {
      StandIn ends;
      if (lane > 0) add_embedding(ends, lane);
      if (lane > 0) add_norm(ends, lane, model_.embedding_norm);
      InPlace in(ends);
      for (size_t i = 0; i < samples_.size(); ++i) {
        at_ = base_ = 0;
        Tensor& x = states_[lane][i].residual;
        x = held(lane, "embedding", model_.embed(batch_of(i)));
        if (lane > 0) seen_ = {states_[0][i].residual};
        see(lane, "embedding", true, x);
      }
    }
  }

  void block(int64_t b) {
    Block& block = model_.blocks[static_cast<size_t>(b)];
    std::vector<StandIn> norms(lanes_.size());
    each_variant([&](size_t lane) {
      for (Norm* n : norms_of(block)) add_norm(norms[lane], lane, *n);
    });
    for (size_t lane = first_; lane < lanes_.size(); ++lane) {
      InPlace in(norms[lane]);
      for (BlockState& s : states_[lane]) block.enter(s);
    }
    auto stages = block.stages();
    for (int s = 0; s < Block::kStages; ++s) stage(b, s, stages[static_cast<size_t>(s)], norms);
  }

  std::vector<Tensor> hidden(size_t lane) const {
    std::vector<Tensor> out;
    for (const BlockState& s : states_[lane]) out.push_back(s.residual);
    return out;
  }

  std::vector<Predictions> predict(const std::vector<Tensor>& original) {
    std::vector<Predictions> out;
    std::vector<ColumnErrors> errors(lanes_.size());
    Weighing weighing;
    base_ = record_ ? record_->sites.size() : 0;
    // One variant at a time, beside the original's logits made again: heads are large.
    for (size_t lane = 1; lane < lanes_.size(); ++lane) {
      StandIn ends;
      add_norm(ends, lane, model_.final_norm);
      errors[lane] = add_linear(ends, lane, model_.head);
      std::vector<TokenScore> scores;
      for (size_t i = 0; i < samples_.size(); ++i) {
        const std::vector<int32_t>& tokens = samples_[i];
        auto count = std::ssize(tokens) - 1;
        for (int64_t begin = 0; begin < count; begin += kLogitRows) {
          int64_t end = std::min(count, begin + kLogitRows);
          Tensor reference = logits(0, original[i].rows(begin, end), weighing);
          InPlace in(ends);
          Tensor own = logits(lane, states_[lane][i].residual.rows(begin, end), weighing);
          size_t at = scores.size();
          scores.resize(at + static_cast<size_t>(end - begin));
          score_rows(own, &reference, tokens.data() + begin + 1, scores.data() + at);
        }
      }
      out.push_back(judge(scores));
      counted_ = true;
    }
    weigh(errors, 0, weighing);
    finish_sites();
    return out;
  }

 private:
  static constexpr const char* kPositions = "positions";

  // What a stage's linears met, of the original: Σx² of each input column, Σy² of each output.
  struct Weighing {
    std::vector<double> inputs;
    std::vector<double> outputs;
    int64_t rows = 0;
  };

  static std::vector<Norm*> norms_of(Block& b) { return b.norms(); }

  void each_variant(const std::function<void(size_t lane)>& f) const {
    for (size_t lane = 1; lane < lanes_.size(); ++lane) f(lane);
  }
  bool kept(size_t lane, const std::string& module) const {
    return lanes_[lane]->keep.contains(module);
  }
  bool casts_vectors(size_t lane, const std::string& module) const {
    return lanes_[lane]->target.vectors && !kept(lane, module);
  }
  Batch batch_of(size_t sample) const {
    Batch batch;
    batch.append(samples_[sample], nullptr);
    return batch;
  }

  Tensor cast_tensor(size_t lane, const std::string& name, const std::string& module,
                     const Tensor& values, std::vector<double>* columns) {
    Tensor out = Tensor::empty(values.shape(), DType::f32);
    CastCounts counts = round_rows(lanes_[lane]->target, values, &out, columns);
    if (record_) {
      HONE_CHECK(counts.non_finite == 0, unsupported,
                 "{}: {} values are infinite or not a number before any cast", name,
                 counts.non_finite);
      record_->tensors[lane - 1].push_back({name, module, counts});
      overflow_ += counts.overflow;
    }
    return out;
  }

  // Of a module that multiplies nothing; of others weigh() sets the error.
  size_t note_module(size_t lane, const std::string& name, const Tensor& values, double error) {
    if (!record_) return kNone;
    double norm = compare(values, values).norm;
    int64_t lost = lanes_[lane]->target.saturates ? 0 : overflow_;
    overflow_ = 0;
    record_->modules[lane - 1].push_back({name, values.numel(), lost, norm > 0 ? error / norm : 0});
    return record_->modules[lane - 1].size() - 1;
  }

  void add_embedding(StandIn& to, size_t lane) {
    Embedding& e = model_.embedding;
    if (!kept(lane, e.name())) {
      std::vector<double> columns;
      Tensor values = decode_weight(e.weight());
      Embedding copy = e;
      copy.set_weight(
          float_weight(cast_tensor(lane, e.name() + ".weight", e.name(), values, &columns)));
      note_module(lane, e.name(), values, sum_of(columns));
      to.add(e, std::move(copy));
    }
    Tensor& p = model_.position_table;
    if (p.empty_handle() || !casts_vectors(lane, kPositions)) return;
    std::vector<double> columns;
    Tensor cast = cast_tensor(lane, kPositions, kPositions, p, &columns);
    note_module(lane, kPositions, p, sum_of(columns));
    to.add(p, std::move(cast));
  }

  void add_norm(StandIn& to, size_t lane, Norm& own) {
    if (!own.defined() || !casts_vectors(lane, own.name)) return;
    Norm copy = own;
    std::vector<double> columns;
    copy.weight = cast_tensor(lane, own.name + ".weight", own.name, own.weight, &columns);
    if (!own.bias.empty_handle())
      copy.bias = cast_tensor(lane, own.name + ".bias", own.name, own.bias, nullptr);
    note_module(lane, own.name, own.weight, sum_of(columns));
    to.add(own, std::move(copy));
  }

  ColumnErrors add_linear(StandIn& to, size_t lane, Linear& own) {
    ColumnErrors e;
    // A tied head is the embedding, under its name.
    bool tied = &own == &model_.head && model_.tied_head;
    const std::string& module = tied ? model_.embedding.name() : own.name();
    if (kept(lane, module)) return e;
    Linear copy = own;
    Tensor values = decode_weight(own.weight());
    if (tied) {
      copy.set_weight(float_weight(rounded(lanes_[lane]->target, values)));
      to.add(own, std::move(copy));
      return e;
    }
    copy.set_weight(float_weight(cast_tensor(lane, module + ".weight", module, values, &e.weight)));
    if (!own.bias().empty_handle() && casts_vectors(lane, module)) {
      std::vector<double> columns;
      copy.set_bias(cast_tensor(lane, module + ".bias", module, own.bias(), &columns));
      e.bias = sum_of(columns);
    }
    e.module = note_module(lane, module, values, 0);
    to.add(own, std::move(copy));
    return e;
  }

  Tensor held(size_t lane, const std::string& site, const Tensor& x) const {
    const PrecisionVariant* v = lanes_[lane];
    if (v == nullptr || !v->hold || v->keep_held.contains(site)) return x;
    return rounded(v->target, x);
  }

  void stage(int64_t b, int s, const std::vector<Linear*>& linears,
             const std::vector<StandIn>& norms) {
    Block& block = model_.blocks[static_cast<size_t>(b)];
    std::vector<StandIn> casts(lanes_.size());
    std::vector<std::vector<ColumnErrors>> errors(linears.size(),
                                                  std::vector<ColumnErrors>(lanes_.size()));
    each_variant([&](size_t lane) {
      for (size_t l = 0; l < linears.size(); ++l)
        errors[l][lane] = add_linear(casts[lane], lane, *linears[l]);
    });
    const std::string input = shared_name(linears) + " input";
    const std::string residual = fmt::format("block {} after {}", b, s == 1 ? "mixer" : "mlp");
    Weighing weighing;
    KvCache none({block.mixer->kv_shape()});
    base_ = record_ ? record_->sites.size() : 0;
    for (size_t i = 0; i < samples_.size(); ++i) {
      Batch batch = batch_of(i);
      for (size_t lane = first_; lane < lanes_.size(); ++lane) {
        InPlace in_norms(norms[lane]), in_casts(casts[lane]);
        BlockState& state = states_[lane][i];
        at_ = base_;
        state.x = held(lane, input, state.x);
        if (record_) see_products(lane, input, linears, state.x, weighing);
        block.advance(state, s, batch, none, 0);
        if (s != 1 && s != 3) continue;
        state.residual = held(lane, residual, state.residual);
        see(lane, residual, true, state.residual);
      }
    }
    for (size_t l = 0; l < linears.size(); ++l) weigh(errors[l], l, weighing);
    for (Linear* l : linears) {
      l->unpack();
      for (const auto& [name, plane] : l->weight().planes) plane.release_pages();
    }
  }

  void see_products(size_t lane, const std::string& input, const std::vector<Linear*>& linears,
                    const Tensor& x, Weighing& weighing) {
    see(lane, input, false, x);
    if (lane == 0) add_input(x, weighing);
    std::vector<Tensor> products = forward_all(linears, LinearInput(x), Activations::f32);
    for (size_t l = 0; l < linears.size(); ++l) {
      see(lane, linears[l]->name() + " output", true, products[l]);
      if (lane == 0) add_output(products[l], l, weighing);
    }
  }

  static void add_input(const Tensor& x, Weighing& w) {
    add_squares(x, w.inputs);
    w.rows += x.dim(0);
  }
  static void add_output(const Tensor& y, size_t l, Weighing& w) {
    if (w.outputs.size() <= l) w.outputs.resize(l + 1);
    w.outputs[l] += compare(y, y).norm;
  }

  void weigh(const std::vector<ColumnErrors>& errors, size_t l, const Weighing& w) {
    if (!record_) return;
    for (size_t lane = 1; lane < lanes_.size(); ++lane) {
      const ColumnErrors& e = errors[lane];
      if (e.module == kNone) continue;
      double error = e.bias * double(w.rows);
      for (size_t i = 0; i < e.weight.size(); ++i) error += e.weight[i] * w.inputs[i];
      record_->modules[lane - 1][e.module].output_error =
          w.outputs[l] > 0 ? error / w.outputs[l] : 0;
    }
  }

  // Final norm and head, as Model::logits, with both ends of the head looked at.
  Tensor logits(size_t lane, const Tensor& hidden, Weighing& weighing) {
    const std::string input = model_.head.name() + " input";
    at_ = base_;
    Tensor x = held(lane, input, model_.head_input(hidden));
    Tensor y = model_.head.forward(LinearInput(x), Activations::f32);
    see(lane, input, false, x);
    see(lane, model_.head.name() + " output", true, y);
    if (record_ && lane == 0 && !counted_) {
      add_input(x, weighing);
      add_output(y, 0, weighing);
    }
    if (model_.logit_softcap <= 0) return y;
    if (record_) y = y.clone();  // what was seen stays as it was
    ops::softcap_in_place(y, model_.logit_softcap);
    return y;
  }

  // Looks at a tensor of a lane; the original's comes before the variants'.
  void see(size_t lane, const std::string& name, bool result, const Tensor& x) {
    if (!record_) return;
    size_t site = at_++;
    if (site == record_->sites.size()) {
      record_->sites.push_back({name, result, 0, std::vector<CastCounts>(recorded_.size()), {}});
      differences_.emplace_back(recorded_.size());
      norms_.push_back(0);
    }
    ActivationSite& s = record_->sites[site];
    if (lane > 0) {
      differences_[site][lane - 1] += compare(seen_[site - base_], x).difference;
      return;
    }
    if (seen_.size() <= site - base_) seen_.resize(site - base_ + 1);
    seen_[site - base_] = x;
    if (counted_) return;
    norms_[site] += compare(x, x).norm;
    for (size_t v = 0; v < recorded_.size(); ++v) {
      if (recorded_[v]->last_bit) continue;
      CastCounts c = round_rows(*recorded_[v], x);
      HONE_CHECK(c.non_finite == 0, unsupported,
                 "{}: the model's own activations are not finite there: no cast can be judged",
                 name);
      s.held[v].add(c);
      s.absmax = std::max(s.absmax, c.absmax);
    }
  }

  void finish_sites() {
    if (!record_) return;
    for (size_t i = 0; i < record_->sites.size(); ++i)
      for (double d : differences_[i])
        record_->sites[i].departure.push_back(!std::isfinite(d)
                                                  ? std::numeric_limits<double>::quiet_NaN()
                                              : d == 0 ? 0
                                                       : std::sqrt(d / norms_[i]));
  }

  static Predictions judge(const std::vector<TokenScore>& scores) {
    Predictions p;
    for (const TokenScore& s : scores) {
      bool finite = std::isfinite(s.nll) && std::isfinite(s.kl);
      p.non_finite += !finite;
      p.flips += !finite || !s.same_top;
    }
    if (p.non_finite == 0) {
      p.scores = summarise(scores, 0, true);
      return p;
    }
    double nan = std::numeric_limits<double>::quiet_NaN();
    p.scores.tokens = std::ssize(scores);
    p.scores.perplexity = p.scores.nll = nan;
    return p;
  }

  Model& model_;
  const std::vector<std::vector<int32_t>>& samples_;
  PrecisionRecord* record_;
  size_t first_;                                // lane that runs
  std::vector<const PrecisionVariant*> lanes_;  // null: the original
  std::vector<const FloatTarget*> recorded_;
  std::vector<std::vector<BlockState>> states_;  // [lanes][samples]
  int64_t overflow_ = 0;                         // of the module that is being cast
  bool counted_ = false;                         // the original is run again, to compare with

  // The sites of one place are seen lane by lane: base_ is the first, at_ the one that comes.
  size_t base_ = 0, at_ = 0;
  std::vector<Tensor> seen_;  // the original's, from base_ on
  std::vector<std::vector<double>> differences_;
  std::vector<double> norms_;
};

std::vector<Predictions> PrecisionWalk::run(std::span<const PrecisionVariant> variants,
                                            PrecisionRecord* record, const Progress& progress) {
  HONE_ASSERT(record || !original_.empty());
  for (const Block& b : model_.blocks)
    for (const Mixer* half : b.mixers())
      HONE_CHECK(half->shares_input() && half->state_shapes().empty(), unsupported,
                 "precision: models with recurrent state or experts are not followed yet");
  PrecisionRun run(model_, samples_, variants, record);
  const auto blocks = std::ssize(model_.blocks);
  auto report = [&](int64_t done) {
    if (progress) progress(done, blocks + 2);
  };
  run.embed();
  report(1);
  for (int64_t b = 0; b < blocks; ++b) {
    run.block(b);
    report(b + 2);
  }
  if (record) original_ = run.hidden(0);
  std::vector<Predictions> out = run.predict(original_);
  report(blocks + 2);
  return out;
}

}  // namespace hone
