#include "formats/gguf.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>

#include "base/checked.h"
#include "formats/printable.h"

namespace hone {
namespace {

constexpr uint32_t kVersion = 3;
constexpr int64_t kMaxKey = 65535;  // the specification's limit
constexpr int64_t kMaxName = 64;
constexpr uint32_t kMaxDims = 4;
// The fewest bytes that a pair and a tensor info take: a bound on their counts.
constexpr int64_t kMinPair = 8 + 1 + 4 + 1;
constexpr int64_t kMinInfo = 8 + 1 + 4 + 8 + 4 + 8;

constexpr std::string_view kTypeNames[] = {"u8",      "i8",     "u16",   "i16", "u32", "i32", "f32",
                                           "boolean", "string", "array", "u64", "i64", "f64"};
constexpr int64_t kTypeBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

// Reads a header front to back; never past the end of the file.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, std::string file)
      : bytes_(bytes), file_(std::move(file)) {}

  int64_t position() const { return position_; }
  int64_t left() const { return static_cast<int64_t>(bytes_.size()) - position_; }

  template <typename T>
  T read(const char* what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what), sizeof(T));
    return value;
  }

  /// A string as it lies in the file.
  std::string_view text(const char* what, int64_t limit = std::numeric_limits<int64_t>::max()) {
    int64_t at = position_;
    auto length = read<uint64_t>(what);
    HONE_CHECK(length <= static_cast<uint64_t>(std::min(limit, left())), corrupt,
               "{}: byte {}: {}: a string of {} bytes, where {} may follow", file_, at, what,
               length, std::min(limit, left()));
    auto size = static_cast<int64_t>(length);
    return {reinterpret_cast<const char*>(take(size, what)), static_cast<size_t>(size)};
  }
  std::string string(const char* what, int64_t limit = std::numeric_limits<int64_t>::max()) {
    return std::string(text(what, limit));
  }

  /// A count of things that take `min_bytes` each, so that no count exceeds the file.
  int64_t count(const char* what, int64_t min_bytes) {
    int64_t at = position_;
    auto n = read<uint64_t>(what);
    HONE_CHECK(n <= static_cast<uint64_t>(left() / min_bytes), corrupt,
               "{}: byte {}: {}: {}, but only {} bytes are left in the file", file_, at, what, n,
               left());
    return static_cast<int64_t>(n);
  }

  template <typename... Args>
  [[noreturn]] void corrupt(int64_t at, fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorKind::corrupt, "{}: byte {}: {}", file_, at,
         fmt::format(format, std::forward<Args>(args)...));
  }

  const std::string& file() const { return file_; }

 private:
  const std::byte* take(int64_t size, const char* what) {
    HONE_CHECK(size <= left(), corrupt,
               "{}: byte {}: {}: {} bytes expected, the file ends after {}", file_, position_, what,
               size, left());
    const std::byte* p = bytes_.data() + position_;
    position_ += size;
    return p;
  }

  std::span<const std::byte> bytes_;
  std::string file_;
  int64_t position_ = 0;
};

GgufType read_type(Cursor& in, const std::string& key) {
  int64_t at = in.position();
  auto type = in.read<uint32_t>("type of a value");
  if (type > static_cast<uint32_t>(GgufType::f64))
    in.corrupt(at, "key {}: unknown value type {}", printable(key), type);
  return static_cast<GgufType>(type);
}

bool read_bool(Cursor& in, const std::string& key) {
  int64_t at = in.position();
  auto value = in.read<uint8_t>("boolean");
  if (value > 1) in.corrupt(at, "key {}: a boolean is 0 or 1, got {}", printable(key), value);
  return value == 1;
}

template <typename Wire, typename Kept>
std::vector<Kept> read_numbers(Cursor& in, int64_t n) {
  std::vector<Kept> values(static_cast<size_t>(n));
  for (Kept& v : values) v = static_cast<Kept>(in.read<Wire>("array"));
  return values;
}

