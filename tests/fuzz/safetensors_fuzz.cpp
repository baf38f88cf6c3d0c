// Any bytes as a safetensors file: an Error, or a file whose every tensor can be read to the end.
#include "formats/safetensors.h"
#include "memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hone;
  MemoryFile memory(data, size);
  static volatile unsigned sink;
  try {
    SafetensorsFile file = SafetensorsFile::open(memory.path());
    for (const SafetensorsEntry& e : file.entries()) {
      Tensor t = file.tensor(e.name);
      for (int64_t i = 0; i < t.byte_size(); ++i) sink = sink + static_cast<unsigned>(t.raw()[i]);
    }
  } catch (const Error&) {
  }
  return 0;
}
