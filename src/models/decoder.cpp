#include "models/decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/checked.h"
#include "encodings/encoding.h"
#include "nn/linearised_attention.h"
#include "nn/mixture.h"
#include "tensor/transpose.h"

namespace hone {
namespace {

// A plain copy of W with rows and columns exchanged, in the scalar type that the file has.
Weight transposed_weight(const Weight& w, const std::string& name) {
  auto it = w.planes.find("values");
  HONE_CHECK(it != w.planes.end() && w.shape.size() == 2, unsupported,
             "{}: a matrix stored as [in, out] must be float, not {}", name, w.encoding);
  Weight out = float_weight(transposed(it->second));
  it->second.release_pages();
  return out;
}

Norm read_norm(const ModelConfig& c, const ParameterReader& r, Role role, int64_t layer,
               int64_t size) {
  Norm norm;
  norm.kind = c.norm;
  norm.name = r.path(role, layer);
  norm.weight = r.vector(role, layer, ".weight", size, true);
  if (c.norm == Norm::Kind::layer) norm.bias = r.vector(role, layer, ".bias", size, c.norm_bias);
  norm.eps = c.norm_eps;
  norm.offset = c.norm_offset;
  return norm;
}

class Builder {
 public:
  Builder(const ModelConfig& c, const ParameterReader& r, const WeightTransform& t, bool pack)
      : c_(c), r_(r), transform_(t), pack_(pack) {}

  std::unique_ptr<Model> build() {
    auto m = std::make_unique<Model>();
    m->family = c_.family;
    m->context = c_.context;
    m->embedding = Embedding(r_.path(Role::embedding, 0),
                             r_.matrix(Role::embedding, 0, c_.vocabulary, c_.width));
    if (c_.embedding_norm) m->embedding_norm = read_norm(c_, r_, Role::embedding_norm, 0, c_.width);
    m->embedding_scale = c_.embedding_scale;
    m->logit_softcap = c_.logit_softcap;
    m->logit_scale = c_.logit_scale;
    if (c_.learned_positions) m->position_name = r_.path(Role::positions, 0);
    if (c_.learned_positions)
      m->position_table =
          decode_weight(r_.matrix(Role::positions, 0, c_.position_offset + c_.context, c_.width));
    m->position_offset = c_.position_offset;
    if (c_.memory_tokens > 0)
      m->memory = {r_.path(Role::memory, 0),
                   decode_weight(r_.matrix(Role::memory, 0, c_.memory_tokens, c_.width)),
                   c_.segment};
    make_ropes();
    for (int64_t i = 0; i < c_.layers; ++i) m->blocks.push_back(block(i));
    m->final_norm = read_norm(c_, r_, Role::final_norm, 0, c_.width);
    m->tied_head = c_.tied_head;
    if (c_.tied_head) {
      // Not transformed: load-time quantisation leaves embeddings and a tied head alone.
      m->head = Linear(r_.path(Role::head, 0), m->embedding.weight(), {});
      // The embedding keeps its own handle on the planes, so only the copy is dropped here.
      if (pack_) m->head.pack(false);
    } else {
      m->head = linear(Role::head, 0, c_.vocabulary, c_.width);
    }
    return m;
  }

 private:
  Linear linear(Role role, int64_t layer, int64_t n, int64_t k, int64_t expert = 0) {
    std::string path = r_.path(role, layer, expert);
    Weight w = r_.matrix(role, layer, n, k, expert);
    if (transform_ && role != Role::router) w = transform_(std::move(w), role, path);
    Linear l(path, std::move(w),
             r_.vector(role, layer, ".bias", n, announces_bias(c_, role), expert));
    if (pack_) l.pack(false);
    return l;
  }