GgufValue::Data read_array(Cursor& in, GgufType element, const std::string& key) {
  HONE_CHECK(element != GgufType::array, unsupported, "{}: key {}: nested arrays are not supported",
             in.file(), printable(key));
  int64_t n = in.count("length of an array", kTypeBytes[static_cast<int>(element)]);
  switch (element) {
    case GgufType::u8:
      return read_numbers<uint8_t, uint64_t>(in, n);
    case GgufType::u16:
      return read_numbers<uint16_t, uint64_t>(in, n);
    case GgufType::u32:
      return read_numbers<uint32_t, uint64_t>(in, n);
    case GgufType::u64:
      return read_numbers<uint64_t, uint64_t>(in, n);
    case GgufType::i8:
      return read_numbers<int8_t, int64_t>(in, n);
    case GgufType::i16:
      return read_numbers<int16_t, int64_t>(in, n);
    case GgufType::i32:
      return read_numbers<int32_t, int64_t>(in, n);
    case GgufType::i64:
      return read_numbers<int64_t, int64_t>(in, n);
    case GgufType::f32:
      return read_numbers<float, float>(in, n);
    case GgufType::f64:
      return read_numbers<double, double>(in, n);
    case GgufType::boolean: {
      std::vector<bool> values(static_cast<size_t>(n));
      for (int64_t i = 0; i < n; ++i) values[static_cast<size_t>(i)] = read_bool(in, key);
      return values;
    }
    default:
      break;
  }
  Strings values;
  values.reserve(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) values.push_back(in.text("string of an array"));
  values.shrink_to_fit();
  return values;
}

GgufValue::Data read_scalar(Cursor& in, GgufType type, const std::string& key) {
  switch (type) {
    case GgufType::u8:
      return uint64_t{in.read<uint8_t>("u8")};
    case GgufType::u16:
      return uint64_t{in.read<uint16_t>("u16")};
    case GgufType::u32:
      return uint64_t{in.read<uint32_t>("u32")};
    case GgufType::u64:
      return in.read<uint64_t>("u64");
    case GgufType::i8:
      return int64_t{in.read<int8_t>("i8")};
    case GgufType::i16:
      return int64_t{in.read<int16_t>("i16")};
    case GgufType::i32:
      return int64_t{in.read<int32_t>("i32")};
    case GgufType::i64:
      return in.read<int64_t>("i64");
    case GgufType::f32:
      return double{in.read<float>("f32")};
    case GgufType::f64:
      return in.read<double>("f64");
    case GgufType::boolean:
      return read_bool(in, key);
    default:
      return in.string("string");
  }
}

GgufEntry read_pair(Cursor& in) {
  int64_t at = in.position();
  std::string key = in.string("key", kMaxKey);
  if (key.empty()) in.corrupt(at, "an empty key");
  GgufValue value{read_type(in, key), GgufType::u8, {}};
  if (value.type == GgufType::array) {
    value.element = read_type(in, key);
    value.data = read_array(in, value.element, key);
  } else {
    value.data = read_scalar(in, value.type, key);
  }
  return {std::move(key), std::move(value)};
}

/// One tensor info; its offset still counts from the start of the data.
GgufTensor read_info(Cursor& in, int shard) {
  GgufTensor t;
  t.shard = shard;
  int64_t at = in.position();
  t.name = in.string("name of a tensor", kMaxName);
  if (t.name.empty()) in.corrupt(at, "a tensor without a name");
  at = in.position();
  auto dims = in.read<uint32_t>("number of dimensions");
  if (dims < 1 || dims > kMaxDims)
    in.corrupt(at, "tensor {}: {} dimensions, expected 1 to {}", printable(t.name), dims, kMaxDims);
  int64_t elements = 1;
  for (uint32_t i = 0; i < dims; ++i) {
    at = in.position();
    auto size = in.read<uint64_t>("size of a dimension");
    if (size == 0 || size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) ||
        __builtin_mul_overflow(elements, static_cast<int64_t>(size), &elements))
      in.corrupt(at, "tensor {}: dimension {} has size {}: zero, or too large", printable(t.name),
                 i, size);
    t.ne.push_back(static_cast<int64_t>(size));
  }
  at = in.position();
  t.ggml_type = in.read<uint32_t>("type of a tensor");
  const GgmlType* type = find_ggml_type(t.ggml_type);
  HONE_CHECK(type != nullptr, unsupported, "{}: byte {}: tensor {}: unknown tensor type {}",
             in.file(), at, printable(t.name), t.ggml_type);
  if (t.ne[0] % type->block_elements != 0)
    in.corrupt(at,
               "tensor {}: rows of {} elements are no multiple of the {} elements of a {} block",
               printable(t.name), t.ne[0], type->block_elements, type->id);
  if (__builtin_mul_overflow(elements / type->block_elements, type->block_bytes, &t.size))
    in.corrupt(at, "tensor {}: {} elements are too large", printable(t.name), elements);
  at = in.position();
  auto offset = in.read<uint64_t>("offset of a tensor");
  if (offset > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    in.corrupt(at, "tensor {}: offset {} is too large", printable(t.name), offset);
  t.offset = static_cast<int64_t>(offset);
  return t;
}

