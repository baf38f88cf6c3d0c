// Tiny random checkpoints of every model family, for tests: a directory with config.json, weights
// and a byte tokenizer. Shapes come from the family's own config reader and slots, so that a new
// family needs one line here, its config.json; a family without one fails the contract test.
#pragma once

#include <nlohmann/json.hpp>
#include <set>

#include "models/loader.h"
#include "testing.h"

namespace hone::testing {

struct TinyFixture {
  const char* name;    ///< of the test
  const char* family;  ///< Family::name
  const char* config;  ///< config.json
  bool biases;         ///< on every Linear but the head, and on norms that can have one
};

inline void PrintTo(const TinyFixture& f, std::ostream* out) { *out << f.name; }

/// Two blocks, but where a family's pattern of layers needs more. The vocabulary is tiny_tokens().
inline const std::vector<TinyFixture>& tiny_fixtures() {
  static const std::vector<TinyFixture> kFixtures = {
      {"llama", "llama", R"({"model_type": "llama", "vocab_size": 272, "hidden_size": 128,
         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 256, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
         "rope_theta": 10000.0, "tie_word_embeddings": true})",
       false},
      {"llama_untied", "llama", R"({"model_type": "llama", "vocab_size": 272, "hidden_size": 64,
         "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
         "intermediate_size": 96, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
         "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": false,
         "rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0,
           "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 8192}})",
       true},
      {"mistral", "mistral", R"({"model_type": "mistral", "vocab_size": 272, "hidden_size": 64,
         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 96, "max_position_embeddings": 256, "sliding_window": null,
         "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false})",
       false},
      {"qwen2", "qwen2", R"({"model_type": "qwen2", "vocab_size": 272, "hidden_size": 64,
         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 96, "max_position_embeddings": 256, "use_sliding_window": false,
         "rope_theta": 1000000.0, "tie_word_embeddings": true})",
       true},
      {"qwen3", "qwen3", R"({"model_type": "qwen3", "vocab_size": 272, "hidden_size": 64,
         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "head_dim": 48, "intermediate_size": 96, "max_position_embeddings": 256,
         "rope_theta": 1000000.0, "tie_word_embeddings": false})",
       false},
      {"granite", "granite", R"({"model_type": "granite", "vocab_size": 272, "hidden_size": 64,
         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 96, "max_position_embeddings": 256, "embedding_multiplier": 3.0,
         "attention_multiplier": 0.125, "residual_multiplier": 0.5, "logits_scaling": 2.0,
         "tie_word_embeddings": true})",
       false},
      {"olmo2", "olmo2", R"({"model_type": "olmo2", "vocab_size": 272, "hidden_size": 64,
         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 96, "max_position_embeddings": 256, "tie_word_embeddings": false})",
       false},
      {"gemma2", "gemma2", R"({"model_type": "gemma2", "vocab_size": 272, "hidden_size": 64,
         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "head_dim": 48, "intermediate_size": 64, "max_position_embeddings": 256,
         "sliding_window": 16, "query_pre_attn_scalar": 48})",
       false},
      {"gpt2", "gpt2", R"({"model_type": "gpt2", "vocab_size": 272, "n_embd": 128, "n_layer": 2,
         "n_head": 4, "n_inner": 256, "n_positions": 256})",
       true},
      {"gemma3", "gemma3", R"({"model_type": "gemma3_text", "vocab_size": 272, "hidden_size": 64,
         "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
         "head_dim": 32, "intermediate_size": 64, "max_position_embeddings": 256,
         "sliding_window": 16, "query_pre_attn_scalar": 32, "rope_theta": 1000000.0,
         "rope_local_base_freq": 10000.0})",
       false},
      {"mamba2", "mamba2", R"({"model_type": "mamba2", "vocab_size": 272, "hidden_size": 64,
         "num_hidden_layers": 2, "num_heads": 4, "head_dim": 32, "n_groups": 2, "state_size": 32,
         "conv_kernel": 4, "use_conv_bias": true, "layer_norm_epsilon": 1e-5,
         "max_position_embeddings": 256, "tie_word_embeddings": false})",
       false},
      {"qwen3_5", "qwen3_5", R"({"model_type": "qwen3_5_text", "vocab_size": 272,
         "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2,
         "num_key_value_heads": 1, "head_dim": 64, "intermediate_size": 96,
         "max_position_embeddings": 256, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
         "linear_key_head_dim": 32, "linear_value_head_dim": 32, "linear_conv_kernel_dim": 4,
         "rms_norm_eps": 0.01, "layer_types": ["linear_attention", "linear_attention", "linear_attention",
           "full_attention"], "rope_theta": 10000.0, "tie_word_embeddings": false})",
       false},
      {"rwkv5", "rwkv5", R"({"model_type": "rwkv5", "vocab_size": 272, "hidden_size": 64,
         "num_hidden_layers": 2, "head_size": 32, "attention_hidden_size": 64,
         "intermediate_size": 96, "context_length": 256, "tie_word_embeddings": false})",
       false},
      {"rwkv6", "rwkv6", R"({"model_type": "rwkv6", "vocab_size": 272, "hidden_size": 64,
         "num_hidden_layers": 2, "head_size": 32, "attention_hidden_size": 64,
         "intermediate_size": 96, "context_length": 256, "time_mix_extra_dim": 8,
         "time_decay_extra_dim": 16, "tie_word_embeddings": false})",
       false},
      {"rwkv7", "rwkv7", R"({"model_type": "rwkv7", "vocab_size": 272, "hidden_size": 64,
         "num_hidden_layers": 4, "head_dim": 32, "intermediate_size": 96,
         "max_position_embeddings": 256, "decay_low_rank_dim": 16, "a_low_rank_dim": 8,
         "v_low_rank_dim": 8, "gate_low_rank_dim": 16, "tie_word_embeddings": false})",
       false},
      {"transformer_xl", "memory_transformer", R"({"model_type": "memory_transformer",
         "vocab_size": 272, "mixer": "transformer_xl", "segment": 7, "memory": 10,
         "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 96, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
         "tie_word_embeddings": true})",
       false},
      {"recurrent_memory", "memory_transformer", R"({"model_type": "memory_transformer",
         "vocab_size": 272, "mixer": "segment", "segment": 16, "memory_tokens": 2,
         "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 96, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
         "tie_word_embeddings": false})",
       false},
      {"infini", "memory_transformer", R"({"model_type": "memory_transformer",
         "vocab_size": 272, "mixer": "infini", "segment": 7,
         "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 96, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
         "tie_word_embeddings": false})",
       false},
      {"gpt_neox", "gpt_neox", R"({"model_type": "gpt_neox", "vocab_size": 272,
         "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 96, "max_position_embeddings": 256, "hidden_act": "gelu",
         "rotary_pct": 0.25, "rotary_emb_base": 10000, "use_parallel_residual": true,
         "layer_norm_eps": 1e-5, "tie_word_embeddings": false})",
       true},
      {"gpt_neox_serial", "gpt_neox", R"({"model_type": "gpt_neox", "vocab_size": 272,
         "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 96, "max_position_embeddings": 256, "hidden_act": "gelu",
         "rotary_pct": 0.5, "use_parallel_residual": false, "layer_norm_eps": 1e-5,
         "tie_word_embeddings": false})",
       true},
      {"opt", "opt", R"({"model_type": "opt", "vocab_size": 272, "hidden_size": 64,
         "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 96,
         "max_position_embeddings": 256, "word_embed_proj_dim": 64, "do_layer_norm_before": true,
         "activation_function": "relu", "enable_bias": true, "tie_word_embeddings": true})",
       true},
      {"gptj", "gptj", R"({"model_type": "gptj", "vocab_size": 272, "n_embd": 64, "n_layer": 2,
         "n_head": 2, "n_inner": 96, "n_positions": 256, "rotary_dim": 8,
         "layer_norm_epsilon": 1e-5, "tie_word_embeddings": false})",
       false},
      {"gpt_bigcode", "gpt_bigcode", R"({"model_type": "gpt_bigcode", "vocab_size": 272,
         "n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 96, "n_positions": 256,
         "multi_query": true, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": true})",
       true},
      {"phi3", "phi3", R"({"model_type": "phi3", "vocab_size": 272, "hidden_size": 64,
         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 96, "max_position_embeddings": 256, "sliding_window": 24,
         "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false})",
       false},
      {"stablelm", "stablelm", R"({"model_type": "stablelm", "vocab_size": 272,
         "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 256,
         "use_qkv_bias": true, "partial_rotary_factor": 0.25, "rope_theta": 10000.0,
         "tie_word_embeddings": false})",
       false},
      {"stablelm_parallel", "stablelm", R"({"model_type": "stablelm", "vocab_size": 272,
         "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 256,
         "use_parallel_residual": true, "partial_rotary_factor": 0.5,
         "tie_word_embeddings": true})",
       false},
      {"falcon", "falcon", R"({"model_type": "falcon", "vocab_size": 272, "hidden_size": 64,
         "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_hidden_size": 96,
         "max_position_embeddings": 256, "new_decoder_architecture": false, "multi_query": true,
         "parallel_attn": true, "bias": false, "alibi": false, "tie_word_embeddings": true})",
       false},
      {"falcon_40b", "falcon_40b", R"({"model_type": "falcon", "vocab_size": 272,
         "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_kv_heads": 2,
         "ffn_hidden_size": 96, "max_position_embeddings": 256, "new_decoder_architecture": true,
         "parallel_attn": true, "bias": false, "alibi": false, "tie_word_embeddings": true})",
       false},
      {"falcon_rw", "falcon_rw", R"({"model_type": "falcon", "vocab_size": 272, "hidden_size": 64,
         "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_hidden_size": 96,
         "max_position_embeddings": 256, "new_decoder_architecture": false, "multi_query": false,
         "parallel_attn": false, "bias": true, "alibi": true, "tie_word_embeddings": true})",
       true},
      {"mixtral", "mixtral", R"({"model_type": "mixtral", "vocab_size": 272, "hidden_size": 64,
         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 96, "max_position_embeddings": 256, "num_local_experts": 4,
         "num_experts_per_tok": 2, "sliding_window": null, "rms_norm_eps": 1e-5,
         "rope_theta": 10000.0, "tie_word_embeddings": false})",
       false},
      {"qwen3_moe", "qwen3_moe", R"({"model_type": "qwen3_moe", "vocab_size": 272,
         "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 48, "intermediate_size": 96,
         "moe_intermediate_size": 32, "max_position_embeddings": 256, "num_experts": 5,
         "num_experts_per_tok": 2, "norm_topk_prob": true, "tie_word_embeddings": false})",
       false},
      {"bloom", "bloom", R"({"model_type": "bloom", "vocab_size": 272, "hidden_size": 64,
         "n_layer": 2, "n_head": 4, "seq_length": 256, "layer_norm_epsilon": 1e-5,
         "tie_word_embeddings": true})",
       true},
      {"mpt", "mpt", R"({"model_type": "mpt", "vocab_size": 272, "d_model": 64, "n_layers": 2,
         "n_heads": 4, "expansion_ratio": 2, "max_seq_len": 256, "tie_word_embeddings": true})",
       false},
  };
  return kFixtures;
}

