// A PEFT directory made of any bytes: adapter_config.json up to the first NUL byte,
// adapter_model.safetensors behind it. An Error, or an adapter whose modules can be asked for and
// which survives being written and read again. Configs are tried without their tensors, too.
#include <stdlib.h>

#include <algorithm>
#include <fstream>

#include "formats/peft.h"
#include "formats/peft_modules.h"

namespace {

struct Directory {
  Directory() {
    std::string pattern = (hone::fs::temp_directory_path() / "hone-fuzz-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path = pattern;
    hone::fs::create_directory(path / "in");
  }
  ~Directory() { hone::fs::remove_all(path); }
  void put(const char* name, const uint8_t* data, size_t size) {
    std::ofstream(path / "in" / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  }
  hone::fs::path path;
};

void ask(const hone::PeftConfig& config) {
  const hone::PeftMatcher matcher(config, "fuzz");
  for (const char* module : {"model.layers.0.self_attn.q_proj", "lm_head", "h.11.mlp.c_proj"}) try {
      matcher.adapts(module, true, false);
      matcher.scale(module);
      matcher.feedforward(module);
    } catch (const hone::Error&) {
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hone;
  static Directory directory;
  const uint8_t* nul = std::find(data, data + size, uint8_t{0});
  auto length = static_cast<size_t>(nul - data);
  try {
    Json json = parse_json({reinterpret_cast<const char*>(data), length}, "fuzz");
    PeftConfig config = parse_peft_config(json, "fuzz");
    if (peft_config_json(config, json) != json) std::abort();
    if (parse_peft_config(peft_config_json(config, Json()), "fuzz") != config) std::abort();
    ask(config);
  } catch (const Error&) {
    return 0;
  }
  directory.put("adapter_config.json", data, length);
  const size_t rest = std::min(size, length + 1);
  directory.put("adapter_model.safetensors", data + rest, size - rest);
  const fs::path out = directory.path / "out";
  try {
    const PeftAdapter adapter = read_peft_directory(directory.path / "in");
    write_peft_directory(out, adapter);
    if (read_peft_directory(out).config != adapter.config) std::abort();
  } catch (const Error&) {
  }
  fs::remove_all(out);
  return 0;
}
