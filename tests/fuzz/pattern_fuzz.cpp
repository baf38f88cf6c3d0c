// Fuzz target: any bytes as the text of an attention pattern, up to what a file may hold. Only
// hone::Error may come out; what is read prints and reads back to the same, and its tiles are those
// of its definition.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "attention/pattern.h"
#include "base/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using hone::Pattern;
  if (size > 4096) return 0;
  try {
    const Pattern p = Pattern::parse(std::string(reinterpret_cast<const char*>(data), size));
    if (!(Pattern::parse(p.describe()) == p)) std::abort();
    p.horizon();
    constexpr int64_t kKeys = 200;
    const auto runs = p.tile_runs(70, 80, kKeys);
    for (int64_t k = 0; k < kKeys; ++k) {
      bool kept = false;
      for (const hone::TileRun& r : runs)
        kept |= r.first <= k / Pattern::kTile && k / Pattern::kTile < r.last;
      for (int64_t q = 70; q < 80 && !kept; ++q)
        if (p.sees(q, k)) std::abort();
    }
  } catch (const hone::Error&) {
  }
  return 0;
}