/// Makes offsets absolute; each tensor must lie aligned inside the data, apart from all others.
void place_tensors(const Cursor& in, std::vector<GgufTensor>& tensors, int64_t alignment) {
  if (tensors.empty()) return;
  int64_t end_of_file = in.position() + in.left();
  int64_t data = round_up(in.position(), alignment);
  for (GgufTensor& t : tensors) {
    if (t.offset % alignment != 0)
      in.corrupt(data, "tensor {}: offset {} is no multiple of the alignment {}", printable(t.name),
                 t.offset, alignment);
    // Subtractions only: the sums may wrap.
    if (data > end_of_file || t.offset > end_of_file - data ||
        t.size > end_of_file - data - t.offset)
      in.corrupt(data,
                 "tensor {}: {} bytes at offset {} of the data run past the end of the file ({})",
                 printable(t.name), t.size, t.offset, end_of_file);
    t.offset += data;
  }
  std::vector<const GgufTensor*> order;
  for (const GgufTensor& t : tensors) order.push_back(&t);
  std::sort(order.begin(), order.end(),
            [](const GgufTensor* a, const GgufTensor* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < order.size(); ++i)
    if (order[i]->offset < order[i - 1]->offset + order[i - 1]->size)
      in.corrupt(order[i]->offset, "tensor {} overlaps tensor {}", printable(order[i]->name),
                 printable(order[i - 1]->name));
}

void check_version(Cursor& in) {
  char magic[4];
  for (char& c : magic) c = in.read<char>("the magic bytes");
  if (std::string_view(magic, 4) != "GGUF")
    in.corrupt(0, "not a GGUF file: its first bytes are {}", printable({magic, 4}));
  auto version = in.read<uint32_t>("version");
  HONE_CHECK(__builtin_bswap32(version) > 16, unsupported,
             "{}: a big-endian GGUF file (version {}); convert it to little-endian first",
             in.file(), __builtin_bswap32(version));
  HONE_CHECK(version == kVersion, unsupported, "{}: GGUF version {}; only version {} is supported",
             in.file(), version, kVersion);
}

int64_t alignment_of(const Cursor& in, const std::vector<GgufEntry>& metadata) {
  for (const GgufEntry& e : metadata) {
    if (e.key != "general.alignment") continue;
    const auto* n = std::get_if<uint64_t>(&e.value.data);
    if (n == nullptr || e.value.type != GgufType::u32 || *n == 0 || (*n & (*n - 1)) != 0)
      in.corrupt(0, "general.alignment: expected a power of two as u32");
    return static_cast<int64_t>(*n);
  }
  return GgufWriter::kAlignment;
}

bool all_digits(std::string_view s) {
  return !s.empty() && s.find_first_not_of("0123456789") == std::string_view::npos;
}

/// The files of the split set that `path` belongs to: name-00001-of-0000N.gguf, ...
std::vector<fs::path> split_set(const fs::path& path, uint64_t count) {
  constexpr std::string_view kPattern = "-00001-of-00001.gguf";
  std::string name = path.filename().string();
  bool fits = name.size() > kPattern.size();
  std::string_view tail;
  if (fits) {
    tail = std::string_view(name).substr(name.size() - kPattern.size());
    fits = tail[0] == '-' && all_digits(tail.substr(1, 5)) && tail.substr(6, 4) == "-of-" &&
           tail.substr(10) == fmt::format("{:05}.gguf", count);
  }
  HONE_CHECK(fits, corrupt,
             "{}: one of {} files of a split model; expected its name to end in "
             "-NNNNN-of-{:05}.gguf",
             path.string(), count, count);
  std::string stem = name.substr(0, name.size() - kPattern.size());
  std::vector<fs::path> files;
  for (uint64_t i = 1; i <= count; ++i)
    files.push_back(path.parent_path() / fmt::format("{}-{:05}-of-{:05}.gguf", stem, i, count));
  return files;
}

}  // namespace

std::string_view gguf_type_name(GgufType type) { return kTypeNames[static_cast<int>(type)]; }

GgufFile GgufFile::open(const fs::path& path) {
  GgufFile file;
  file.path_ = path;
  file.read_shard(path, 0);
  uint64_t count = file.find_u64("split.count").value_or(1);
  if (count <= 1) return file;

  std::vector<fs::path> files = split_set(path, count);
  file = GgufFile();
  file.path_ = path;
  for (size_t i = 0; i < files.size(); ++i) {
    GgufFile part;
    part.path_ = files[i];
    part.read_shard(files[i], static_cast<int>(i));
    HONE_CHECK(part.find_u64("split.count") == count && part.find_u64("split.no") == i, corrupt,
               "{}: expected split.no {} and split.count {}", files[i].string(), i, count);
    if (i == 0) {
      file.metadata_ = std::move(part.metadata_);
      file.keys_ = std::move(part.keys_);
    }
    file.maps_.push_back(part.maps_[0]);
    file.add_tensors(std::move(part.tensors_));
  }
  uint64_t tensors = file.find_u64("split.tensors.count").value_or(file.tensors_.size());
  HONE_CHECK(tensors == file.tensors_.size(), corrupt,
             "{}: split.tensors.count says {} tensors, the {} files hold {}", path.string(),
             tensors, count, file.tensors_.size());
  return file;
}

