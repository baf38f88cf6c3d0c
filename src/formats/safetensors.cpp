#include "formats/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>

#include "base/checked.h"
#include "base/json.h"
#include "formats/printable.h"
#include "formats/safetensors_types.h"

namespace hone {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;  // the reference library's limit
constexpr int64_t kLengthBytes = 8;

constexpr SafetensorsType kSafetensorsTypes[] = {
    {"U64", DType::i64, true},          {"I64", DType::i64, false},
    {"F64", DType::f64, false},         {"F32", DType::f32, false},
    {"U32", DType::i32, true},          {"I32", DType::i32, false},
    {"BF16", DType::bf16, false},       {"F16", DType::f16, false},
    {"U16", DType::i16, true},          {"I16", DType::i16, false},
    {"F8_E8M0", DType::u8, true},       {"F8_E4M3", DType::f8_e4m3, false},
    {"F8_E5M2", DType::f8_e5m2, false}, {"I8", DType::i8, false},
    {"U8", DType::u8, false},           {"BOOL", DType::u8, true},
};

// Receives the header's JSON event by event: no tree is built, so a hostile header costs no more
// than its own size. The grammar is fixed: {name: {dtype, shape, data_offsets}, __metadata__: {}}.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(std::string file) : file_(std::move(file)) {}

  std::vector<SafetensorsEntry> entries;
  std::map<std::string, std::string> metadata;

  bool start_object(std::size_t) override {
    if (++depth_ > 2 || (depth_ == 2 && name_.empty())) bad("an object");
    if (depth_ == 2) {
      fields_ = 0;
      field_ = Field::none;
      in_metadata_ = name_ == "__metadata__";
      if (!in_metadata_) entries.push_back({name_, "", DType::u8, {}, 0, 0});
    }
    return true;
  }
  bool end_object() override {
    if (depth_-- == 2 && !in_metadata_ && fields_ != 7)
      fail(ErrorKind::corrupt, "{}: tensor {}: needs dtype, shape and data_offsets", file_,
           printable(name_));
    return true;
  }
  bool key(std::string& text) override {
    if (depth_ == 1) {
      HONE_CHECK(!text.empty() && names_.insert(text).second, corrupt,
                 "{}: the tensor {} appears twice or has no name", file_, printable(text));
      name_ = text;
    } else if (in_metadata_) {
      metadata_key_ = text;
      HONE_CHECK(!metadata.contains(text), corrupt, "{}: the metadata key {} appears twice", file_,
                 printable(text));
    } else {
      field_ = text == "dtype"          ? Field::dtype
               : text == "shape"        ? Field::shape
               : text == "data_offsets" ? Field::offsets
                                        : Field::none;
      auto bit = static_cast<unsigned>(field_);
      if (field_ == Field::none || (fields_ & bit) != 0) bad("an unknown or repeated field");
      fields_ |= bit;
    }
    return true;
  }
  bool string(std::string& text) override {
    if (depth_ != 2 || in_array_) bad("a string");
    if (in_metadata_) {
      metadata[metadata_key_] = text;
    } else {
      if (field_ != Field::dtype) bad("a string");
      const SafetensorsType* type = find_safetensors_type(text);
      HONE_CHECK(type != nullptr, unsupported, "{}: tensor {}: the dtype {} is not supported",
                 file_, printable(name_), printable(text));
      entries.back().type = text;
      entries.back().dtype = type->dtype;
    }
    return true;
  }
  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_metadata_ || in_array_ ||
        (field_ != Field::shape && field_ != Field::offsets))
      bad("an array");
    in_array_ = true;
    offsets_.clear();
    return true;
  }
  bool end_array() override {
    in_array_ = false;
    if (field_ != Field::offsets) return true;
    if (offsets_.size() != 2 || offsets_[0] > offsets_[1])
      fail(ErrorKind::corrupt, "{}: tensor {}: data_offsets are no range", file_, printable(name_));
    entries.back().offset = offsets_[0];
    entries.back().size = offsets_[1] - offsets_[0];
    return true;
  }
  bool number_unsigned(uint64_t n) override {
    if (!in_array_ || n > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) ||
        (field_ == Field::offsets && offsets_.size() == 2))
      bad("a number");
    (field_ == Field::shape ? entries.back().shape : offsets_).push_back(static_cast<int64_t>(n));
    return true;
  }
  bool number_integer(int64_t) override { bad("a negative number"); }
  bool number_float(double, const std::string&) override { bad("a fraction or a huge number"); }
  bool null() override { bad("null"); }
  bool boolean(bool) override { bad("a boolean"); }
  bool binary(nlohmann::json::binary_t&) override { bad("binary data"); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception&) override {
    fail(ErrorKind::corrupt, "{}: byte {}: the header is not valid JSON", file_,
         static_cast<int64_t>(position) + kLengthBytes);
  }

 private:
  enum class Field : unsigned { none = 0, dtype = 1, shape = 2, offsets = 4 };

  [[noreturn]] void bad(const char* what) const {
    fail(ErrorKind::corrupt, "{}: tensor {}: the header has {} where none belongs", file_,
         printable(name_), what);
  }

  std::string file_;
  std::unordered_set<std::string> names_;
  std::string name_;
  std::string metadata_key_;
  std::vector<int64_t> offsets_;
  Field field_ = Field::none;
  unsigned fields_ = 0;
  int depth_ = 0;
  bool in_metadata_ = false;
  bool in_array_ = false;
};

