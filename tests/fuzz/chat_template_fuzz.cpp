// Fuzz target: any bytes as a chat template, rendered with a fixed chat and tight limits. Only
// hone::Error may come out.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using hone::Json;
  static const Json* const kMessages = new Json(Json::array(
      {{{"role", "system"}, {"content", "Be <brief>."}},
       {{"role", "user"}, {"content", "H\xC3\xA9llo\n"}},
       {{"role", "assistant"},
        {"content", nullptr},
        {"tool_calls", {{{"function", {{"name", "f"}, {"arguments", {{"x", 1}, {"y", 2.5}}}}}}}}},
       {{"role", "tool"}, {"content", "[1, 2]"}}}));
  hone::ChatOptions options;
  options.add_generation_prompt = true;
  options.bos_token = "<s>";
  options.eos_token = "</s>";
  options.tools = Json::array({{{"type", "function"}, {"function", {{"name", "f"}}}}});
  options.now = std::tm{};
  options.limits.max_steps = 20'000;
  options.limits.max_output_bytes = 1 << 16;
  options.limits.max_value_bytes = 1 << 20;
  options.limits.max_depth = 200;
  try {
    const hone::ChatTemplate model(std::string_view(reinterpret_cast<const char*>(data), size),
                                   "fuzz");
    model.render(*kMessages, options);
  } catch (const hone::Error&) {
  }
  return 0;
}
