#include "models/export.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "encodings/encoding.h"
#include "encodings/int_grid.h"

namespace hone {
namespace {

// One tensor to be written: made when its turn comes.
struct Item {
  WeightInfo info;
  std::function<Weight()> make;
  Tensor vector;  // of a norm or a bias; otherwise an empty handle
};

bool is_float(const std::string& encoding) {
  return encoding == "f32" || encoding == "f16" || encoding == "bf16";
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.byte_size() == b.byte_size() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size())) == 0;
}

int64_t shape_numel(const Shape& shape) {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

Weight cast_weight(const Weight& w, const std::string& type) {
  Tensor values = decode_weight(w);
  for (DType t : {DType::f32, DType::f16, DType::bf16})
    if (dtype_name(t) == type) return float_weight(t == DType::f32 ? values : values.to(t));
  fail(ErrorKind::invalid_argument, "float type '{}': expected f32, f16 or bf16", type);
}

Weight transposed_floats(const Weight& w) {
  Tensor values = decode_weight(w);
  int64_t n = w.rows(), k = w.cols();
  Tensor out = Tensor::empty({k, n}, DType::f32);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < k; ++j)
      out.mutable_data<float>()[j * n + i] = values.data<float>()[i * k + j];
  bool small = w.encoding == "f16" || w.encoding == "bf16";
  return small ? cast_weight(float_weight(out), w.encoding) : float_weight(out);
}

// Parts of one matrix are stored together: in one way, row by row.
void check_joinable(const std::vector<Weight>& parts, const std::string& name) {
  if (parts.size() == 1) return;
  for (const Weight& p : parts)
    HONE_CHECK(p.encoding == parts[0].encoding && p.params == parts[0].params &&
                   !p.params.act_order && p.encoding != "nf4" && p.encoding != "fp4",
               unsupported, "{}: its parts are stored in ways that cannot be joined", name);
}

// The rows of several weights of one kind, one below the other: planes are joined.
Weight concat_rows(const std::vector<Weight>& parts) {
  Weight out = parts[0];
  for (auto& [plane, t] : out.planes) {
    Shape shape = t.shape();
    shape[0] = 0;
    for (const Weight& p : parts) shape[0] += p.plane(plane).dim(0);
    Tensor joined = Tensor::empty(shape, t.dtype());
    std::byte* to = joined.mutable_raw();
    for (const Weight& p : parts) {
      const Tensor& from = p.plane(plane);
      std::memcpy(to, from.raw(), static_cast<size_t>(from.byte_size()));
      to += from.byte_size();
    }
    t = joined;
  }
  out.shape[0] = 0;
  for (const Weight& p : parts) out.shape[0] += p.shape[0];
  return out;
}

class Exporter {
 public:
  /// With a plan: only for the check of what it would give.
  Exporter(LoadedModel& m, const ExportOptions& o,
           const std::map<std::string, WeightForm>* plan = nullptr)
      : m_(m), o_(o), plan_(plan), gguf_(o.layout == "gguf"), layout_(layout(o.layout)) {}

  CheckpointContents contents() {
    collect();
    if (!gguf_) settle_vectors();
    CheckpointContents c;
    for (const Item& item : items_) c.weights.push_back(item.info);
    std::map<std::string, size_t> index;
    for (size_t i = 0; i < items_.size(); ++i) index[items_[i].info.name] = i;
    c.weight = [this, index](const std::string& name) { return items_[index.at(name)].make(); };
    c.quantization_notes = o_.quantization_notes;
    if (gguf_) {
      c.gguf_metadata = metadata();
      return c;
    }
    c.config = hf_config();
    c.texts = o_.texts;
    hf_texts(c.texts);
    return c;
  }

