// linearise: softmax attention becomes a sliding window and a sum of learned features behind it
// (Zhang et al. 2024, "LoLCATs"; nn/linearised_attention.h), so that what a sequence keeps does not
// grow with its length.
//
// Attention transfer, block after block: the maps W of queries and keys and each head's window
// factor are fitted so that the new layer gives what softmax attention gives on the calibration
// text (mean square error of the heads' results, AdamW, one step a sample). Every layer sees the
// inputs that it has in the original model, as in the paper. Nothing of n² elements is kept; in
// memory are the samples' states at one block and the tape of one layer and sample. A finished
// block is stored, so that an interrupted run goes on behind it.
//
// W begins as the identity (further features as random directions), and the factor where a key
// behind the window weighs as much as one in it when a head attends to all alike.
// What the transfer leaves is for LoRA or distillation (`hone tune`).
#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/log.h"
#include "base/random.h"
#include "nn/linearised_attention.h"
#include "ops/tape.h"
#include "passes/calibration_walk.h"
#include "passes/pass.h"
#include "train/gradients.h"
#include "train/optimizer.h"
#include "train/schedule.h"

namespace hone {
namespace {

constexpr int64_t kErrorSamples = 8;  // on which the error is told

// Why a layer cannot be linearised; empty where it can.
std::string refusal(const Mixer& mixer) {
  const auto* a = dynamic_cast<const SoftmaxAttention*>(&mixer);
  if (a == nullptr) return "it has no softmax attention";
  if (dynamic_cast<const LinearisedAttention*>(a) != nullptr) return "it is linearised already";
  if (!(a->spec.pattern == Pattern::causal())) return "it does not attend to all keys before";
  if (a->spec.softcap != 0 || !a->spec.alibi.slopes.empty()) return "its scores have other terms";
  return a->prefix != nullptr ? "it has a prefix" : "";
}

// "all", or "0, 3, 5-9".
std::vector<std::pair<int64_t, int64_t>> parse_layers(const std::string& text) {
  std::vector<std::pair<int64_t, int64_t>> ranges;
  const char *at = text.data(), *end = at + text.size();
  auto spaces = [&] {
    while (at < end && *at == ' ') ++at;
  };
  auto number = [&] {
    int64_t n = 0;
    spaces();
    const auto [next, error] = std::from_chars(at, end, n);
    HONE_CHECK(error == std::errc() && n >= 0 && n < ModelConfig::kMaxLayers, invalid_argument,
               "linearise: layers '{}': expected all, or numbers and ranges such as 0, 3, 5-9",
               text);
    at = next;
    spaces();
    return n;
  };
  for (;;) {
    const int64_t first = number();
    int64_t last = first;
    if (at < end && *at == '-') {
      ++at;
      last = number();
    }
    HONE_CHECK(last >= first, invalid_argument, "linearise: layers '{}': {} is behind {}", text,
               first, last);
    ranges.emplace_back(first, last);
    if (at == end) return ranges;
    HONE_CHECK(*at == ',', invalid_argument,
               "linearise: layers '{}': expected all, or numbers and ranges such as 0, 3, 5-9",
               text);
    ++at;
  }
}

// A sample as the layer's heads see it, and what softmax attention makes of it.
struct Lesson {
  Tensor q, k, v, taught;
  double energy = 0;  // Σ taught²
};

Lesson lesson_of(SoftmaxAttention& a, const Tensor& x) {
  Linear* const linears[] = {&a.q, &a.k, &a.v};
  std::vector<Tensor> y = forward_all(linears, LinearInput(x), Activations::f32);
  Batch batch;
  batch.append(std::vector<int32_t>(static_cast<size_t>(x.dim(0))), nullptr);
  a.normalise(y[0], y[1]);
  a.rotate(y[0], y[1], batch);
  Lesson l{y[0], y[1], y[2], {}, 0};
  l.taught = attention(a.spec, l.q, l.k, l.v, {{0, x.dim(0), 0, x.dim(0)}});
  for (int64_t i = 0; i < l.taught.numel(); ++i)
    l.energy += double{l.taught.data<float>()[i]} * l.taught.data<float>()[i];
  return l;
}

Tensor answer(const LinearisedAttention& a, const Lesson& l) {
  const HybridAttentionSpec spec = a.hybrid_spec();
  std::vector<HybridSpan> spans{{0, l.q.dim(0), {}}};
  for (const Shape& s : spec.state_shapes()) spans[0].state.push_back(Tensor::zeros(s, DType::f32));
  return hybrid_attention(
      spec, {l.q, l.k, l.v, a.q_map.values, a.k_map.values, a.window_factor.values}, spans);
}

class Linearise final : public Pass {
 public:
  PassKind kind() const override { return PassKind::convert; }
  bool needs_calibration() const override { return epochs_ > 0; }
  void visit_options(OptionVisitor& v) override {
    v.option("window", window_, "keys that stay exact, the query's own among them");
    v.option("features", features_, "of a head's map, in each sign; 0: the size of a head");
    v.option("layers", layers_, "all with full softmax attention, or numbers: 0, 3, 5-9");
    v.option("epochs", epochs_, "of attention transfer over the calibration; 0: none");
    v.option("lr", lr_, "learning rate of the transfer");
  }
  void check_options() const override {
    HONE_CHECK(window_ >= 1 && window_ <= 1 << 16, invalid_argument,
               "linearise: window {}: expected 1 to 65536", window_);
    HONE_CHECK(features_ >= 0 && features_ <= 4096, invalid_argument,
               "linearise: features {}: expected 0 to 4096", features_);
    HONE_CHECK(epochs_ >= 0 && epochs_ <= 10000, invalid_argument,
               "linearise: epochs {}: expected 0 to 10000", epochs_);
    HONE_CHECK(lr_ > 0 && lr_ < 10, invalid_argument, "linearise: lr {}: expected above 0", lr_);
    if (layers_ != "all") parse_layers(layers_);
  }
  void check_model(const Model& m) const override { chosen(m); }
  void check_layout(const std::string& layout) const override {
    HONE_CHECK(layout != "gguf", unsupported,
               "linearise: gguf files have no place for linearised attention; write a directory");
  }
  WeightForm form(int64_t) const override { return {"f32", {}}; }