  void make_ropes() {
    if (!c_.rotary) return;
    int64_t dim = c_.rope_dim > 0 ? c_.rope_dim : c_.head_dim;
    global_rope_ = Rope(dim, c_.rope_theta, c_.rope_scaling);
    // Llama 3's frequencies, as GGUF stores them.
    const ParameterNames& names = r_.names();
    if (names.gguf && names.has("rope_freqs.weight"))
      global_rope_.divide_frequencies(frequency_divisors(names, dim / 2));
    local_rope_ = c_.local_rope_theta > 0 ? Rope(dim, c_.local_rope_theta, {}) : global_rope_;
  }

  static std::vector<float> frequency_divisors(const ParameterNames& names, int64_t n) {
    Weight w = names.get("rope_freqs.weight");
    HONE_CHECK(w.shape == Shape{n}, corrupt, "{}: rope_freqs.weight: expected [{}], got {}",
               names.source, n, shape_string(w.shape));
    Tensor t = decode_weight(w);
    return {t.data<float>(), t.data<float>() + n};
  }

  Block block(int64_t i) {
    Block b;
    b.residual_scale = c_.residual_scale;
    b.parallel = c_.parallel_residual;
    if (c_.pre_norms) b.mixer_norm = read_norm(c_, r_, Role::mixer_norm, i, c_.width);
    if (c_.pre_norms && c_.feed_forward != "none" && !c_.shared_norm)
      b.mlp_norm = read_norm(c_, r_, Role::mlp_norm, i, c_.width);
    if (c_.post_norms) {
      b.post_mixer_norm = read_norm(c_, r_, Role::post_mixer_norm, i, c_.width);
      b.post_mlp_norm = read_norm(c_, r_, Role::post_mlp_norm, i, c_.width);
    }
    if (c_.is_recurrent(i))
      b.mixer = made(c_.mixer, i);
    else
      b.mixer = attention(i);
    if (c_.feed_forward == "mlp" && c_.has_experts(i))
      b.feed_forward = mixture(i);
    else if (c_.feed_forward == "mlp")
      b.feed_forward = mlp(i);
    else if (c_.feed_forward != "none")
      b.feed_forward = made(c_.feed_forward, i);
    return b;
  }

  std::unique_ptr<Mixer> made(const std::string& name, int64_t i) {
    std::unique_ptr<Mixer> m = make_mixer(name, c_.mixer_spec(i));
    r_.fill(*m, i, transform_);
    if (!pack_) return m;
    for (const MixerParameter& p : m->parameters())
      if (p.linear != nullptr && !p.bias) p.linear->pack(false);
    return m;
  }

  std::unique_ptr<Mlp> mlp(int64_t i) {
    auto m = std::make_unique<Mlp>();
    m->activation = c_.activation;
    if (c_.gated_mlp) m->gate = linear(Role::gate, i, c_.ffn, c_.width);
    m->up = linear(Role::up, i, c_.ffn, c_.width);
    m->down = linear(Role::down, i, c_.width, c_.ffn);
    return m;
  }

  std::unique_ptr<Mixture> mixture(int64_t i) {
    auto m = std::make_unique<Mixture>();
    m->router = linear(Role::router, i, c_.experts, c_.width);
    m->used = c_.experts_used;
    m->normalised = c_.normalised_experts;
    m->experts.resize(static_cast<size_t>(c_.experts));
    for (int64_t e = 0; e < c_.experts; ++e) {
      Mlp& own = m->experts[static_cast<size_t>(e)];
      own.activation = c_.activation;
      if (c_.gated_mlp) own.gate = linear(Role::expert_gate, i, c_.expert_ffn, c_.width, e);
      own.up = linear(Role::expert_up, i, c_.expert_ffn, c_.width, e);
      own.down = linear(Role::expert_down, i, c_.width, c_.expert_ffn, e);
    }
    return m;
  }

