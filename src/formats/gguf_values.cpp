// Typed look-ups in the metadata of a GGUF file.
#include <limits>

#include "formats/gguf.h"
#include "formats/printable.h"

namespace hone {
namespace {

[[noreturn]] void wrong_type(const fs::path& path, const std::string& key, const char* expected,
                             const GgufValue& value) {
  std::string got(gguf_type_name(value.type));
  if (value.type == GgufType::array) got += fmt::format(" of {}", gguf_type_name(value.element));
  fail(ErrorKind::corrupt, "{}: key {}: expected {}, got {}", path.string(), printable(key),
       expected, got);
}

}  // namespace

const GgufValue* GgufFile::find(const std::string& key) const {
  auto it = keys_.find(key);
  return it == keys_.end() ? nullptr : &metadata_[it->second].value;
}

std::optional<uint64_t> GgufFile::find_u64(const std::string& key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* u = std::get_if<uint64_t>(&value->data)) return *u;
  const auto* i = std::get_if<int64_t>(&value->data);
  if (i == nullptr) wrong_type(path_, key, "an integer", *value);
  HONE_CHECK(*i >= 0, corrupt, "{}: key {}: expected an integer of at least 0, got {}",
             path_.string(), printable(key), *i);
  return static_cast<uint64_t>(*i);
}

std::optional<double> GgufFile::find_f64(const std::string& key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* d = std::get_if<double>(&value->data)) return *d;
  if (const auto* u = std::get_if<uint64_t>(&value->data)) return static_cast<double>(*u);
  if (const auto* i = std::get_if<int64_t>(&value->data)) return static_cast<double>(*i);
  wrong_type(path_, key, "a number", *value);
}

std::optional<bool> GgufFile::find_bool(const std::string& key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* b = std::get_if<bool>(&value->data)) return *b;
  wrong_type(path_, key, "a boolean", *value);
}

std::optional<std::string> GgufFile::find_string(const std::string& key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* s = std::get_if<std::string>(&value->data)) return *s;
  wrong_type(path_, key, "a string", *value);
}

std::optional<std::vector<int64_t>> GgufFile::find_ints(const std::string& key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* i = std::get_if<std::vector<int64_t>>(&value->data)) return *i;
  const auto* u = std::get_if<std::vector<uint64_t>>(&value->data);
  if (u == nullptr) wrong_type(path_, key, "an array of integers", *value);
  for (uint64_t x : *u)
    HONE_CHECK(x <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()), corrupt,
               "{}: key {}: {} is too large", path_.string(), printable(key), x);
  return std::vector<int64_t>(u->begin(), u->end());
}

const std::vector<float>* GgufFile::find_floats(const std::string& key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return nullptr;
  if (const auto* f = std::get_if<std::vector<float>>(&value->data)) return f;
  wrong_type(path_, key, "an array of f32", *value);
}

const Strings* GgufFile::find_strings(const std::string& key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return nullptr;
  if (const auto* s = std::get_if<Strings>(&value->data)) return s;
  wrong_type(path_, key, "an array of strings", *value);
}

template <typename T>
T GgufFile::require(std::optional<T> value, const std::string& key) const {
  HONE_CHECK(value.has_value(), corrupt, "{}: the key {} is missing", path_.string(),
             printable(key));
  return *std::move(value);
}

uint64_t GgufFile::get_u64(const std::string& key) const { return require(find_u64(key), key); }
double GgufFile::get_f64(const std::string& key) const { return require(find_f64(key), key); }
bool GgufFile::get_bool(const std::string& key) const { return require(find_bool(key), key); }
std::string GgufFile::get_string(const std::string& key) const {
  return require(find_string(key), key);
}
std::vector<int64_t> GgufFile::get_ints(const std::string& key) const {
  return require(find_ints(key), key);
}
const std::vector<float>& GgufFile::get_floats(const std::string& key) const {
  const auto* values = find_floats(key);
  HONE_CHECK(values != nullptr, corrupt, "{}: the key {} is missing", path_.string(),
             printable(key));
  return *values;
}
const Strings& GgufFile::get_strings(const std::string& key) const {
  const auto* values = find_strings(key);
  HONE_CHECK(values != nullptr, corrupt, "{}: the key {} is missing", path_.string(),
             printable(key));
  return *values;
}

}  // namespace hone
