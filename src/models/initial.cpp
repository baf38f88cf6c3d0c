#include "models/initial.h"

#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "base/random.h"
#include "formats/checkpoint.h"
#include "models/loader.h"

namespace hone {
namespace {

struct Drawn {
  Shape shape;
  double deviation = 0;
  float constant = 0;  // where the deviation is 0
  uint64_t seed = 0;
};

// Everything that a model of this config has, by name.
class Initial {
 public:
  Initial(const Family& family, const ModelConfig& c, double deviation, uint64_t seed)
      : c_(c), deviation_(deviation), seed_(seed) {
    for (const Slot& s : family.slots) {
      if (s.part > 0) continue;
      for (int64_t layer = 0; layer < (is_layer_role(s.role) ? c.layers : 1); ++layer)
        for (int64_t e = 0; e < (is_expert_role(s.role) ? c.experts : 1); ++e)
          if (has_role(c, s.role, layer)) add(family, s, layer, e);
    }
    if (c.mixer.empty()) return;
    for (int64_t layer = 0; layer < c.layers; ++layer)
      if (c.is_recurrent(layer)) add_mixer(family, layer);
  }

  std::vector<std::string> order;
  std::map<std::string, Drawn> all;

 private:
  // A vector has none.
  int64_t columns(Role r) const {
    if (r == Role::o) return c_.heads * c_.head_dim;
    if (r == Role::down) return c_.ffn;
    if (r == Role::expert_down) return c_.expert_ffn;
    const bool table = r == Role::embedding || r == Role::positions || r == Role::memory;
    return table || is_linear_role(r) ? c_.width : 0;
  }

  void add(const Family& family, const Slot& s, int64_t layer, int64_t expert) {
    const int64_t rows = stored_rows(family, s, c_), cols = columns(s.role);
    const std::string name = slot_name(s.hf, layer, expert);
    const bool norm = cols == 0;
    Drawn weight;
    weight.shape = norm ? Shape{rows} : s.hf_transposed ? Shape{cols, rows} : Shape{rows, cols};
    if (norm) weight.constant = 1 - c_.norm_offset;
    const bool to_residual =
        s.role == Role::o || s.role == Role::down || s.role == Role::expert_down;
    if (!norm) weight.deviation = deviation(to_residual);
    put(name + ".weight", weight);
    const bool bias = norm ? c_.norm_bias : announces_bias(c_, s.role);
    if (bias) put(name + ".bias", {{rows}, 0, 0, 0});
  }

  double deviation(bool to_residual) const {
    return to_residual ? deviation_ / std::sqrt(2.0 * static_cast<double>(c_.layers)) : deviation_;
  }

  void add_mixer(const Family& family, int64_t layer) {
    const std::unique_ptr<Mixer> mixer = make_mixer(c_.mixer, c_.mixer_spec(layer));
    for (const MixerParameter& p : mixer->parameters()) {
      const MixerSlot& s = mixer_slot(family, p.name);
      Drawn drawn{stored_shape(s, p.shape, c_.mixing.heads)};
      if (p.linear != nullptr && !p.bias) drawn.deviation = deviation(p.linear == &mixer->output());
      if (p.norm != nullptr) drawn.constant = 1;
      put(slot_name(s.hf, layer) + (p.norm != nullptr ? ".weight" : ""), drawn);
    }
  }

  void put(const std::string& name, Drawn d) {
    d.seed = mix64(seed_) ^ order.size();
    order.push_back(name);
    all.emplace(name, std::move(d));
  }

  const ModelConfig& c_;
  double deviation_;
  uint64_t seed_;
};

Weight draw(const Drawn& d) {
  Tensor t = Tensor::empty(d.shape, DType::f32);
  float* out = t.mutable_data<float>();
  for (int64_t i = 0; i < t.numel(); ++i)
    out[i] = d.deviation == 0
                 ? d.constant
                 : static_cast<float>(d.deviation * random_normal(d.seed, uint64_t(i)));
  return float_weight(t);
}

}  // namespace

void write_initial_model(const std::filesystem::path& path, const Json& config,
                         const std::filesystem::path& tokenizer, uint64_t seed) {
  HONE_CHECK(config.is_object(), invalid_argument, "the architecture is no map of keys");
  const std::string source = "the architecture";
  const Family& named = family_for_hf(config_string(config, "model_type", ""), source);
  ModelConfig c;
  named.from_hf(config, c);
  const Family& family = named.of(c);
  c.family = family.name;
  c.validate(source);
  HONE_CHECK(c.mixer.empty() || family.plain_mixers, unsupported,
             "{} models begin with values that are a rule for each parameter, which hone does not "
             "know; train an existing checkpoint",
             family.name);
  const double deviation = config_float(config, "initializer_range", 0.02);
  HONE_CHECK(deviation > 0 && deviation < 1, invalid_argument, "initializer_range is {}",
             deviation);
  const std::unique_ptr<Tokenizer> t = load_tokenizer(tokenizer);
  HONE_CHECK(t->vocab_size() <= c.vocabulary, invalid_argument,
             "the tokenizer has {} tokens, the architecture's vocab_size is {}", t->vocab_size(),
             c.vocabulary);
  const Initial initial(family, c, deviation, seed);
  CheckpointContents contents;
  contents.config = config;
  if (!config.contains("architectures")) family.to_hf(c, contents.config);
  contents.texts = tokenizer_files_from_spec(t->spec());
  for (const std::string& name : initial.order)
    contents.weights.push_back({name, initial.all.at(name).shape, "f32", {}});
  contents.weight = [&](const std::string& name) { return draw(initial.all.at(name)); };
  write_checkpoint("hf", path, contents);
}

}  // namespace hone