  std::unique_ptr<SoftmaxAttention> attention(int64_t i) {
    std::unique_ptr<SoftmaxAttention> a;
    if (c_.is_linearised(i))
      a = linearised();
    else
      a = std::make_unique<SoftmaxAttention>();
    bool local = !c_.windowed.empty() && c_.windowed[i];
    a->spec.heads = c_.heads;
    a->spec.kv_heads = c_.kv_heads;
    a->spec.k_dim = a->spec.v_dim = c_.head_dim;
    a->spec.scale = c_.attention_scale > 0 ? c_.attention_scale
                                           : 1.0f / std::sqrt(static_cast<float>(c_.head_dim));
    a->spec.softcap = c_.attention_softcap;
    if (c_.alibi > 0) a->spec.alibi.slopes = alibi_slopes(c_.heads, c_.alibi);
    if (c_.scaled_alibi)
      for (float& slope : a->spec.alibi.slopes) slope *= a->spec.scale;
    a->spec.pattern = c_.pattern(i);
    a->q = linear(Role::q, i, c_.heads * c_.head_dim, c_.width);
    a->k = linear(Role::k, i, c_.kv_heads * c_.head_dim, c_.width);
    a->v = linear(Role::v, i, c_.kv_heads * c_.head_dim, c_.width);
    a->o = linear(Role::o, i, c_.width, c_.heads * c_.head_dim);
    if (c_.gated_attention)
      a->gate = linear(Role::attention_gate, i, c_.heads * c_.head_dim, c_.width);
    if (c_.qk_norm) {
      a->q_norm = read_norm(c_, r_, Role::q_norm, i, role_rows(Role::q_norm, c_));
      a->k_norm = read_norm(c_, r_, Role::k_norm, i, role_rows(Role::k_norm, c_));
    }
    if (c_.rotary) a->rope = local ? local_rope_ : global_rope_;
    if (c_.is_linearised(i)) r_.fill(*a, i, nullptr);
    return a;
  }

  std::unique_ptr<LinearisedAttention> linearised() {
    auto a = std::make_unique<LinearisedAttention>();
    a->window = c_.linear_window;
    a->features = c_.linear_features;
    return a;
  }

