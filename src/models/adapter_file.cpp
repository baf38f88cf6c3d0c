#include "models/adapter_file.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "encodings/encoding.h"
#include "formats/file_util.h"
#include "formats/peft_modules.h"
#include "formats/printable.h"
#include "models/decoder.h"
#include "tensor/transpose.h"

namespace hone {
namespace {

constexpr const char* kWeight = ".weight";

// A matrix of the base that may be adapted.
struct Module {
  const Slot* slot = nullptr;
  std::string hf, gguf;  // without ".weight"
};

// All of them in the order of the slots, experts' apart; the parts of a fused matrix are one.
std::vector<Module> modules_of(const Family& family, const ModelConfig& config) {
  std::vector<Module> all;
  auto add = [&](const Slot& s, int64_t layer) {
    if (s.part == 0) all.push_back({&s, slot_name(s.hf, layer), slot_name(s.gguf, layer)});
  };
  for (const Slot& s : family.slots)
    if (s.role == Role::embedding || s.role == Role::head) add(s, 0);
  for (int64_t i = 0; i < config.layers; ++i)
    for (const Slot& s : family.slots)
      if (is_layer_role(s.role) && is_linear_role(s.role) && s.role < Role::expert_gate) add(s, i);
  return all;
}

// The rows of B in GGUF's order, or back.
Weight ordered_rows(const Weight& b, const Module& m, const ModelConfig& config, bool to_gguf,
                    const std::string& source) {
  if (!m.slot->gguf_paired_rows) return b;
  const int64_t heads = m.slot->role == Role::q ? config.heads : config.kv_heads;
  HONE_CHECK(b.rows() == heads * config.head_dim, corrupt,
             "{}: {}: B has {} rows, the base's {} heads of {} make {}", source, m.hf, b.rows(),
             heads, config.head_dim, heads * config.head_dim);
  const auto order =
      to_gguf ? pair_rows(b.rows(), config.head_dim) : unpair_rows(b.rows(), config.head_dim);
  return encoding(b.encoding).permute_rows(b, order);
}

// Row i of the parts of a matrix, one below the other as hone has them, is row order[i] of HF's;
// empty where both orders are the same, and of all parts but the first.
std::vector<int64_t> hf_rows(const Family& family, const Slot& s, const ModelConfig& config) {
  if (s.hf_paired_rows)
    return unpair_rows(role_rows(s.role, config), config.head_dim, config.rope_dim);
  if (!s.by_head(false) || s.part > 0) return {};
  std::vector<int64_t> all;
  for (int part = 0; part < s.parts; ++part)
    for (const Slot& other : family.slots) {
      if (other.parts == 0 || other.part != part || std::string_view(other.hf) != s.hf) continue;
      // Adapters do not see a gate as a part of what it is stored with (peft_modules).
      if (other.role != Role::q && other.role != Role::k && other.role != Role::v) return {};
      const std::vector<int64_t> own = part_rows(family, other, config, false);
      all.insert(all.end(), own.begin(), own.end());
    }
  return all;
}

// Row i becomes what row order[i] was, or with `back` the reverse.
Tensor permuted(const Tensor& t, const std::vector<int64_t>& order, bool back) {
  Tensor out = Tensor::empty(t.shape(), t.dtype());
  const auto bytes = static_cast<size_t>(t.byte_size()) / order.size();
  for (size_t i = 0; i < order.size(); ++i) {
    const auto stored = static_cast<size_t>(order[i]);
    std::memcpy(out.mutable_raw() + (back ? stored : i) * bytes,
                t.raw() + (back ? i : stored) * bytes, bytes);
  }
  return out;
}

Tensor scaled(const Tensor& t, double factor) {
  Tensor out = t.to(DType::f32);
  float* values = out.mutable_data<float>();
  for (int64_t i = 0; i < out.numel(); ++i)
    values[i] = static_cast<float>(double{values[i]} * factor);
  return out;
}

// Floats as they are, everything else as f32.
Tensor values_of(const Weight& w) {
  const auto plain = w.planes.find("values");
  const bool known = w.encoding == "f32" || w.encoding == "f16" || w.encoding == "bf16";
  return known && plain != w.planes.end() ? plain->second : decode_weight(w);
}

// Names that mean these modules and no others: the last parts, where all modules that end so are
// meant, else the whole names.
std::vector<std::string> target_names(const std::vector<Module>& all,
                                      const std::set<std::string>& meant) {
  auto leaf = [](const std::string& name) { return name.substr(name.rfind('.') + 1); };
  std::set<std::string> leaves;
  for (const std::string& name : meant) leaves.insert(leaf(name));
  const bool whole = std::ranges::any_of(
      all, [&](const Module& m) { return leaves.contains(leaf(m.hf)) && !meant.contains(m.hf); });
  const std::set<std::string>& names = whole ? meant : leaves;
  return {names.begin(), names.end()};
}

}  // namespace

bool is_adapter(const fs::path& path) {
  if (fs::is_directory(path)) return file_exists(path / "adapter_config.json");
  if (path.extension() != ".gguf" || !file_exists(path)) return false;
  return is_gguf_adapter(GgufFile::open(path));
}

PeftAdapter read_adapter(const fs::path& path, const Family& family, const ModelConfig& config) {
  if (fs::is_directory(path))
    return reordered(read_peft_directory(path), family, config, false, path.string());
  HONE_CHECK(file_exists(path), io, "{}: no such adapter", path.string());
  return peft_from_gguf(read_gguf_adapter(path), family, config, path.string());
}

void write_adapter_directory(const fs::path& path, const PeftAdapter& adapter, const Family& family,
                             const ModelConfig& config) {
  write_peft_directory(path, reordered(adapter, family, config, true, path.string()));
}

PeftAdapter reordered(PeftAdapter adapter, const Family& family, const ModelConfig& config,
                      bool to_hf, const std::string& source) {
  std::map<std::string, std::vector<int64_t>> orders;
  for (const Slot& s : family.slots) {
    std::vector<int64_t> order = hf_rows(family, s, config);
    if (order.empty()) continue;
    HONE_CHECK(adapter.config.peft_type != "PREFIX_TUNING" || !s.hf_paired_rows, unsupported,
               "{}: a prefix has keys in the order of its base, which hone changes for {}", source,
               family.name);
    for (int64_t i = 0; i < config.layers; ++i) orders[slot_name(s.hf, i)] = order;
  }
  if (orders.empty()) return adapter;
  for (auto& [name, t] : adapter.tensors) {
    PeftTensorName split = split_peft_name(name, source);
    // Without rows of the base: A, and what scales an input.
    if (split.part == "lora_A.weight" || (split.part == "ia3_l" && t.dim(0) == 1)) continue;
    if (split.part.empty()) {
      split.module.resize(std::min(split.module.size(), split.module.rfind('.')));
      if (split.module.ends_with(".base_layer")) split.module.resize(split.module.rfind('.'));
    }
    const auto found = orders.find(split.module);
    if (found == orders.end()) continue;
    const auto rows = std::ssize(found->second);
    HONE_CHECK(t.rank() > 0 && t.dim(0) == rows, corrupt,
               "{}: tensor {}: expected {} rows, as the base has, got {}", source, printable(name),
               rows, shape_string(t.shape()));
    t = permuted(t, found->second, to_hf);
  }
  return adapter;
}

PeftAdapter peft_from_gguf(const GgufAdapter& adapter, const Family& family,
                           const ModelConfig& config, const std::string& source) {
  const auto& known = family.gguf_architectures;
  HONE_CHECK(std::ranges::find(known, adapter.architecture) != known.end(), unsupported,
             "{}: an adapter of the architecture {}, but the base is a {} model", source,
             printable(adapter.architecture), family.name);
  const std::vector<Module> all = modules_of(family, config);
  std::map<std::string, const Module*> by_name;
  for (const Module& m : all) by_name[m.gguf + kWeight] = &m;
  PeftAdapter out;
  PeftConfig& c = out.config;
  c.peft_type = "LORA";
  c.task_type = "CAUSAL_LM";
  c.inference_mode = true;
  c.r = adapter.pairs[0].rank();
  // 0 stands for a factor of 1.
  c.lora_alpha = adapter.alpha == 0 ? static_cast<double>(c.r) : double{adapter.alpha};
  std::set<std::string> meant;
  for (const GgufLoraPair& pair : adapter.pairs) {
    const auto found = by_name.find(pair.name);
    HONE_CHECK(found != by_name.end(), unsupported, "{}: the tensor {} is no weight of the base",
               source, printable(pair.name));
    const Module& m = *found->second;
    meant.insert(m.hf);
    if (m.slot->hf_transposed) c.fan_in_fan_out = true;
    if (pair.rank() != c.r) {
      std::string expression;
      for (const char x : m.hf) expression += x == '.' ? std::string("\\.") : std::string(1, x);
      c.rank_pattern.emplace_back(expression, pair.rank());
      if (adapter.alpha == 0)
        c.alpha_pattern.emplace_back(expression, static_cast<double>(pair.rank()));
    }
    const Tensor a = values_of(pair.a),
                 b = values_of(ordered_rows(pair.b, m, config, false, source));
    const bool embedding = pair.embedding();
    out.tensors[peft_tensor_name({m.hf, embedding ? "lora_embedding_A" : "lora_A.weight"})] =
        embedding ? transposed(a) : a;
    out.tensors[peft_tensor_name({m.hf, embedding ? "lora_embedding_B" : "lora_B.weight"})] = b;
  }
  c.target_modules.names = target_names(all, meant);
  return out;
}

GgufAdapter gguf_from_peft(const PeftAdapter& adapter, const Family& family,
                           const ModelConfig& config, const std::string& source) {
  const PeftConfig& c = adapter.config;
  HONE_CHECK(c.peft_type == "LORA", unsupported,
             "{}: GGUF adapters hold LoRA, this one is of the type {}", source,
             printable(c.peft_type));
  HONE_CHECK(!c.use_dora, unsupported,
             "{}: GGUF adapters have no place for DoRA's row lengths; merge it into the model",
             source);
  const PeftMatcher matcher(c, source);
  GgufAdapter out;
  out.architecture = family.gguf_architectures[0];
  std::set<std::string> used;
  struct Pair {
    const Module* module;
    Tensor a, b;
    double factor, alpha;  // s, and s·r: what α has to be for it
  };
  std::vector<Pair> pairs;
  const std::vector<Module> modules = modules_of(family, config);
  for (const Module& m : modules) {
    const bool embedding = m.slot->role == Role::embedding;
    auto tensor = [&](const char* part) {
      const std::string name = peft_tensor_name({m.hf, part});
      const auto found = adapter.tensors.find(name);
      if (found == adapter.tensors.end()) return Tensor();
      used.insert(name);
      return found->second;
    };
    Tensor a = tensor(embedding ? "lora_embedding_A" : "lora_A.weight");
    Tensor b = tensor(embedding ? "lora_embedding_B" : "lora_B.weight");
    if (a.empty_handle() || b.empty_handle()) continue;
    HONE_CHECK(m.slot->role != Role::head || !config.tied_head, unsupported,
               "{}: the base's head is its embedding, GGUF has no tensor for {} alone; merge it "
               "into the model",
               source, m.hf);
    const double factor = matcher.scale(m.hf);
    pairs.push_back(
        {&m, embedding ? transposed(a) : a, b, factor, factor * static_cast<double>(b.dim(1))});
  }
  for (const auto& [name, t] : adapter.tensors)
    HONE_CHECK(used.contains(name), unsupported,
               "{}: GGUF adapters have no place for the tensor {} on a {} model", source,
               printable(name), family.name);
  HONE_CHECK(!pairs.empty() && pairs[0].alpha != 0, unsupported,
             "{}: α is 0, which GGUF adapters cannot say: there it means a factor of 1", source);
  // One α for all: the first pair's, and where another needs its own, its B takes the rest. α = 0
  // says a factor of 1 whatever the ranks are.
  const double alpha = pairs[0].alpha;
  const bool differ = std::ranges::any_of(pairs, [&](const Pair& p) { return p.alpha != alpha; });
  const bool plain =
      differ && std::ranges::all_of(pairs, [](const Pair& p) { return p.factor == 1; });
  for (const Pair& p : pairs) {
    const Tensor b = plain || p.alpha == alpha ? p.b : scaled(p.b, p.alpha / alpha);
    out.pairs.push_back({p.module->gguf + kWeight, float_weight(p.a),
                         ordered_rows(float_weight(b), *p.module, config, true, source)});
  }
  out.alpha = plain ? 0.0f : static_cast<float>(alpha);
  return out;
}

}  // namespace hone
