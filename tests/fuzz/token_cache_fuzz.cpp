// Any bytes as a token cache: an Error, or a cache that can be read to the end and makes batches.
// Where the bytes are long enough the checksum is set right first, or nothing would get past it.
#include <cstring>
#include <vector>

#include "base/error.h"
#include "memory_file.h"
#include "text/batches.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hone;
  std::vector<uint8_t> bytes(data, data + size);
  if (size >= 16) {
    const uint64_t sum = frame_checksum({reinterpret_cast<const char*>(data), size - 16});
    std::memcpy(bytes.data() + size - 16, &sum, sizeof sum);
  }
  MemoryFile memory(bytes.data(), bytes.size());
  static volatile int64_t sink;
  try {
    const auto cache = TokenCache::open(memory.path());
    for (int64_t i = 0; i < cache->examples(); ++i)
      for (int64_t t = cache->begin(i); t < cache->end(i); ++t)
        sink = sink + cache->token(t) + cache->is_learned(t);
    for (const char* packing : {"cut", "whole", "single"}) {
      try {
        const Batches batches(
            cache, {.rows = 2, .length = 5, .packing = packing, .held_out = 0.3, .seed = 1},
            Batches::Part::train);
        for (int64_t step : {int64_t{0}, batches.steps() - 1, int64_t{1} << 40})
          sink = sink + batches.batch(step).target_count;
      } catch (const Error&) {
      }
    }
  } catch (const Error&) {
  }
  return 0;
}
