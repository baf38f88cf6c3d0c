// Any bytes as a GGUF file, and as an adapter: an Error, or a file whose every tensor can be read
// to the end.
#include "formats/gguf_adapter.h"
#include "memory_file.h"

namespace {

unsigned touch(std::span<const std::byte> bytes) {
  unsigned sum = 0;
  for (std::byte b : bytes) sum += static_cast<unsigned>(b);
  return sum;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hone;
  MemoryFile memory(data, size);
  static volatile unsigned sink;
  try {
    GgufFile file = GgufFile::open(memory.path());
    for (const GgufTensor& t : file.tensors()) {
      sink = sink + touch(file.bytes(t));
      try {
        Weight w = file.weight(t.name);
        for (const auto& [name, plane] : w.planes)
          sink = sink + touch({plane.raw(), static_cast<size_t>(plane.byte_size())});
      } catch (const Error&) {
      }
    }
    for (const GgufEntry& e : file.metadata()) {
      try {
        file.find_u64(e.key);
        file.find_ints(e.key);
      } catch (const Error&) {
      }
    }
  } catch (const Error&) {
  }
  try {
    const GgufAdapter adapter = read_gguf_adapter(memory.path());
    for (const GgufLoraPair& pair : adapter.pairs)
      for (const Weight* w : {&pair.a, &pair.b})
        for (const auto& [name, plane] : w->planes)
          sink = sink + touch({plane.raw(), static_cast<size_t>(plane.byte_size())});
  } catch (const Error&) {
  }
  return 0;
}