 private:
  // GGUF has no keys for Llama 3's scaling: it stores what the plain frequencies are divided by.
  void add_rope_divisors() {
    const ModelConfig& c = m_.config;
    if (c.rope_scaling.kind != RopeScaling::Kind::llama3) return;
    int64_t dim = c.rope_dim > 0 ? c.rope_dim : c.head_dim;
    Rope plain(dim, c.rope_theta, {}), scaled(dim, c.rope_theta, c.rope_scaling);
    std::vector<float> divisors;
    for (int64_t i = 0; i < dim / 2; ++i)
      divisors.push_back(plain.frequencies()[i] / scaled.frequencies()[i]);
    Weight w = float_weight(Tensor::from(divisors));
    items_.push_back({{"rope_freqs.weight", w.shape, w.encoding, w.params}, [w] { return w; }, {}});
  }

  void collect() {
    Model& model = *m_.model;
    if (gguf_ && m_.checkpoint->gguf() == nullptr) add_rope_divisors();
    if (gguf_ && m_.checkpoint->gguf() != nullptr && m_.checkpoint->has("rope_freqs.weight")) {
      Weight w = m_.checkpoint->weight("rope_freqs.weight");
      items_.push_back(
          {{"rope_freqs.weight", w.shape, w.encoding, w.params}, [w] { return w; }, {}});
    }
    for (const Slot& s : m_.family->slots)
      if (!is_layer_role(s.role)) add_slot(s, 0);
    for (int64_t i = 0; i < static_cast<int64_t>(model.blocks.size()); ++i)
      for (const Slot& s : m_.family->slots)
        if (is_layer_role(s.role)) add_slot(s, i);
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
      case Role::gate:
        return &b.mlp.gate;
      case Role::up:
        return &b.mlp.up;
      case Role::down:
        return &b.mlp.down;
      default:
        return nullptr;
    }
  }

  const Norm* norm_of(Role role, int64_t layer) const {
    if (role == Role::final_norm) return &m_.model->final_norm;
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
    // Passes give FP8 row scales.
    if (out.encoding.rfind("f8_", 0) == 0) out.planes["scale"] = {};
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
    add_matrix(s, layer, fused_);
    if (!fused_bias_.empty()) {
      std::vector<float> all;
      for (const Tensor& t : fused_bias_)
        all.insert(all.end(), t.data<float>(), t.data<float>() + t.numel());
      add_vector(s, layer, ".bias", Tensor::from(all));
    }
    fused_.clear();
    fused_bias_.clear();
  }

  Tensor ordered(const Slot& s, const Tensor& bias) const {
    if (!gguf_ || !s.gguf_paired_rows) return bias;
    Tensor out = Tensor::empty(bias.shape(), DType::f32);
    auto order = pair_rows(bias.numel(), m_.config.head_dim);
    for (int64_t i = 0; i < bias.numel(); ++i)
      out.mutable_data<float>()[i] = bias.data<float>()[order[i]];
    return out;
  }

  void add_vector(const Slot& s, int64_t layer, const char* suffix, const Tensor& t) {
    Weight w = float_weight(t);
    items_.push_back(
        {{name_of(s, layer, suffix), w.shape, w.encoding, w.params}, [w] { return w; }, t});
  }

  // The float type of most values that are written as floats.
  std::string main_float_type() const {
    std::map<std::string, int64_t> counts{{"f32", 0}};
    for (const Item& i : items_)
      if (is_float(i.info.encoding)) counts[i.info.encoding] += shape_numel(i.info.shape);
    auto most = std::max_element(counts.begin(), counts.end(),
                                 [](const auto& a, const auto& b) { return a.second < b.second; });
    return most->first;
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

  void add_matrix(const Slot& s, int64_t layer, std::vector<Weight> parts) {
    std::string name = name_of(s, layer, ".weight");
    check_joinable(parts, name);
    // What is written is decided on the first part: its parameters and encoding.
    const bool untouched = is_source_block(s, layer, parts[0]);
    HONE_CHECK(
        gguf_ || !o_.decode_to.empty() || !parts[0].planes.contains("scale"), unsupported,
        "{}: no layout holds {} with row scales; give a float type to decode to (--decode-to)",
        name, parts[0].encoding);
    bool transpose = s.hf_transposed && !gguf_ && is_float(parts[0].encoding);
    HONE_CHECK(!s.hf_transposed || gguf_ || transpose || o_.layout == "gptq" ||
                   o_.layout == "gptq_v2" || !o_.decode_to.empty(),
               unsupported, "{}: the layout {} cannot hold a quantised matrix stored as [in, out]",
               name, o_.layout);
    auto make = [this, s, name, parts, transpose, untouched]() -> Weight {
      Weight w = parts.size() == 1 ? parts[0] : concat_rows(parts);
      if (gguf_) {
        w = exact_gguf_weight(w);
        if (s.gguf_paired_rows)
          w = encoding(w.encoding).permute_rows(w, pair_rows(w.rows(), m_.config.head_dim));
      }
      if (must_decode(w, untouched)) {
        Weight decoded = cast_weight(w, decoded_type());
        return s.hf_transposed && !gguf_ ? transposed_floats(decoded) : decoded;
      }
      return transpose ? transposed_floats(w) : w;
    };
    Weight sample = gguf_ ? gguf_form(parts[0]) : parts[0];
    WeightInfo info{name, sample.shape, sample.encoding, sample.params};
    for (size_t i = 1; i < parts.size(); ++i) info.shape[0] += parts[i].shape[0];
    if (must_decode(sample, untouched)) {
      info.encoding = decoded_type();
      info.params = {};
      transpose = s.hf_transposed && !gguf_;
    }
    if (transpose) std::swap(info.shape[0], info.shape[1]);
    items_.push_back({info, make, {}});
  }

  // As exact_gguf_weight would make it, without the data.
  static Weight gguf_form(const Weight& w) {
    Weight out = w;
    const WeightParams& p = w.params;
    bool exact = w.encoding == "int_group" && p.symmetric && !p.act_order && p.group % 32 == 0 &&
                 p.scale_type == DType::f16 && w.cols() % 32 == 0 &&
                 (p.group > 0 ? w.cols() % p.group == 0 : true);
    if (exact && (p.bits == 4 || p.bits == 8)) {
      out.encoding = p.bits == 4 ? "q4_0" : "q8_0";
      out.params = {};
    }
    return out;
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
    if (m_.checkpoint->gguf() == nullptr) {
      Json c = m_.checkpoint->config;
      c.erase("quantization_config");
      c["tie_word_embeddings"] = m_.model->tied_head;
      say_float_type(c);
      return c;
    }
    const ModelConfig& m = m_.config;
    Json c = Json::object();
    c["architectures"] = Json::array();
    c["model_type"] = "";
    c["vocab_size"] = m.vocabulary;
    if (m.rotary) {
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
    if (m_.checkpoint->has("rope_freqs.weight")) c["rope_scaling"] = llama3_scaling();
    c["tie_word_embeddings"] = m_.model->tied_head;
    m_.family->to_hf(m, c);
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

  // What a GGUF's frequency divisors say in config.json: Llama 3's published parameters, if they
  // reproduce the divisors; anything else has no name there.
  Json llama3_scaling() const {
    Tensor divisors = decode_weight(m_.checkpoint->weight("rope_freqs.weight"));
    const float* d = divisors.data<float>();
    RopeScaling s;
    s.kind = RopeScaling::Kind::llama3;
    s.factor = *std::max_element(d, d + divisors.numel());
    Rope plain(2 * divisors.numel(), m_.config.rope_theta, {});
    Rope scaled(2 * divisors.numel(), m_.config.rope_theta, s);
    for (int64_t i = 0; i < divisors.numel(); ++i)
      HONE_CHECK(std::fabs(plain.frequencies()[i] / scaled.frequencies()[i] / d[i] - 1) < 1e-4,
                 unsupported, "{}: config.json has no way to say its rope_freqs", m_.path);
    return {{"rope_type", "llama3"},
            {"factor", json_float(s.factor)},
            {"low_freq_factor", json_float(s.low_freq_factor)},
            {"high_freq_factor", json_float(s.high_freq_factor)},
            {"original_max_position_embeddings", static_cast<int64_t>(s.original_context)}};
  }

  void hf_texts(std::vector<std::pair<std::string, std::string>>& texts) const {
    if (m_.tokenizer) {
      texts.emplace_back("tokenizer.json", tokenizer_json_from_spec(m_.tokenizer->spec()));
      texts.emplace_back("tokenizer_config.json",
                         tokenizer_config_json_from_spec(m_.tokenizer->spec()));
    }
    if (!m_.chat_template.empty()) texts.emplace_back("chat_template.jinja", m_.chat_template);
    if (auto g = m_.checkpoint->text("generation_config.json"))
      texts.emplace_back("generation_config.json", *g);
  }

  std::vector<GgufEntry> metadata() const;

  LoadedModel& m_;
  const ExportOptions& o_;
  const std::map<std::string, WeightForm>* plan_;
  bool gguf_;
  const Layout& layout_;
  std::vector<Item> items_;
  std::vector<Weight> fused_;
  std::vector<Tensor> fused_bias_;
};

// LlamaFileType of the most common encoding; 1024 ("guessed") where it has none.
uint32_t gguf_file_type(const std::vector<Item>& items) {
  static const std::map<std::string, uint32_t> kTypes = {
      {"f32", 0},   {"f16", 1},   {"q4_0", 2},  {"q4_1", 3},  {"q8_0", 7},
      {"q5_0", 8},  {"q5_1", 9},  {"q2_k", 10}, {"q3_k", 12}, {"q4_k", 14},
      {"q5_k", 16}, {"q6_k", 18}, {"bf16", 32}};
  std::map<std::string, int64_t> counts;
  for (const Item& i : items)
    if (i.info.shape.size() == 2) counts[i.info.encoding] += i.info.shape[0] * i.info.shape[1];
  std::string most;
  for (const auto& [name, n] : counts)
    if (most.empty() || n > counts[most]) most = name;
  auto it = kTypes.find(most);
  return it == kTypes.end() ? 1024 : it->second;
}

std::vector<GgufEntry> Exporter::metadata() const {
  std::vector<GgufEntry> out;
  auto u32 = [](int64_t x) { return GgufValue::u32(static_cast<uint32_t>(x)); };
  if (const GgufFile* file = m_.checkpoint->gguf()) {
    // As it was, but for what the new weights change.
    for (const GgufEntry& e : file->metadata())
      if (e.key != "general.file_type" && e.key.rfind("split.", 0) != 0) out.push_back(e);
    out.push_back({"general.file_type", u32(gguf_file_type(items_))});
    return out;
  }
  const ModelConfig& m = m_.config;
  std::string arch = m_.family->gguf_architectures[0], a = arch + ".";
  out.push_back({"general.architecture", GgufValue::string(arch)});
  out.push_back({"general.name", GgufValue::string(m_.name)});
  out.push_back({"general.quantization_version", u32(2)});
  out.push_back({"general.file_type", u32(gguf_file_type(items_))});
  out.push_back({a + "context_length", u32(m.context)});
  out.push_back({a + "embedding_length", u32(m.width)});
  out.push_back({a + "block_count", u32(m.layers)});
  out.push_back({a + "feed_forward_length", u32(m.ffn)});
  out.push_back({a + "attention.head_count", u32(m.heads)});
  out.push_back({a + "attention.head_count_kv", u32(m.kv_heads)});
  out.push_back({a + "vocab_size", u32(m.vocabulary)});
  if (m.rotary) {
    out.push_back({a + "attention.key_length", u32(m.head_dim)});
    out.push_back({a + "attention.value_length", u32(m.head_dim)});
    out.push_back({a + "rope.dimension_count", u32(m.rope_dim > 0 ? m.rope_dim : m.head_dim)});
    out.push_back({a + "rope.freq_base", GgufValue::f32(m.rope_theta)});
    if (m.rope_scaling.kind == RopeScaling::Kind::linear) {
      out.push_back({a + "rope.scaling.type", GgufValue::string("linear")});
      out.push_back({a + "rope.scaling.factor", GgufValue::f32(m.rope_scaling.factor)});
    }
  }
  m_.family->to_gguf(m, out);
  if (!m_.tokenizer) return out;
  const TokenizerSpec& t = m_.tokenizer->spec();
  HONE_CHECK(t.gguf_obstacle.empty(), unsupported, "gguf: this tokenizer cannot be written: {}",
             t.gguf_obstacle);
  const std::string k = "tokenizer.ggml.";
  out.push_back({k + "model", GgufValue::string(t.model)});
  if (!t.pre.empty()) out.push_back({k + "pre", GgufValue::string(t.pre)});
  out.push_back({k + "tokens", GgufValue::strings(t.tokens)});
  if (!t.scores.empty()) out.push_back({k + "scores", GgufValue::floats(t.scores)});
  if (!t.token_types.empty())
    out.push_back(
        {k + "token_type", GgufValue::i32s({t.token_types.begin(), t.token_types.end()})});
  if (!t.merges.empty()) out.push_back({k + "merges", GgufValue::strings(t.merges)});
  auto id = [&](const char* key, std::optional<int32_t> v) {
    if (v) out.push_back({k + key, u32(*v)});
  };
  id("bos_token_id", t.bos);
  id("eos_token_id", t.eos);
  id("unknown_token_id", t.unk);
  id("padding_token_id", t.pad);
  id("eot_token_id", t.eot);
  if (t.add_bos) out.push_back({k + "add_bos_token", GgufValue::boolean(*t.add_bos)});
  if (t.add_eos) out.push_back({k + "add_eos_token", GgufValue::boolean(*t.add_eos)});
  if (t.add_space_prefix)
    out.push_back({k + "add_space_prefix", GgufValue::boolean(*t.add_space_prefix)});
  if (!m_.chat_template.empty())
    out.push_back({"tokenizer.chat_template", GgufValue::string(m_.chat_template)});
  return out;
}

}  // namespace

Weight exact_gguf_weight(const Weight& w) {
  const WeightParams& p = w.params;
  if (w.encoding != "int_group" || !p.symmetric || p.act_order || p.scale_type != DType::f16 ||
      (p.bits != 4 && p.bits != 8) || w.cols() % 32 != 0)
    return w;
  int64_t n = w.rows(), k = w.cols(), group = p.group == 0 ? k : p.group;
  if (group % 32 != 0 || k % group != 0) return w;
  int64_t blocks = k / 32, size = p.bits == 4 ? 18 : 34, groups = k / group;
  Weight out;
  out.shape = w.shape;
  out.encoding = p.bits == 4 ? "q4_0" : "q8_0";
  Tensor data = Tensor::empty({n, blocks * size}, DType::u8);
  const Tensor &codes = w.plane("codes"), &scales = w.plane("scales");
  std::vector<uint8_t> row(static_cast<size_t>(k));
  for (int64_t r = 0; r < n; ++r) {
    unpack_codes(codes.data<uint8_t>() + r * codes.dim(1), k, p.bits, row.data());
    for (int64_t b = 0; b < blocks; ++b) {
      uint8_t* to = data.mutable_data<uint8_t>() + (r * blocks + b) * size;
      f16 scale = scales.data<f16>()[r * groups + b * 32 / group];
      std::memcpy(to, &scale.bits, 2);
      const uint8_t* q = &row[b * 32];
      if (p.bits == 4)
        for (int j = 0; j < 16; ++j) to[2 + j] = static_cast<uint8_t>(q[j] | q[j + 16] << 4);
      else
        for (int j = 0; j < 32; ++j) to[2 + j] = static_cast<uint8_t>(q[j] - 128);
    }
  }
  out.planes["blocks"] = data;
  return out;
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