/// Makes offsets absolute and sorts by them; the ranges must tile the file from `data` to its end.
void place_tensors(std::vector<SafetensorsEntry>& entries, int64_t data, int64_t file_size,
                   const std::string& file) {
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.offset, a.size) < std::pair(b.offset, b.size);
  });
  int64_t next = 0;
  for (SafetensorsEntry& e : entries) {
    int64_t numel = 1;
    int64_t size = 0;
    bool fits = true;
    for (int64_t d : e.shape) fits = fits && !__builtin_mul_overflow(numel, d, &numel);
    fits = fits && !__builtin_mul_overflow(numel, dtype_size(e.dtype), &size);
    HONE_CHECK(fits && size == e.size, corrupt,
               "{}: tensor {}: its range of {} bytes is not the size of {} {}", file,
               printable(e.name), e.size, e.type, shape_string(e.shape));
    HONE_CHECK(e.offset == next, corrupt,
               "{}: tensor {}: its data begins at byte {}, expected {} (a gap or an overlap)", file,
               printable(e.name), data + std::min(e.offset, file_size), data + next);
    HONE_CHECK(e.size <= file_size - data - next, corrupt,
               "{}: tensor {}: {} bytes at byte {} run past the end of the file ({})", file,
               printable(e.name), e.size, data + next, file_size);
    next += e.size;
    e.offset += data;
  }
  HONE_CHECK(data + next == file_size, corrupt, "{}: {} bytes follow the last tensor, at byte {}",
             file, file_size - data - next, data + next);
}

}  // namespace

std::span<const SafetensorsType> safetensors_types() { return kSafetensorsTypes; }

const SafetensorsType* find_safetensors_type(std::string_view name) {
  for (const SafetensorsType& t : kSafetensorsTypes)
    if (t.name == name) return &t;
  return nullptr;
}

const SafetensorsType& safetensors_type_of(DType dtype) {
  for (const SafetensorsType& t : kSafetensorsTypes)
    if (t.dtype == dtype && !t.alias) return t;
  fail(ErrorKind::internal, "safetensors has no type for {}", dtype_name(dtype));
}

SafetensorsFile SafetensorsFile::open(const fs::path& path) {
  SafetensorsFile file;
  file.map_ = MappedFile::open(path);
  std::span<const std::byte> bytes = file.map_->bytes();
  auto file_size = static_cast<int64_t>(bytes.size());
  HONE_CHECK(file_size >= kLengthBytes, corrupt, "{}: {} bytes are too few for a safetensors file",
             path.string(), file_size);
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  HONE_CHECK(length <= static_cast<uint64_t>(file_size - kLengthBytes) && length <= kMaxHeader,
             corrupt, "{}: byte 0: a header of {} bytes, in a file of {} (at most {})",
             path.string(), length, file_size, kMaxHeader);
  const auto* text = reinterpret_cast<const char*>(bytes.data()) + kLengthBytes;
  HONE_CHECK(length > 0 && text[0] == '{', corrupt, "{}: byte 8: the header does not begin with {{",
             path.string());
  HeaderReader reader(path.string());
  nlohmann::json::sax_parse(text, text + length, &reader);
  file.entries_ = std::move(reader.entries);
  file.metadata_ = std::move(reader.metadata);
  place_tensors(file.entries_, kLengthBytes + static_cast<int64_t>(length), file_size,
                path.string());
  for (size_t i = 0; i < file.entries_.size(); ++i) file.names_[file.entries_[i].name] = i;
  return file;
}

const SafetensorsEntry* SafetensorsFile::find(const std::string& name) const {
  auto it = names_.find(name);
  return it == names_.end() ? nullptr : &entries_[it->second];
}

Tensor SafetensorsFile::tensor(const std::string& name) const {
  const SafetensorsEntry* e = find(name);
  HONE_CHECK(e != nullptr, corrupt, "{}: the tensor {} is missing", path().string(),
             printable(name));
  auto bytes = map_->bytes().subspan(static_cast<size_t>(e->offset), static_cast<size_t>(e->size));
  auto address = reinterpret_cast<uintptr_t>(bytes.data());
  if (address % static_cast<uintptr_t>(dtype_size(e->dtype)) == 0)
    return Tensor::borrow(e->shape, e->dtype, bytes, map_);
  Tensor copy = Tensor::empty(e->shape, e->dtype);
  if (!bytes.empty()) std::memcpy(copy.mutable_raw(), bytes.data(), bytes.size());
  return copy;
}

void SafetensorsFile::release(const std::string& name) const {
  const SafetensorsEntry* e = find(name);
  if (e == nullptr) return;
  map_->release(map_->bytes().data() + e->offset, static_cast<size_t>(e->size));
}

}  // namespace hone