/// One of each structure, for what does not look at names: whole registries of passes and adapters
/// run on them.
inline std::vector<TinyFixture> distinct_fixtures() {
  const std::set<std::string> like_others = {
      "mistral", "qwen2", "gpt_neox_serial", "opt",     "stablelm", "stablelm_parallel",
      "falcon",  "mpt",   "gpt_bigcode",     "mixtral", "rwkv5",    "rwkv6"};
  std::vector<TinyFixture> some;
  for (const TinyFixture& f : tiny_fixtures())
    if (!like_others.contains(f.name)) some.push_back(f);
  return some;
}

/// Those of them whose layers are softmax attention, for what is defined on these alone.
inline std::vector<TinyFixture> softmax_fixtures();

inline const TinyFixture& tiny_fixture(const std::string& name) {
  for (const TinyFixture& f : tiny_fixtures())
    if (f.name == name) return f;
  throw std::runtime_error("no tiny fixture is called " + name);
}

/// <unk>, <s>, </s>, the 256 bytes, and some tokens of several bytes: 272 in all.
inline TokenizerSpec tiny_tokens() {
  TokenizerSpec s;
  s.model = "llama";
  s.source = "tiny tokenizer";
  auto add = [&](const std::string& text, TokenType type) {
    s.tokens.push_back(text);
    s.token_types.push_back(static_cast<int32_t>(type));
    s.scores.push_back(-static_cast<float>(s.tokens.size()));
  };
  add("<unk>", TokenType::unknown);
  add("<s>", TokenType::control);
  add("</s>", TokenType::control);
  for (int b = 0; b < 256; ++b) add(fmt::format("<0x{:02X}>", b), TokenType::byte);
  for (const char* text : {"a", "b", "c", "d", "e", "é", "ab", "cd", "abc", "de", "▁", "▁a", "▁ab"})
    add(text, TokenType::normal);
  s.unk = 0;
  s.bos = 1;
  s.eos = 2;
  s.add_bos = true;
  s.add_space_prefix = false;
  return s;
}

