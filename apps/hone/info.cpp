// hone info: what a model is, what its weights are stored in, and the memory it needs.
#include <fmt/core.h>
#include <algorithm>

#include <map>
#include <nlohmann/json.hpp>

#include "attention/kv_cache.h"
#include "base/log.h"
#include "command.h"
#include "kernels/kernel_table.h"
#include "models/attention_patterns.h"
#include "models/sequence_memory.h"

namespace hone {
namespace info_command {

// Context lengths whose memory need is shown, up to the model's own.
constexpr int64_t kContexts[] = {512, 2048, 8192, 32768, 131072};

struct Stored {
  int64_t parameters = 0, bytes = 0;
};

struct Facts {
  std::map<std::string, Stored> encodings;
  int64_t stored_bytes = 0;             // of matrices, as in the file
  int64_t running_bytes = 0;            // of all weights, as they run
  double kv_per_token = 0;              // bytes, in front of every window
  std::map<int64_t, int64_t> kv_bytes;  // of a sequence as long as each of the contexts
  int64_t state_bytes = 0;              // of the recurrent state of one sequence
  std::string kv;                       // type of the cache
  std::vector<int64_t> contexts;

  double memory(int64_t context) const {
    return double(running_bytes) + double(state_bytes) + double(kv_bytes.at(context));
  }
};

Facts facts_of(LoadedModel& m, KvType kv) {
  Facts f;
  Model& model = *m.model;
  auto count = [&](const Weight& w) {
    Stored& s = f.encodings[w.encoding];
    s.parameters += w.numel();
    s.bytes += w.byte_size();
    f.stored_bytes += w.byte_size();
  };
  count(model.embedding.weight());
  for (Linear* l : model.linears())
    if (l != &model.head || !model.tied_head) count(l->weight());
  f.running_bytes = m.running_bytes();
  f.kv = kv_type_name(kv);
  f.state_bytes = model.state_bytes();
  f.kv_per_token = sequence_memory(model, kv, 1).kv_bytes_per_token;
  for (int64_t c : kContexts)
    if (c < m.config.context) f.contexts.push_back(c);
  f.contexts.push_back(m.config.context);
  for (int64_t c : f.contexts) f.kv_bytes[c] = sequence_memory(model, kv, c).kv_bytes;
  return f;
}

Json to_json(LoadedModel& m, const Facts& f) {
  const ModelConfig& c = m.config;
  Json j = {{"name", m.name},
            {"family", m.family->name},
            {"layout", m.layout},
            {"parameters", m.model->parameter_count()},
            {"layers", c.layers},
            {"width", c.width},
            {"heads", c.heads},
            {"kv_heads", c.kv_heads},
            {"head_dim", c.head_dim},
            {"ffn", c.ffn},
            {"vocabulary", c.vocabulary},
            {"context", c.context},
            {"tied_head", c.tied_head},
            {"chat_template", !m.chat_template.empty()},
            {"weight_bytes", f.stored_bytes},
            {"running_bytes", f.running_bytes},
            {"kv_bytes_per_token", int64_t(f.kv_per_token)},
            {"state_bytes", f.state_bytes},
            {"memory_tokens", c.memory_tokens}};
  for (const auto& [name, s] : f.encodings)
    j["encodings"][name] = {{"parameters", s.parameters}, {"bytes", s.bytes}};
  for (int64_t context : f.contexts) {
    j["memory_bytes"][std::to_string(context)] = int64_t(f.memory(context));
    j["kv_bytes"][std::to_string(context)] = f.kv_bytes.at(context);
  }
  for (const LayerGroup& g : layer_groups(*m.model))
    j["mixing"].push_back({{"layers", g.layers}, {"is", g.mixing}});
  return j;
}

std::string to_table(LoadedModel& m, const Facts& f) {
  const Model& model = *m.model;
  std::vector<std::vector<std::string>> rows{{"model", m.name}};
  auto row = [&](const char* key, std::string value) { rows.push_back({key, std::move(value)}); };
  row("family", fmt::format("{} ({})", m.family->name, m.layout));
  row("parameters", fmt::format("{:.2f} M", double(m.model->parameter_count()) / 1e6));
  row("layers", fmt::format("{} of width {}, feed-forward {}", m.config.layers, m.config.width,
                            m.config.ffn));
  if (const ModelConfig& c = m.config; c.experts > 0) {
    const auto dense = std::ranges::count(c.dense, true);
    row("experts",
        fmt::format("{} of {} for each token, feed-forward {}{}", c.experts_used, c.experts,
                    c.expert_ffn, dense > 0 ? fmt::format("; not in {} layers", dense) : ""));
  }
  const std::vector<LayerGroup> groups = layer_groups(model);
  for (const LayerGroup& g : groups)
    row(&g == &groups[0] ? "attention" : "",
        groups.size() == 1
            ? g.mixing
            : fmt::format("layers {}: {}", layers_text(g.layers, m.config.layers), g.mixing));
  if (m.config.memory_tokens > 0)
    row("memory", fmt::format("{} tokens in front of and behind each {}", m.config.memory_tokens,
                              m.config.segment));
  row("vocabulary", fmt::format("{}{}", m.config.vocabulary,
                                m.config.tied_head ? ", head tied to the embedding" : ""));
  row("context", fmt::format("{}", m.config.context));
  row("chat template", m.chat_template.empty() ? "no" : "yes");
  for (const auto& [name, s] : f.encodings)
    row("stored",
        fmt::format("{:.2f} M weights in {}, {:.4g} bits each: {}", double(s.parameters) / 1e6,
                    name, 8.0 * double(s.bytes) / double(s.parameters),
                    human_bytes(double(s.bytes))));
  row("in memory",
      fmt::format("{} of weights, {} of KV cache ({}) a token",
                  human_bytes(double(f.running_bytes)), human_bytes(f.kv_per_token), f.kv));
  if (f.state_bytes > 0)
    row("", fmt::format("{} of recurrent state a sequence", human_bytes(double(f.state_bytes))));
  for (int64_t context : f.contexts)
    row("",
        fmt::format("{} with {} tokens, {} of them the KV cache's", human_bytes(f.memory(context)),
                    context, human_bytes(double(f.kv_bytes.at(context)))));
  return text_table(rows, Columns::words);
}

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  auto argument = std::make_shared<ModelArgument>();
  argument->add(app);
  return [argument, &common] {
    // Not packed: the headers and shapes say it all.
    LoadedModel m = argument->load(false);
    Facts facts = facts_of(m, common.kv());
    if (common.json)
      print_json(to_json(m, facts));
    else
      print_text(to_table(m, facts));
  };
}

}  // namespace info_command

extern const Command kInfoCommand;
const Command kInfoCommand{"info", "what a model is and the memory it needs", info_command::add};

}  // namespace hone
