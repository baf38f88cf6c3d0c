// hone info: what a model is, what its weights are stored in, and the memory it needs.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "command.h"
#include "models/session.h"

namespace hone {
namespace {

// Context lengths whose memory need is shown, up to the model's own.
constexpr int64_t kContexts[] = {512, 2048, 8192, 32768, 131072};

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  auto argument = std::make_shared<ModelArgument>();
  argument->add(app);
  return [argument, &common] {
    // Not packed: reading the header and the shapes is enough.
    LoadedModel m = argument->load(false);
    Model& model = *m.model;
    std::map<std::string, std::pair<int64_t, int64_t>> encodings;  // parameters, bytes
    auto count = [&](const Weight& w) {
      auto& [parameters, bytes] = encodings[w.encoding];
      parameters += w.numel();
      bytes += w.byte_size();
    };
    count(model.embedding.weight());
    for (Linear* l : model.linears())
      if (l != &model.head || !model.tied_head) count(l->weight());
    int64_t weight_bytes = 0;
    for (auto& [name, e] : encodings) weight_bytes += e.second;
    Session session(model, common.precision());
    double per_token = double(session.page_bytes()) / 64;
    if (common.json) {
      Json j;
      j["name"] = m.name;
      j["family"] = m.family->name;
      j["layout"] = m.layout;
      j["parameters"] = model.parameter_count();
      j["layers"] = m.config.layers;
      j["width"] = m.config.width;
      j["heads"] = m.config.heads;
      j["kv_heads"] = m.config.kv_heads;
      j["head_dim"] = m.config.head_dim;
      j["ffn"] = m.config.ffn;
      j["vocabulary"] = m.config.vocabulary;
      j["context"] = m.config.context;
      j["tied_head"] = m.config.tied_head;
      j["weight_bytes"] = weight_bytes;
      j["kv_bytes_per_token"] = per_token;
      for (auto& [name, e] : encodings)
        j["encodings"][name] = {{"parameters", e.first}, {"bytes", e.second}};
      print_json(j);
      return;
    }
    std::vector<std::vector<std::string>> rows{{m.name, ""}};
    auto row = [&](const char* k, std::string v) { rows.push_back({k, std::move(v)}); };
    row("family", fmt::format("{} ({})", m.family->name, m.layout));
    row("parameters", fmt::format("{:.2f} M", double(model.parameter_count()) / 1e6));
    row("layers x width",
        fmt::format("{} x {}, feed-forward {}", m.config.layers, m.config.width, m.config.ffn));
    row("first block", model.blocks[0].mixer->describe());
    if (model.blocks.size() > 1 &&
        model.blocks.back().mixer->describe() != model.blocks[0].mixer->describe())
      row("last block", model.blocks.back().mixer->describe());
    row("vocabulary", fmt::format("{}{}", m.config.vocabulary,
                                  m.config.tied_head ? ", head tied to the embedding" : ""));
    row("context", fmt::format("{}", m.config.context));
    row("chat template", m.chat_template.empty() ? "no" : "yes");
    for (auto& [name, e] : encodings)
      row("weights",
          fmt::format("{:.2f} M in {}: {} ({:.2f} bits each)", double(e.first) / 1e6, name,
                      human_bytes(double(e.second)), 8.0 * double(e.second) / double(e.first)));
    row("KV cache", fmt::format("{} per token (f32)", human_bytes(per_token)));
    int64_t before = 0;
    auto memory = [&](int64_t context) {
      row("memory",
          fmt::format("{} at a context of {}",
                      human_bytes(double(weight_bytes) + per_token * double(context)), context));
      before = context;
    };
    for (int64_t c : kContexts)
      if (c < m.config.context) memory(c);
    if (before != m.config.context) memory(m.config.context);
    fmt::print("{}", text_table(rows));
  };
}

}  // namespace

extern const Command kInfoCommand;
const Command kInfoCommand{"info", "what a model is and the memory it needs", add};

}  // namespace hone