inline const Family& family_named(const std::string& name) {
  for (const Family* f : families())
    if (f->name == name) return *f;
  throw std::runtime_error("no family is called " + name);
}

inline ModelConfig tiny_config(const TinyFixture& fixture) {
  const Family& family = family_named(fixture.family);
  ModelConfig c;
  family.from_hf(parse_json(fixture.config, fixture.name), c);
  c.family = family.name;
  c.validate(fixture.name);
  return c;
}

inline std::vector<TinyFixture> softmax_fixtures() {
  std::vector<TinyFixture> some;
  for (const TinyFixture& f : distinct_fixtures())
    if (tiny_config(f).mixer.empty()) some.push_back(f);
  return some;
}

/// [N, K] of a matrix, [n] of a vector; biases have the rows of their matrix.
inline Shape role_shape(Role role, const ModelConfig& c) {
  switch (role) {
    case Role::embedding:
    case Role::head:
      return {c.vocabulary, c.width};
    case Role::positions:
      return {c.position_offset + c.context, c.width};
    case Role::memory:
      return {c.memory_tokens, c.width};
    case Role::embedding_norm:
    case Role::final_norm:
    case Role::mixer_norm:
    case Role::post_mixer_norm:
    case Role::mlp_norm:
    case Role::post_mlp_norm:
      return {c.width};
    case Role::q_norm:
      return {c.whole_qk_norm ? c.heads * c.head_dim : c.head_dim};
    case Role::k_norm:
      return {c.whole_qk_norm ? c.kv_heads * c.head_dim : c.head_dim};
    case Role::q:
    case Role::attention_gate:
      return {c.heads * c.head_dim, c.width};
    case Role::k:
    case Role::v:
      return {c.kv_heads * c.head_dim, c.width};
    case Role::o:
      return {c.width, c.heads * c.head_dim};
    case Role::gate:
    case Role::up:
      return {c.ffn, c.width};
    case Role::down:
      return {c.width, c.ffn};
    case Role::expert_gate:
    case Role::expert_up:
      return {c.expert_ffn, c.width};
    case Role::expert_down:
      return {c.width, c.expert_ffn};
    case Role::router:
      return {c.experts, c.width};
  }
  throw std::runtime_error("a role without a shape");
}

