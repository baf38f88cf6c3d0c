// A checkpoint directory made of any bytes: config.json up to the first NUL byte, model.safetensors
// behind it. An Error, or a checkpoint whose every weight can be read to the end.
#include <stdlib.h>

#include <algorithm>
#include <fstream>

#include "formats/checkpoint.h"

namespace {

struct Directory {
  Directory() {
    std::string pattern = (hone::fs::temp_directory_path() / "hone-fuzz-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path = pattern;
  }
  ~Directory() { hone::fs::remove_all(path); }
  void put(const char* name, const uint8_t* data, size_t size) {
    std::ofstream(path / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  }
  hone::fs::path path;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hone;
  static Directory directory;
  static volatile unsigned sink;
  const uint8_t* nul = std::find(data, data + size, uint8_t{0});
  auto config = static_cast<size_t>(nul - data);
  directory.put("config.json", data, config);
  size_t rest = std::min(size, config + 1);
  directory.put("model.safetensors", data + rest, size - rest);
  try {
    auto checkpoint = open_checkpoint(directory.path);
    for (const std::string& name : checkpoint->names()) {
      try {
        Weight w = checkpoint->weight(name);
        for (const auto& [plane, t] : w.planes)
          for (int64_t i = 0; i < t.byte_size(); ++i)
            sink = sink + static_cast<unsigned>(t.raw()[i]);
        checkpoint->release(name);
      } catch (const Error&) {
      }
    }
  } catch (const Error&) {
  }
  return 0;
}
