#include "models/export.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <ranges>

#include "encodings/encoding.h"
#include "models/attention_patterns.h"
#include "models/export_gguf.h"
#include "models/export_weights.h"
#include "nn/mixture.h"
#include "tensor/transpose.h"

namespace hone {
namespace {

constexpr const char* kRopeDivisors = kRopeTensors[0];

// One tensor to be written: made when its turn comes.
struct Item {
  WeightInfo info;
  std::function<Weight()> make;
  Tensor vector;  // of a norm or a bias; otherwise an empty handle
};

int64_t shape_numel(const Shape& shape) {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

// The first of those with the largest count.
std::string most_counted(const std::map<std::string, int64_t>& counts) {
  auto most = std::max_element(counts.begin(), counts.end(),
                               [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == counts.end() ? "" : most->first;
}

class Exporter {
 public:
  /// With a plan: only for the check of what it would give.
  Exporter(LoadedModel& m, const ExportOptions& o,
           const std::map<std::string, WeightForm>* plan = nullptr)
      : m_(m), o_(o), plan_(plan), gguf_(o.layout == "gguf"), layout_(layout(o.layout)) {}

  CheckpointContents contents() {
    HONE_CHECK(!gguf_ || !m_.family->gguf_architectures.empty(), unsupported,
               "gguf: files of {} models are not written", m_.family->name);
    HONE_CHECK(!gguf_ || m_.config.linearised.empty(), unsupported,
               "gguf: linearised attention has no place in its files; write a directory");
    HONE_CHECK(!gguf_ || m_.config.patterns.empty(), unsupported, "{}", kNoPatternsInGguf);
    collect();
    if (!gguf_) settle_vectors();
    CheckpointContents c;
    for (const Item& item : items_) c.weights.push_back(item.info);
    std::map<std::string, size_t> index;
    for (size_t i = 0; i < items_.size(); ++i) index[items_[i].info.name] = i;
    c.weight = [this, index](const std::string& name) { return items_[index.at(name)].make(); };
    c.quantization_notes = o_.quantization_notes;
    if (gguf_) {
      c.gguf_metadata =
          gguf_metadata(m_, o_.gguf_file_type.value_or(gguf_file_type(main_encoding())));
      return c;
    }
    c.config = hf_config();
    c.texts = o_.texts;
    hf_texts(c.texts);
    return c;
  }

 private:
  // A GGUF source has them already, or does without.
  void add_rope_tensors() {
    std::vector<std::pair<const char*, Weight>> all;
    if (m_.checkpoint->gguf() == nullptr) all = rope_tensors(m_.config);
    for (const char* name : kRopeTensors)
      if (m_.checkpoint->gguf() != nullptr && m_.checkpoint->has(name))
        all.emplace_back(name, m_.checkpoint->weight(name));
    for (const auto& [name, w] : all)
      items_.push_back({{name, w.shape, w.encoding, w.params}, [w = w] { return w; }, {}});
  }

  void collect() {
    Model& model = *m_.model;
    if (gguf_) add_rope_tensors();
    for (const Slot& s : m_.family->slots)
      if (!is_layer_role(s.role)) add_slot(s, 0);
    for (int64_t i = 0; i < static_cast<int64_t>(model.blocks.size()); ++i) {
      for (const Slot& s : m_.family->slots)
        if (is_expert_role(s.role))
          add_experts(s, i);
        else if (is_layer_role(s.role))
          add_slot(s, i);
      for (Mixer* half : model.blocks[i].mixers()) add_mixer(*half, i);
    }
  }

  // The parameters of a mixer that the family describes by name.
  void add_mixer(Mixer& mixer, int64_t layer) {
    for (const MixerParameter& p : mixer.parameters()) {
      const MixerSlot& s = mixer_slot(*m_.family, p.name);
      const std::string name = slot_name(s.hf, layer);
      if (p.norm != nullptr) {
        add_stored(s, name + ".weight", p.norm->weight);
        if (!p.norm->bias.empty_handle()) add_stored(s, name + ".bias", p.norm->bias);
      } else if (p.vector != nullptr || p.bias) {
        add_stored(s, name, p.bias ? p.linear->bias() : p.vector->values);
      } else if (s.transposed || s.parts > 0) {
        add_part(s, name, decode_weight(p.linear->weight()));
      } else {
        const std::string& path = p.linear->name();
        const Slot plain{Role::o, path.c_str(), path.c_str()};
        add_matrix(plain, layer, {planned(path, p.linear->weight())});
      }
    }
  }

  void add_stored(const MixerSlot& s, const std::string& name, const Tensor& values) {
    Tensor t = values.reshape(stored_shape(s, values.shape(), m_.config.mixing.heads));
    HONE_ASSERT(s.kept != MixerSlot::Kept::decay);  // of files that are only read
    if (s.kept == MixerSlot::Kept::complement) {
      t = t.clone();
      for (int64_t i = 0; i < t.numel(); ++i) t.mutable_data<float>()[i] = 1 - t.data<float>()[i];
    }
    put_vector(name, t);
  }

  // The parts of one tensor arrive in any order; the last one writes it.
  void add_part(const MixerSlot& s, const std::string& name, const Tensor& values) {
    std::map<int, Tensor>& parts = parts_[name];
    parts[s.part] = s.transposed ? transposed(values) : values;
    if (std::ssize(parts) < s.parts) return;
    std::vector<float> all;
    for (const auto& [part, t] : parts)
      all.insert(all.end(), t.data<float>(), t.data<float>() + t.numel());
    put_vector(name, Tensor::from(all, stored_shape(s, values.shape(), m_.config.mixing.heads)));
    parts_.erase(name);
  }

  // Of all experts: a tensor of each, in GGUF one of all.
  void add_experts(const Slot& s, int64_t layer) {
    auto* m = dynamic_cast<Mixture*>(m_.model->blocks[layer].feed_forward.get());
    if (m == nullptr) return;
    std::vector<Weight> all;
    for (size_t e = 0; e < m->experts.size(); ++e) {
      Mlp& own = m->experts[e];
      const Linear& l = s.role == Role::expert_gate ? own.gate
                        : s.role == Role::expert_up ? own.up
                                                    : own.down;
      if (!l.defined()) return;
      HONE_CHECK(l.bias().empty_handle(), unsupported, "{}: experts with a bias are not written",
                 l.name());
      all.push_back(planned(l.name(), l.weight()));
      if (gguf_) continue;
      // The name is one expert's: no slot says it.
      const std::string& path = l.name();
      add_matrix({s.role, path.c_str(), path.c_str()}, layer, {all.back()});
    }
    if (gguf_) add_matrix(s, layer, all);
  }

  const Linear* linear_of(Role role, int64_t layer) const {
    Block& b = m_.model->blocks[layer];
    auto* a = dynamic_cast<SoftmaxAttention*>(b.mixer.get());
    switch (role) {
      case Role::q:
        return a ? &a->q : nullptr;
      case Role::k:
        return a ? &a->k : nullptr;
      case Role::v:
        return a ? &a->v : nullptr;
      case Role::o:
        return a ? &a->o : nullptr;
      case Role::attention_gate:
        return a ? &a->gate : nullptr;
      case Role::gate:
        return b.mlp() ? &b.mlp()->gate : nullptr;
      case Role::up:
        return b.mlp() ? &b.mlp()->up : nullptr;
      case Role::down:
        return b.mlp() ? &b.mlp()->down : nullptr;
      case Role::router:
        if (auto* m = dynamic_cast<Mixture*>(b.feed_forward.get())) return &m->router;
        return nullptr;
      default:
        return nullptr;
    }
  }

  const Norm* norm_of(Role role, int64_t layer) const {
    if (role == Role::final_norm) return &m_.model->final_norm;
    if (role == Role::embedding_norm) return &m_.model->embedding_norm;
    Block& b = m_.model->blocks[layer];
    auto* a = dynamic_cast<SoftmaxAttention*>(b.mixer.get());
    switch (role) {
      case Role::mixer_norm:
        return &b.mixer_norm;
      case Role::post_mixer_norm:
        return &b.post_mixer_norm;
      case Role::mlp_norm:
        return &b.mlp_norm;
      case Role::post_mlp_norm:
        return &b.post_mlp_norm;
      case Role::q_norm:
        return a ? &a->q_norm : nullptr;
      case Role::k_norm:
        return a ? &a->k_norm : nullptr;
      default:
        return nullptr;
    }
  }

  std::string name_of(const Slot& s, int64_t layer, const char* suffix) const {
    return slot_name(gguf_ ? s.gguf : s.hf, layer) + suffix;
  }

  // The weight as it is, or, of one with a plan, all but its data.
  Weight planned(const std::string& module, const Weight& w) const {
    if (plan_ == nullptr || !plan_->contains(module)) return w;
    const WeightForm& form = plan_->at(module);
    Weight out;
    out.shape = w.shape;
    out.encoding = form.encoding;
    out.params = form.params;
    return out;
  }

  void add_slot(const Slot& s, int64_t layer) {
    Model& m = *m_.model;
    if (s.role == Role::embedding) {
      add_matrix(s, layer, {planned(m.embedding.name(), m.embedding.weight())});
    } else if (s.role == Role::head) {
      if (!m.tied_head) add_linear(s, layer, m.head);
    } else if (s.role == Role::positions) {
      add_matrix(s, layer, {float_weight(m.position_table)});
    } else if (s.role == Role::memory) {
      if (m.memory.defined()) add_matrix(s, layer, {float_weight(m.memory.initial)});
    } else if (const Norm* n = norm_of(s.role, layer); n != nullptr && n->defined()) {
      Tensor weight = n->weight;
      if (gguf_ && m_.family->gguf_norm_shift != 0) {
        weight = weight.clone();
        for (int64_t i = 0; i < weight.numel(); ++i)
          weight.mutable_data<float>()[i] += m_.family->gguf_norm_shift;
      }
      add_vector(s, layer, ".weight", weight);
      if (!n->bias.empty_handle()) add_vector(s, layer, ".bias", n->bias);
    } else if (const Linear* l = linear_of(s.role, layer); l != nullptr && l->defined()) {
      add_linear(s, layer, *l);
    }
  }

  void add_linear(const Slot& s, int64_t layer, const Linear& l) {
    if (s.parts == 0) {
      add_matrix(s, layer, {planned(l.name(), l.weight())});
      if (!l.bias().empty_handle()) add_vector(s, layer, ".bias", ordered(s, l.bias()));
      return;
    }
    // The parts of a fused matrix arrive one slot after the other; the last one writes it.
    fused_.push_back(planned(l.name(), l.weight()));
    if (!l.bias().empty_handle()) fused_bias_.push_back(l.bias());
    if (s.part + 1 < s.parts) return;
    const std::vector<int64_t> order = joined_rows(s);
    add_matrix(s, layer, fused_, order);
    if (!fused_bias_.empty()) {
      std::vector<float> all;
      for (const Tensor& t : fused_bias_)
        all.insert(all.end(), t.data<float>(), t.data<float>() + t.numel());
      std::vector<float> sorted = all;
      for (size_t i = 0; i < order.size(); ++i) sorted[i] = all[static_cast<size_t>(order[i])];
      add_vector(s, layer, ".bias", Tensor::from(sorted));
    }
    fused_.clear();
    fused_bias_.clear();
  }

  // Stored row i is row order[i] of the parts below each other; empty where they stand so.
  std::vector<int64_t> joined_rows(const Slot& s) const {
    if (!s.by_head(gguf_)) return {};
    std::vector<int64_t> order(static_cast<size_t>(stored_rows(*m_.family, s, m_.config)));
    int64_t row = 0;
    for (int part = 0; part < s.parts; ++part)
      for (const Slot& other : m_.family->slots) {
        if (other.parts == 0 || other.part != part || std::string_view(other.hf) != s.hf) continue;
        for (int64_t stored : part_rows(*m_.family, other, m_.config, gguf_)) order[stored] = row++;
      }
    return order;
  }

  std::vector<int64_t> paired_order(int64_t rows) const {
    return pair_rows(rows, m_.config.head_dim, gguf_ ? 0 : m_.config.rope_dim);
  }

  Tensor ordered(const Slot& s, const Tensor& bias) const {
    if (!s.paired_rows(gguf_)) return bias;
    Tensor out = Tensor::empty(bias.shape(), DType::f32);
    auto order = paired_order(bias.numel());
    for (int64_t i = 0; i < bias.numel(); ++i)
      out.mutable_data<float>()[i] = bias.data<float>()[order[i]];
    return out;
  }

  void add_vector(const Slot& s, int64_t layer, const char* suffix, const Tensor& t) {
    put_vector(name_of(s, layer, suffix), t);
  }

  void put_vector(const std::string& name, const Tensor& t) {
    Weight w = float_weight(t);
    items_.push_back({{name, w.shape, w.encoding, w.params}, [w] { return w; }, t});
  }

  // The float type of most values that are written as floats.
  std::string main_float_type() const {
    std::map<std::string, int64_t> counts{{"f32", 0}};
    for (const Item& i : items_)
      if (is_float(i.info.encoding)) counts[i.info.encoding] += shape_numel(i.info.shape);
    return most_counted(counts);
  }

  // The encoding of most values of matrices.
  std::string main_encoding() const {
    std::map<std::string, int64_t> counts;
    for (const Item& i : items_)
      if (i.info.shape.size() == 2) counts[i.info.encoding] += shape_numel(i.info.shape);
    return most_counted(counts);
  }

  // Plain directories keep vectors in the type that was asked for. Otherwise they follow most
  // matrices where that loses nothing. (GGUF wants f32.)
  void settle_vectors() {
    bool asked = o_.layout == "hf" && !o_.decode_to.empty();
    std::string type = asked ? o_.decode_to : main_float_type();
    for (Item& item : items_) {
      if (item.vector.empty_handle()) continue;
      Weight w = cast_weight(float_weight(item.vector), type);
      if (!asked && !same_bytes(decode_weight(w), item.vector)) continue;
      item.info.encoding = w.encoding;
      item.make = [w] { return w; };
    }
  }

  void add_matrix(const Slot& s, int64_t layer, std::vector<Weight> parts,
                  const std::vector<int64_t>& order = {}) {
    std::string name = name_of(s, layer, ".weight");
    check_joinable(parts, name);
    // What is written is decided on the first part: its parameters and encoding.
    const bool untouched = is_source_block(s, layer, parts[0]);
    // One tensor [experts, N, K].
    const bool stacked = gguf_ && is_expert_role(s.role);
    const int64_t experts = stacked ? std::ssize(parts) : 1;
    bool transpose = s.hf_transposed && !gguf_ && is_plain(parts[0]);
    HONE_CHECK(!s.hf_transposed || gguf_ || transpose || o_.layout == "gptq" ||
                   o_.layout == "gptq_v2" || !o_.decode_to.empty(),
               unsupported, "{}: the layout {} cannot hold a quantised matrix stored as [in, out]",
               name, o_.layout);
    auto make = [=, this]() -> Weight {
      Weight w = parts.size() == 1 ? parts[0] : concat_rows(parts);
      if (!order.empty()) w = encoding(w.encoding).permute_rows(w, order);
      if (gguf_) w = exact_gguf_weight(w);
      if (s.paired_rows(gguf_)) w = encoding(w.encoding).permute_rows(w, paired_order(w.rows()));
      if (must_decode(w, untouched)) {
        w = cast_weight(w, decoded_type());
        if (s.hf_transposed && !gguf_) return transposed_floats(w);
      }
      if (stacked) w.shape = {experts, w.shape[0] / experts, w.shape[1]};
      return transpose ? transposed_floats(w) : w;
    };
    Weight sample = parts[0];
    if (std::string exact = exact_gguf_encoding(sample); gguf_ && !exact.empty()) {
      sample.encoding = exact;
      sample.params = {};
    }
    WeightInfo info{name, sample.shape, sample.encoding, sample.params};
    for (size_t i = 1; i < parts.size(); ++i) info.shape[0] += parts[i].shape[0];
    if (must_decode(sample, untouched)) {
      info.encoding = decoded_type();
      info.params = {};
      transpose = s.hf_transposed && !gguf_;
    }
    if (stacked) info.shape = {experts, info.shape[0] / experts, info.shape[1]};
    if (transpose) std::swap(info.shape[0], info.shape[1]);
    items_.push_back({info, make, {}});
  }

  // Still the block type that the GGUF source holds: no pass has changed it.
  bool is_source_block(const Slot& s, int64_t layer, const Weight& w) const {
    const GgufFile* file = m_.checkpoint->gguf();
    if (file == nullptr || !w.planes.contains("blocks")) return false;
    const GgufTensor* t = file->find_tensor(slot_name(s.gguf, layer) + ".weight");
    return t != nullptr && find_ggml_type(t->ggml_type)->id == w.encoding;
  }

  bool must_decode(const Weight& w, bool untouched) const {
    if (o_.decode_to.empty()) return !gguf_ && untouched;
    WeightInfo info{"weight", w.shape, w.encoding, w.params};
    return o_.layout == "hf" ? w.encoding != o_.decode_to : !layout_.refusal(info).empty();
  }
  std::string decoded_type() const { return o_.decode_to.empty() ? "f16" : o_.decode_to; }

  Json hf_config() const {
    if (m_.checkpoint->gguf() == nullptr && m_.layout != "rwkv_cpp") {
      Json c = m_.checkpoint->config;
      c.erase("quantization_config");
      c["tie_word_embeddings"] = m_.model->tied_head;
      if (m_.config.kv_heads != m_.config.heads || c.contains("num_key_value_heads"))
        c["num_key_value_heads"] = m_.config.kv_heads;  // a pass may have merged some
      write_linearised(m_.config, c);
      write_patterns(m_.config, *m_.family, c);
      say_float_type(c);
      return c;
    }
    const ModelConfig& m = m_.config;
    Json c = Json::object();
    c["architectures"] = Json::array();
    c["model_type"] = "";
    c["vocab_size"] = m.vocabulary;
    if (m.rotary && m.has_softmax()) {
      c["hidden_size"] = m.width;
      c["intermediate_size"] = m.ffn;
      c["num_hidden_layers"] = m.layers;
      c["num_attention_heads"] = m.heads;
      c["num_key_value_heads"] = m.kv_heads;
      c["head_dim"] = m.head_dim;
      c["max_position_embeddings"] = m.context;
      c["rope_theta"] = json_float(m.rope_theta);
      if (m.rope_scaling.kind == RopeScaling::Kind::linear)
        c["rope_scaling"] = {{"rope_type", "linear"},
                             {"factor", json_float(m.rope_scaling.factor)}};
    }
    if (m_.checkpoint->has(kRopeDivisors))
      c["rope_scaling"] =
          llama3_scaling(m_.checkpoint->weight(kRopeDivisors), m.rope_theta, m_.path);
    c["tie_word_embeddings"] = m_.model->tied_head;
    m_.family->to_hf(m, c);
    write_linearised(m, c);
    write_patterns(m, *m_.family, c);
    if (m_.tokenizer) {
      if (m_.tokenizer->bos()) c["bos_token_id"] = *m_.tokenizer->bos();
      if (m_.tokenizer->eos()) c["eos_token_id"] = *m_.tokenizer->eos();
    }
    say_float_type(c);
    return c;
  }

  // Newer readers call it dtype, older ones torch_dtype.
  void say_float_type(Json& c) const {
    std::string type = main_float_type();
    const char* name = type == "f16" ? "float16" : type == "bf16" ? "bfloat16" : "float32";
    bool renamed = c.contains("dtype");
    if (renamed) c["dtype"] = name;
    if (!renamed || c.contains("torch_dtype")) c["torch_dtype"] = name;
  }

  void hf_texts(std::vector<std::pair<std::string, std::string>>& texts) const {
    if (m_.tokenizer) {
      for (auto& file : tokenizer_files_from_spec(m_.tokenizer->spec()))
        texts.push_back(std::move(file));
    }
    if (!m_.chat_template.empty()) texts.emplace_back("chat_template.jinja", m_.chat_template);
    if (auto g = m_.checkpoint->text("generation_config.json"))
      texts.emplace_back("generation_config.json", *g);
  }

  LoadedModel& m_;
  const ExportOptions& o_;
  const std::map<std::string, WeightForm>* plan_;
  bool gguf_;
  const Layout& layout_;
  std::vector<Item> items_;
  std::vector<Weight> fused_;
  std::vector<Tensor> fused_bias_;
  std::map<std::string, std::map<int, Tensor>> parts_;  // of tensors that are not complete
};

}  // namespace

std::string fitting_layout(LoadedModel& m, const std::filesystem::path& out,
                           const std::map<std::string, WeightForm>& plan) {
  if (out.extension() == ".gguf") return "gguf";
  // Plain floats stand last in the registry and win a draw.
  std::string found;
  size_t fewest = SIZE_MAX;
  for (const Layout& candidate : std::views::reverse(layouts())) {
    if (candidate.write == nullptr || candidate.name == "gguf") continue;
    size_t refused = 0;
    for (Linear* l : m.model->linears()) {
      WeightInfo w{l->name(), l->weight().shape, l->weight().encoding, l->weight().params};
      if (plan.contains(l->name())) {
        w.encoding = plan.at(l->name()).encoding;
        w.params = plan.at(l->name()).params;
      }
      refused += candidate.refusal(w).empty() ? 0 : 1;
    }
    if (refused >= fewest) continue;
    fewest = refused;
    found = candidate.name;
  }
  return found;
}

int64_t planned_bytes(LoadedModel& m, const std::map<std::string, WeightForm>& plan) {
  int64_t bytes = 0;
  auto add = [&](const std::string& module, const Weight& w) {
    const auto planned = plan.find(module);
    if (planned == plan.end()) return;
    Weight form;
    form.shape = w.shape;
    form.encoding = planned->second.encoding;
    form.params = planned->second.params;
    bytes += packed_bytes(form);
  };
  add(m.model->embedding.name(), m.model->embedding.weight());
  for (Linear* l : m.model->linears()) add(l->name(), l->weight());
  return bytes;
}

int64_t weight_bytes(LoadedModel& m) {
  Model& model = *m.model;
  int64_t n = model.embedding.weight().byte_size() + model.position_table.byte_size();
  for (Linear* l : model.linears())
    if (l != &model.head || !model.tied_head) n += l->weight().byte_size();
  return n;
}

int64_t written_bytes(const std::filesystem::path& path) {
  if (!fs::is_directory(path)) return static_cast<int64_t>(fs::file_size(path));
  int64_t n = 0;
  for (const auto& e : fs::directory_iterator(path))
    if (e.path().extension() == ".safetensors") n += static_cast<int64_t>(e.file_size());
  return n;
}

void check_export(LoadedModel& m, const ExportOptions& o,
                  const std::map<std::string, WeightForm>& plan) {
  Exporter exporter(m, o, &plan);
  check_contents(o.layout, exporter.contents());
}

void export_model(LoadedModel& m, const std::filesystem::path& path, const ExportOptions& o) {
  Exporter exporter(m, o);
  write_checkpoint(o.layout, path, exporter.contents());
}

}  // namespace hone