/// Those of a mixer of nn/registry.h.
inline void add_mixer_tensors(const TinyFixture& fixture, const ModelConfig& c,
                              const std::string& mixer, int64_t layer, uint32_t& seed,
                              std::map<std::string, Tensor>& out) {
  const Family& family = family_named(fixture.family);
  std::unique_ptr<Mixer> made = make_mixer(mixer, c.mixer_spec(layer));
  for (const MixerParameter& p : made->parameters()) {
    const MixerSlot& s = mixer_slot(family, p.name);
    if (s.part > 0) continue;
    const std::string name = slot_name(s.hf, layer);
    const Shape shape = stored_shape(s, p.shape, c.mixing.heads);
    const bool matrix = p.linear != nullptr && !p.bias;
    Tensor t = random_tensor(shape, seed++,
                             matrix ? 0.7f / std::sqrt(static_cast<float>(p.shape[1])) : 0.3f);
    if (p.norm != nullptr) {
      for (int64_t i = 0; i < t.numel(); ++i) t.mutable_data<float>()[i] += 1;
      if (p.norm->kind == Norm::Kind::layer)
        out[name + ".bias"] = random_tensor(shape, seed++, 0.1f);
    }
    out[p.norm != nullptr ? name + ".weight" : name] = t;
  }
}