  const ModelConfig& c_;
  const ParameterReader& r_;
  const WeightTransform& transform_;
  bool pack_;
  Rope global_rope_, local_rope_;
};

}  // namespace

const Slot* ParameterReader::slot(Role role) const {
  for (const Slot& s : family_.slots)
    if (s.role == role) return &s;
  return nullptr;
}

std::string ParameterReader::stored_name(const Slot& s, int64_t layer, const char* suffix,
                                         int64_t expert) const {
  std::string name = slot_name(names_.gguf ? s.gguf : s.hf, layer, expert) + suffix;
  if (names_.gguf || names_.has(name)) return name;
  // Base models are saved without the language model's prefix ("h.0..." for "transformer.h.0...").
  size_t dot = name.find('.');
  std::string bare = dot == std::string::npos ? name : name.substr(dot + 1);
  return names_.has(bare) ? bare : name;
}

bool ParameterReader::has(Role role, int64_t layer) const {
  const Slot* s = slot(role);
  return s != nullptr && names_.has(stored_name(*s, layer, ".weight"));
}

std::optional<Weight> ParameterReader::stored(Role role, int64_t layer) const {
  const Slot* s = slot(role);
  if (s == nullptr) return std::nullopt;
  std::string name = stored_name(*s, layer, ".weight");
  if (!names_.has(name)) return std::nullopt;
  return names_.get(name);
}

std::string ParameterReader::path(Role role, int64_t layer, int64_t expert) const {
  for (const Slot& s : family_.canonical().slots)
    if (s.role == role) return module_path(s, layer, expert);
  fail(ErrorKind::internal, "{}: no slot for this role", family_.name);
}

Weight expert_of(Weight all, int64_t expert) {
  const int64_t n = all.shape[1], total = checked_mul(all.shape[0], n, "experts");
  all.shape.erase(all.shape.begin());
  for (auto& [name, plane] : all.planes) {
    if (plane.rank() == 3) plane = plane.reshape({total, plane.dim(2)});
    HONE_CHECK(plane.dim(0) == total, unsupported, "experts stored as {} cannot be taken apart",
               all.encoding);
    plane = plane.rows(expert * n, (expert + 1) * n);
  }
  return all;
}

Weight ParameterReader::matrix(Role role, int64_t layer, int64_t n, int64_t k,
                               int64_t expert) const {
  const Slot* s = slot(role);
  HONE_ASSERT(s != nullptr);
  std::string name = stored_name(*s, layer, ".weight", expert);
  HONE_CHECK(names_.has(name), corrupt, "{}: the tensor '{}' is missing", names_.source, name);
  Weight w = names_.get(name);
  // Quantised layouts store [N, K] whatever the float checkpoint did.
  if (s->hf_transposed && !names_.gguf && w.planes.contains("values"))
    w = transposed_weight(w, name);
  const bool all_experts = names_.gguf && is_expert_role(role);
  Shape expected{s->parts > 0 ? stored_rows(family_, *s, config_) : n, k};
  if (all_experts) expected.insert(expected.begin(), config_.experts);
  HONE_CHECK(w.shape == expected, corrupt, "{}: tensor '{}': expected shape {}, got {}",
             names_.source, name, shape_string(expected), shape_string(w.shape));
  if (all_experts) w = expert_of(std::move(w), expert);
  const Encoding& e = encoding(w.encoding);
  e.validate(w);
  auto permute = [&](const std::vector<int64_t>& order) {
    Weight stored = std::exchange(w, e.permute_rows(w, order));
    for (const auto& [plane, t] : stored.planes) t.release_pages();
  };
  if (s->parts > 0) permute(part_rows(family_, *s, config_, names_.gguf));
  if (s->paired_rows(names_.gguf))
    permute(unpair_rows(n, config_.head_dim, names_.gguf ? 0 : config_.rope_dim));
  return w;
}

Tensor ParameterReader::vector(Role role, int64_t layer, const char* suffix, int64_t n,
                               bool required, int64_t expert) const {
  const Slot* s = slot(role);
  HONE_ASSERT(s != nullptr);
  std::string name = stored_name(*s, layer, suffix, expert);
  if (!names_.has(name)) {
    HONE_CHECK(!required, corrupt, "{}: the tensor '{}' is missing", names_.source, name);
    return {};
  }
  Weight w = names_.get(name);
  Shape expected{s->parts > 0 ? stored_rows(family_, *s, config_) : n};
  HONE_CHECK(w.shape == expected, corrupt, "{}: tensor '{}': expected shape {}, got {}",
             names_.source, name, shape_string(expected), shape_string(w.shape));
  Tensor t = decode_weight(w);
  for (const auto& [plane, stored] : w.planes) stored.release_pages();
  if (s->parts > 0) {
    Tensor part = Tensor::empty({n}, DType::f32);
    auto order = part_rows(family_, *s, config_, names_.gguf);
    for (int64_t i = 0; i < n; ++i) part.mutable_data<float>()[i] = t.data<float>()[order[i]];
    t = part;
  }
  if (s->paired_rows(names_.gguf)) {
    Tensor sorted = Tensor::empty({n}, DType::f32);
    auto order = unpair_rows(n, config_.head_dim, names_.gguf ? 0 : config_.rope_dim);
    for (int64_t i = 0; i < n; ++i) sorted.mutable_data<float>()[i] = t.data<float>()[order[i]];
    t = sorted;
  }
  bool is_norm = role == Role::final_norm || role == Role::mixer_norm ||
                 role == Role::post_mixer_norm || role == Role::mlp_norm ||
                 role == Role::post_mlp_norm || role == Role::embedding_norm ||
                 role == Role::q_norm || role == Role::k_norm;
  if (names_.gguf && is_norm && family_.gguf_norm_shift != 0) {
    float* values = t.mutable_data<float>();
    for (int64_t i = 0; i < n; ++i) values[i] -= family_.gguf_norm_shift;
  }
  return t;
}

Weight ParameterReader::part_of(const MixerSlot& s, const std::string& name,
                                const Shape& shape) const {
  HONE_CHECK(names_.has(name), corrupt, "{}: the tensor '{}' is missing", names_.source, name);
  Weight w = names_.get(name);
  const Shape expected = stored_shape(s, shape, config_.mixing.heads);
  HONE_CHECK(w.shape == expected, corrupt, "{}: tensor '{}': expected shape {}, got {}",
             names_.source, name, shape_string(expected), shape_string(w.shape));
  if (s.parts == 0 && !s.transposed && !s.filter && shape.size() == 2) {
    encoding(w.encoding).validate(w);
    return w;
  }
  auto values = w.planes.find("values");
  HONE_CHECK(values != w.planes.end(), unsupported, "{}: tensor '{}': must be float, not {}",
             names_.source, name, w.encoding);
  Tensor t = values->second;
  if (s.parts > 0) t = t.rows(s.part, s.part + 1);
  t = s.transposed ? transposed(t.reshape({shape[1], shape[0]})) : t.reshape(shape);
  return float_weight(t);
}

void ParameterReader::fill(Mixer& mixer, int64_t layer, const WeightTransform& change) const {
  const std::vector<Linear*> sides = mixer.sides();
  for (const MixerParameter& p : mixer.parameters()) {
    const MixerSlot& s = mixer_slot(family_, p.name);
    const std::string name = slot_name(s.hf, layer);
    if (p.linear != nullptr && !p.bias) {
      Weight w = part_of(s, name, p.shape);
      const MixerSlot& named = mixer_slot(family_.canonical(), p.name);
      std::string path = slot_name(named.hf, layer);
      if (path.ends_with(".weight")) path.resize(path.size() - std::strlen(".weight"));
      if (named.parts > 0) path += fmt::format(".{}", named.part);
      if (change && std::ranges::find(sides, p.linear) == sides.end())
        w = change(std::move(w), Role::o, path);
      *p.linear = Linear(path, std::move(w), {});
      continue;
    }
    auto vector = [&](const std::string& of) {
      Tensor t = part_of(s, of, p.shape).planes.at("values").to(DType::f32);
      float* x = t.mutable_data<float>();
      for (int64_t i = 0; i < t.numel(); ++i) {
        if (s.kept == MixerSlot::Kept::complement) x[i] = 1 - x[i];
        if (s.kept == MixerSlot::Kept::decay) x[i] = std::log(-std::log(x[i]));
      }
      return t;
    };
    const std::string own = slot_name(mixer_slot(family_.canonical(), p.name).hf, layer);
    if (p.norm != nullptr) {
      p.norm->name = own;
      p.norm->weight = vector(name + ".weight");
      if (p.norm->kind == Norm::Kind::layer) p.norm->bias = vector(name + ".bias");
    } else if (p.bias) {
      p.linear->set_bias(vector(name));
    } else {
      *p.vector = {own, vector(name)};
    }
  }
}

std::vector<int64_t> unpair_rows(int64_t rows, int64_t head_dim, int64_t paired) {
  std::vector<int64_t> order(static_cast<size_t>(rows));
  if (paired == 0) paired = head_dim;
  int64_t half = paired / 2;
  for (int64_t i = 0; i < rows; ++i) {
    int64_t head = i / head_dim, in_head = i % head_dim;
    order[i] = in_head < paired ? head * head_dim + 2 * (in_head % half) + in_head / half : i;
  }
  return order;
}

std::vector<int64_t> pair_rows(int64_t rows, int64_t head_dim, int64_t paired) {
  std::vector<int64_t> canonical = unpair_rows(rows, head_dim, paired), order(canonical.size());
  for (size_t i = 0; i < canonical.size(); ++i) order[canonical[i]] = static_cast<int64_t>(i);
  return order;
}

std::unique_ptr<Model> build_model(const ModelConfig& config, const ParameterReader& reader,
                                   const WeightTransform& transform, bool pack) {
  return Builder(config, reader, transform, pack).build();
}

}  // namespace hone