void GgufFile::read_shard(const fs::path& path, int shard) {
  auto map = MappedFile::open(path);
  Cursor in(map->bytes(), path.string());
  check_version(in);
  int64_t tensors = in.count("number of tensors", kMinInfo);
  int64_t pairs = in.count("number of metadata pairs", kMinPair);
  for (int64_t i = 0; i < pairs; ++i) {
    int64_t at = in.position();
    GgufEntry entry = read_pair(in);
    if (!keys_.emplace(entry.key, metadata_.size()).second)
      in.corrupt(at, "the key {} appears twice", printable(entry.key));
    metadata_.push_back(std::move(entry));
  }
  std::vector<GgufTensor> infos;
  for (int64_t i = 0; i < tensors; ++i) infos.push_back(read_info(in, shard));
  place_tensors(in, infos, alignment_of(in, metadata_));
  map->release(map->bytes().data(), static_cast<size_t>(in.position()));
  maps_.push_back(std::move(map));
  add_tensors(std::move(infos));
}

void GgufFile::add_tensors(std::vector<GgufTensor> tensors) {
  for (GgufTensor& t : tensors) {
    HONE_CHECK(names_.emplace(t.name, tensors_.size()).second, corrupt,
               "{}: the tensor {} appears twice", path_.string(), printable(t.name));
    tensors_.push_back(std::move(t));
  }
}

const GgufTensor* GgufFile::find_tensor(const std::string& name) const {
  auto it = names_.find(name);
  return it == names_.end() ? nullptr : &tensors_[it->second];
}

const GgufTensor& GgufFile::get_tensor(const std::string& name) const {
  const GgufTensor* t = find_tensor(name);
  HONE_CHECK(t != nullptr, corrupt, "{}: the tensor {} is missing", path_.string(),
             printable(name));
  return *t;
}

std::span<const std::byte> GgufFile::bytes(const GgufTensor& t) const {
  return maps_[static_cast<size_t>(t.shard)]->bytes().subspan(static_cast<size_t>(t.offset),
                                                              static_cast<size_t>(t.size));
}

Tensor GgufFile::tensor(const std::string& name) const {
  const GgufTensor& t = get_tensor(name);
  const GgmlType& type = *find_ggml_type(t.ggml_type);
  HONE_CHECK(type.scalar.has_value(), unsupported, "{}: tensor {}: {} blocks are no plain numbers",
             path_.string(), printable(name), type.id);
  std::span<const std::byte> data = bytes(t);
  if (reinterpret_cast<uintptr_t>(data.data()) % static_cast<uintptr_t>(type.block_bytes) == 0)
    return Tensor::borrow(t.shape(), *type.scalar, data, maps_[static_cast<size_t>(t.shard)]);
  Tensor copy = Tensor::empty(t.shape(), *type.scalar);
  std::memcpy(copy.mutable_raw(), data.data(), data.size());
  return copy;
}

Weight GgufFile::weight(const std::string& name) const {
  const GgufTensor& t = get_tensor(name);
  const GgmlType& type = *find_ggml_type(t.ggml_type);
  if (type.scalar) {
    HONE_CHECK(is_float(*type.scalar), unsupported, "{}: tensor {}: a weight of integers ({})",
               path_.string(), printable(name), type.id);
    return float_weight(tensor(name));
  }
  for (std::string_view family : {"iq1_", "iq2_", "iq3_"})
    HONE_CHECK(!type.id.starts_with(family), unsupported,
               "{}: tensor {}: the codes of {} are indices into tables of llama.cpp's own, which "
               "hone does not have",
               path_.string(), printable(name), type.id);
  Weight w;
  w.shape = t.shape();
  w.encoding = std::string(type.id);
  int64_t row_bytes = t.ne[0] / type.block_elements * type.block_bytes;
  w.planes["blocks"] = Tensor::borrow({t.size / row_bytes, row_bytes}, DType::u8, bytes(t),
                                      maps_[static_cast<size_t>(t.shard)]);
  return w;
}

void GgufFile::release(const std::string& name) const {
  const GgufTensor& t = get_tensor(name);
  std::span<const std::byte> data = bytes(t);
  maps_[static_cast<size_t>(t.shard)]->release(data.data(), data.size());
}

}  // namespace hone