/// Every tensor of the checkpoint under its Hugging Face name. Norm weights differ from entry to
/// entry, so that who forgets to apply one is found out.
inline std::map<std::string, Tensor> tiny_tensors(const TinyFixture& fixture, uint32_t seed = 1) {
  ModelConfig c = tiny_config(fixture);
  std::map<std::string, Tensor> out;
  auto add = [&](const Slot& s, int64_t layer, int64_t expert) {
    std::string name = slot_name(s.hf, layer, expert);
    Shape shape = role_shape(s.role, c);
    bool matrix = shape.size() == 2;
    if (s.parts > 0) shape[0] = stored_rows(family_named(fixture.family), s, c);
    int64_t rows = shape[0];
    if (s.hf_transposed) std::swap(shape[0], shape[1]);
    float scale = 0.1f;
    if (matrix && is_layer_role(s.role))
      scale = 0.7f / std::sqrt(static_cast<float>(s.hf_transposed ? shape[0] : shape[1]));
    Tensor t = random_tensor(shape, seed++, scale);
    if (!matrix)
      for (int64_t i = 0; i < rows; ++i) t.mutable_data<float>()[i] += 1 - c.norm_offset;
    out[name + ".weight"] = t;
    bool has_bias = matrix ? announces_bias(c, s.role)
                           : c.norm == Norm::Kind::layer && (fixture.biases || c.norm_bias);
    if (has_bias) out[name + ".bias"] = random_tensor({rows}, seed++, 0.1f);
  };
  for (const Slot& s : family_named(fixture.family).slots)
    for (int64_t layer = 0; layer < (is_layer_role(s.role) ? c.layers : 1); ++layer)
      for (int64_t e = 0; e < (is_expert_role(s.role) ? c.experts : 1); ++e)
        if (s.part == 0 && has_role(c, s.role, layer)) add(s, layer, e);
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    if (c.is_recurrent(layer)) add_mixer_tensors(fixture, c, c.mixer, layer, seed, out);
    if (c.feed_forward != "mlp" && c.feed_forward != "none")
      add_mixer_tensors(fixture, c, c.feed_forward, layer, seed, out);
  }
  return out;
}

inline void write_tiny(const fs::path& path, const Json& config,
                       const std::map<std::string, Tensor>& tensors) {
  CheckpointContents c;
  c.config = config;
  TokenizerSpec tokens = tiny_tokens();
  c.texts = {{"tokenizer.json", tokenizer_json_from_spec(tokens)},
             {"tokenizer_config.json", tokenizer_config_json_from_spec(tokens)}};
  for (const auto& [name, t] : tensors) {
    Weight w = float_weight(t);
    c.weights.push_back({name, w.shape, w.encoding, w.params});
  }
  c.weight = [&](const std::string& name) { return float_weight(tensors.at(name)); };
  write_checkpoint("hf", path, c);
}

inline void write_tiny(const fs::path& path, const TinyFixture& fixture, uint32_t seed = 1) {
  write_tiny(path, parse_json(fixture.config, fixture.name), tiny_tensors(fixture, seed));
}

/// Loaded for passes and export: canonical weights are kept.
inline LoadedModel load_editable(const fs::path& path) {
  LoadOptions o;
  o.inference = false;
  return load_model(path, o);
}

/// Ids that repeat no short pattern, without special tokens.
inline std::vector<int32_t> tiny_ids(int64_t n, uint32_t seed, int64_t vocabulary = 272) {
  std::mt19937 engine(seed);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i)
    ids.push_back(static_cast<int32_t>(3 + engine() % static_cast<uint32_t>(vocabulary - 3)));
  return ids;
}

}  // namespace hone::testing
