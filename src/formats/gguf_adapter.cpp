#include "formats/gguf_adapter.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "base/error.h"
#include "formats/printable.h"

namespace hone {
namespace {

constexpr const char* kGeneralType = "general.type";
constexpr const char* kArchitecture = "general.architecture";
constexpr const char* kAdapterType = "adapter.type";
constexpr const char* kAlpha = "adapter.lora.alpha";
constexpr const char* kInvocation = "adapter.alora.invocation_tokens";
constexpr std::string_view kA = ".lora_a", kB = ".lora_b";

void check_pair(const GgufLoraPair& pair, const std::string& source) {
  const Shape &a = pair.a.shape, &b = pair.b.shape;
  HONE_CHECK(a.size() == 2 && b.size() == 2, corrupt,
             "{}: the pair {}: expected two matrices, got lora_a {} and lora_b {}", source,
             printable(pair.name), shape_string(a), shape_string(b));
  const int64_t rank = pair.embedding() ? a[1] : a[0];
  HONE_CHECK(rank > 0 && rank == b[1], corrupt,
             "{}: the pair {}: the ranks of lora_a {} and lora_b {} differ", source,
             printable(pair.name), shape_string(a), shape_string(b));
}

void check(const GgufAdapter& adapter, const std::string& source) {
  HONE_CHECK(!adapter.architecture.empty(), corrupt, "{}: the key {} is empty", source,
             kArchitecture);
  HONE_CHECK(std::isfinite(adapter.alpha), corrupt, "{}: the key {} is not a finite number", source,
             kAlpha);
  HONE_CHECK(!adapter.pairs.empty(), corrupt, "{}: an adapter without tensors", source);
  for (const GgufLoraPair& pair : adapter.pairs) check_pair(pair, source);
}

/// Reads the tensors as pairs, in the order in which the first halves come.
std::vector<GgufLoraPair> read_pairs(const GgufFile& file, const std::string& source) {
  std::vector<GgufLoraPair> pairs;
  std::unordered_map<std::string, size_t> places;
  for (const GgufTensor& t : file.tensors()) {
    const std::string_view name = t.name;
    const bool is_a = name.ends_with(kA);
    HONE_CHECK((is_a || name.ends_with(kB)) && name.size() > kA.size(), unsupported,
               "{}: tensor {}: expected names that end in {} and {}", source, printable(name), kA,
               kB);
    std::string base(name.substr(0, name.size() - kA.size()));
    const auto [place, is_new] = places.try_emplace(base, pairs.size());
    if (is_new) pairs.push_back({std::move(base), {}, {}});
    GgufLoraPair& pair = pairs[place->second];
    (is_a ? pair.a : pair.b) = file.weight(t.name);
  }
  for (const GgufLoraPair& pair : pairs)
    HONE_CHECK(pair.a.defined() && pair.b.defined(), corrupt, "{}: the tensor {} is missing",
               source, printable(pair.name + std::string(pair.a.defined() ? kB : kA)));
  return pairs;
}

}  // namespace

bool GgufLoraPair::embedding() const { return name.ends_with("token_embd.weight"); }

int64_t GgufLoraPair::rank() const { return b.shape[1]; }

double GgufAdapter::scale(const GgufLoraPair& pair) const {
  return alpha == 0 ? 1 : double{alpha} / static_cast<double>(pair.rank());
}

bool is_gguf_adapter(const GgufFile& file) { return file.find_string(kGeneralType) == "adapter"; }

GgufAdapter read_gguf_adapter(const fs::path& path) {
  const std::string source = path.string();
  const GgufFile file = GgufFile::open(path);
  HONE_CHECK(is_gguf_adapter(file), unsupported, "{}: expected {} = 'adapter', got {}", source,
             kGeneralType, printable(file.find_string(kGeneralType).value_or("nothing")));
  const std::string type = file.get_string(kAdapterType);
  HONE_CHECK(type == "lora", unsupported, "{}: {}: expected 'lora', got {}", source, kAdapterType,
             printable(type));
  HONE_CHECK(file.find(kInvocation) == nullptr, unsupported,
             "{}: {} is set: hone has no LoRA that tokens switch on", source, kInvocation);
  GgufAdapter adapter;
  adapter.architecture = file.get_string(kArchitecture);
  adapter.alpha = static_cast<float>(file.get_f64(kAlpha));
  adapter.metadata = file.metadata();
  adapter.pairs = read_pairs(file, source);
  check(adapter, source);
  return adapter;
}

void write_gguf_adapter(const fs::path& path, const GgufAdapter& adapter) {
  check(adapter, path.string());
  const std::pair<const char*, GgufValue> own[] = {
      {kArchitecture, GgufValue::string(adapter.architecture)},
      {kGeneralType, GgufValue::string("adapter")},
      {kAdapterType, GgufValue::string("lora")},
      {kAlpha, GgufValue::f32(adapter.alpha)},
  };
  GgufWriter writer(path);
  const auto own_value = [&](const std::string& key) {
    const GgufValue* value = nullptr;
    for (const auto& [name, x] : own)
      if (key == name) value = &x;
    return value;
  };
  const auto listed = [&](const char* key) {
    return std::any_of(adapter.metadata.begin(), adapter.metadata.end(),
                       [&](const GgufEntry& e) { return e.key == key; });
  };
  for (const auto& [key, value] : own)
    if (!listed(key)) writer.set(key, value);
  for (const GgufEntry& e : adapter.metadata) {
    // Of the file that was read, not of this one.
    if (e.key == "general.alignment" || e.key.starts_with("split.")) continue;
    const GgufValue* value = own_value(e.key);
    writer.set(e.key, value != nullptr ? *value : e.value);
  }
  for (const GgufLoraPair& pair : adapter.pairs)
    for (const bool a : {true, false}) {
      const Weight& w = a ? pair.a : pair.b;
      writer.declare(pair.name + std::string(a ? kA : kB), w.shape, w.encoding);
    }
  for (const GgufLoraPair& pair : adapter.pairs)
    for (const bool a : {true, false})
      writer.write(pair.name + std::string(a ? kA : kB), a ? pair.a : pair.b);
  writer.finish();
}

}  // namespace hone