  void run(PassContext& c) override {
    Model& m = *c.model.model;
    const std::vector<bool> selected = chosen(m);
    std::optional<CalibrationWalk> walk;
    if (needs_calibration()) walk.emplace(m, *c.calibration);
    const auto blocks = static_cast<int64_t>(m.blocks.size());
    int64_t features = 0;
    for (int64_t i = 0; i < blocks; ++i) {
      std::string note;
      std::unique_ptr<LinearisedAttention> made;
      if (selected[i]) {
        auto& a = dynamic_cast<SoftmaxAttention&>(*m.blocks[i].mixer);
        made = converted(a, *c.model.family, i, mix64(mix64(c.seed) + static_cast<uint64_t>(i)));
        features = made->features;
        if (walk && !restored(c, i, *made)) {
          note = transfer(*walk, a, *made);
          log_info("layer {}: {}", i, note);
          if (c.store_unit) c.store_unit(i, tensors_of(*made));
        }
      }
      if (walk && !walk->in_last_block()) walk->finish_block();
      if (made) m.blocks[i].mixer = std::move(made);
      // As form() says.
      for (const auto& stage : m.blocks[i].stages())
        for (Linear* l : stage) l->set_weight(float_weight(decode_weight(l->weight())));
      if (c.progress) c.progress(i + 1, blocks, note);
    }
    describe(c.model.config, selected, features);
  }

 private:
  std::vector<bool> chosen(const Model& m) const {
    const auto blocks = static_cast<int64_t>(m.blocks.size());
    std::vector<bool> out(static_cast<size_t>(blocks));
    if (layers_ == "all") {
      for (int64_t i = 0; i < blocks; ++i) out[i] = refusal(*m.blocks[i].mixer).empty();
      HONE_CHECK(std::ranges::find(out, true) != out.end(), unsupported,
                 "linearise: {} has no layer to linearise: of the first, {}", m.family,
                 refusal(*m.blocks[0].mixer));
    } else {
      for (auto [first, last] : parse_layers(layers_))
        for (int64_t i = first; i <= last; ++i) {
          HONE_CHECK(i < blocks, invalid_argument, "linearise: layer {}: the model has {}", i,
                     blocks);
          const std::string why = refusal(*m.blocks[i].mixer);
          HONE_CHECK(why.empty(), unsupported, "linearise: layer {}: {}", i, why);
          out[i] = true;
        }
    }
    for (const Block& b : m.blocks)
      if (const auto* l = dynamic_cast<const LinearisedAttention*>(b.mixer.get()))
        HONE_CHECK(l->window == window_ && l->features == features_of(l->spec), unsupported,
                   "linearise: layers that are linearised already have a window of {} and {} "
                   "features, and all must have the same",
                   l->window, l->features);
    return out;
  }

  int64_t features_of(const AttentionSpec& s) const { return features_ > 0 ? features_ : s.k_dim; }

  std::unique_ptr<LinearisedAttention> converted(const SoftmaxAttention& a, const Family& family,
                                                 int64_t block, uint64_t seed) const {
    auto made = std::make_unique<LinearisedAttention>();
    static_cast<SoftmaxAttention&>(*made) = a;
    made->window = window_;
    made->features = features_of(a.spec);
    const int64_t d = a.spec.k_dim, f = made->features, heads = a.spec.heads;
    made->q_map.values = Tensor::zeros({heads, d, f}, DType::f32);
    made->k_map.values = Tensor::zeros({heads, d, f}, DType::f32);
    const float scale = 1 / std::sqrt(static_cast<float>(d));
    for (Tensor* w : {&made->q_map.values, &made->k_map.values}) {
      float* x = w->mutable_data<float>();
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t j = 0; j < f; ++j) {
          // Fewer features than channels: some of these, spread over the head.
          if (j < d) x[(h * d + (f < d ? j * d / f : j)) * f + j] = 1;
          for (int64_t i = 0; i < d && j >= d; ++i)
            x[(h * d + i) * f + j] =
                scale * static_cast<float>(random_normal(seed, uint64_t((h * d + i) * f + j)));
        }
    }
    // Even features: φ(q)·φ(k) = 2/f, which is the σ of −log(f/2 − 1).
    const float even = f > 2 ? -std::log(static_cast<float>(f) / 2 - 1) : 0.0f;
    made->window_factor.values = Tensor::from(std::vector<float>(size_t(heads), even));
    for (const MixerParameter& p : made->parameters())
      p.vector->path = slot_name(mixer_slot(family, p.name).hf, block);
    return made;
  }

  static std::vector<NamedTensor> tensors_of(LinearisedAttention& a) {
    std::vector<NamedTensor> all;
    for (const MixerParameter& p : a.parameters()) all.push_back({p.name, p.vector->values});
    return all;
  }

  // What an interrupted run had finished.
  static bool restored(PassContext& c, int64_t block, LinearisedAttention& made) {
    if (!c.stored_unit) return false;
    const std::vector<NamedTensor> stored = c.stored_unit(block);
    for (const MixerParameter& p : made.parameters())
      for (const NamedTensor& t : stored)
        if (t.name == p.name && t.value.shape() == p.shape) p.vector->values = t.value.clone();
    return !stored.empty();
  }

  /// Each sample of the walk's place, as the layer's heads see it.
  static void each_lesson(CalibrationWalk& walk, SoftmaxAttention& a, int64_t samples,
                          const std::function<void(const Lesson&)>& f) {
    const int64_t length = walk.sample_tokens();
    walk.visit_inputs(0, [&](const Tensor& x) {
      for (int64_t at = 0; at < x.dim(0) && samples-- > 0; at += length)
        f(lesson_of(a, x.rows(at, at + length)));
    });
  }

  // ‖answer − taught‖²/‖taught‖².
  static double error(CalibrationWalk& walk, SoftmaxAttention& a, const LinearisedAttention& made) {
    double miss = 0, energy = 0;
    each_lesson(walk, a, kErrorSamples, [&](const Lesson& l) {
      miss += relative_error(l.taught, answer(made, l)) * l.energy;
      energy += l.energy;
    });
    return energy > 0 ? miss / energy : 0;
  }

  std::string transfer(CalibrationWalk& walk, SoftmaxAttention& a,
                       LinearisedAttention& made) const {
    const double before = error(walk, a, made);
    std::vector<Parameter> parameters;
    for (const MixerParameter& p : made.parameters()) p.vector->values.require_gradient();
    for (NamedTensor& t : tensors_of(made)) parameters.push_back({t.name, t.value, false});
    OptimizerOptions options;
    options.lr = lr_;
    options.weight_decay = 0;
    const std::unique_ptr<Optimizer> optimizer = make_optimizer(options);
    ScheduleOptions falling;
    falling.schedule = "cosine";
    const Schedule schedule(falling, epochs_ * walk.samples());
    int64_t step = 0;
    for (int64_t epoch = 0; epoch < epochs_; ++epoch)
      each_lesson(walk, a, INT64_MAX, [&](const Lesson& l) {
        clear_gradients(parameters);
        Tape tape;
        const Tensor y = answer(made, l);
        Tensor dy = Tensor::empty(y.shape(), DType::f32);
        const float *p = y.data<float>(), *q = l.taught.data<float>();
        const auto scale = static_cast<float>(l.energy > 0 ? 2 / l.energy : 0);
        for (int64_t i = 0; i < y.numel(); ++i) dy.mutable_data<float>()[i] = scale * (p[i] - q[i]);
        tape.backward(y, dy);
        optimizer->step(parameters, lr_ * schedule.factor(step), 1, step + 1);
        ++step;
      });
    clear_gradients(parameters);
    for (const MixerParameter& p : made.parameters())
      p.vector->values = p.vector->values.detached();
    return fmt::format("error of the heads' results {:.3f}, {:.3f} after transfer", before,
                       error(walk, a, made));
  }

  void describe(ModelConfig& c, const std::vector<bool>& selected, int64_t features) const {
    c.linear_window = window_;
    c.linear_features = features;
    c.linearised.resize(selected.size());
    for (size_t i = 0; i < selected.size(); ++i)
      if (selected[i]) c.linearised[i] = true;
  }

  int64_t window_ = 64, features_ = 0, epochs_ = 2;
  double lr_ = 0.01;
  std::string layers_ = "all";
};

}  // namespace

std::unique_ptr<Pass> make_linearise_pass() { return std::make_unique<Linearise>(); }

}  // namespace hone
