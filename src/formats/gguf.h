// GGUF v3, the container of llama.cpp: typed metadata and tensors, in one file or a split set.
//
//   "GGUF" | u32 version | u64 tensors | u64 pairs | pairs | tensor infos | padding | data
//
// Little-endian throughout. Reading maps the file and checks everything before it allocates:
// counts and lengths against the bytes that are left, sizes with checked arithmetic, every tensor's
// range against the file and against its neighbours. An error names the file, the key or tensor,
// and the byte offset. Not read: versions 1 and 2, big-endian files, nested arrays.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <variant>
#include <vector>

#include "base/files.h"
#include "base/strings.h"
#include "formats/ggml_types.h"
#include "tensor/weight.h"

namespace hone {

/// Types of metadata values, numbered as in the file.
enum class GgufType : uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12
};
/// "u32", "string", ...
std::string_view gguf_type_name(GgufType type);

/// A metadata value: its type in the file, and its content widened to one type of each kind.
struct GgufValue {
  using Data = std::variant<uint64_t, int64_t, double, bool, std::string, std::vector<uint64_t>,
                            std::vector<int64_t>, std::vector<float>, std::vector<double>,
                            std::vector<bool>, Strings>;
  GgufType type;                    ///< GgufType::array for arrays
  GgufType element = GgufType::u8;  ///< type of an array's elements
  Data data;

  static GgufValue u32(uint32_t x) { return {GgufType::u32, {}, uint64_t{x}}; }
  static GgufValue u16(uint16_t x) { return {GgufType::u16, {}, uint64_t{x}}; }
  static GgufValue i32(int32_t x) { return {GgufType::i32, {}, int64_t{x}}; }
  static GgufValue u64(uint64_t x) { return {GgufType::u64, {}, x}; }
  static GgufValue f32(float x) { return {GgufType::f32, {}, double{x}}; }
  static GgufValue boolean(bool x) { return {GgufType::boolean, {}, x}; }
  static GgufValue string(std::string x) { return {GgufType::string, {}, std::move(x)}; }
  static GgufValue strings(Strings x) { return {GgufType::array, GgufType::string, std::move(x)}; }
  static GgufValue floats(std::vector<float> x) {
    return {GgufType::array, GgufType::f32, std::move(x)};
  }
  static GgufValue i32s(std::vector<int64_t> x) {
    return {GgufType::array, GgufType::i32, std::move(x)};
  }

  bool operator==(const GgufValue&) const = default;
};

struct GgufEntry {
  std::string key;
  GgufValue value;
};

struct GgufTensor {
  std::string name;
  std::vector<int64_t> ne;  ///< sizes as in the file: ne[0] = K varies fastest
  uint32_t ggml_type = 0;
  int64_t offset = 0;  ///< first byte, counted from the start of the file
  int64_t size = 0;    ///< bytes
  int shard = 0;       ///< which file of a split set

  /// Sizes in hone's order: [N, K], or [n].
  Shape shape() const { return {ne.rbegin(), ne.rend()}; }
};

/// An open GGUF: metadata parsed, tensors mapped. Copies share the map; thread-safe.
class GgufFile {
 public:
  /// Opens one file, or the whole set where `path` is any of name-00001-of-0000N.gguf (metadata is
  /// then the first file's). Raises io, corrupt or unsupported.
  static GgufFile open(const fs::path& path);

  const fs::path& path() const { return path_; }
  /// In file order.
  const std::vector<GgufEntry>& metadata() const { return metadata_; }
  const GgufValue* find(const std::string& key) const;

  // Typed look-ups. find_x: nothing where the key is absent; get_x: absent raises corrupt. Both
  // raise corrupt, naming file and key, where the value has another type or does not fit. Integers
  // of any width and sign are accepted as u64 where not negative, and as f64.
  std::optional<uint64_t> find_u64(const std::string& key) const;
  std::optional<double> find_f64(const std::string& key) const;
  std::optional<bool> find_bool(const std::string& key) const;
  std::optional<std::string> find_string(const std::string& key) const;
  std::optional<std::vector<int64_t>> find_ints(const std::string& key) const;
  const std::vector<float>* find_floats(const std::string& key) const;
  const Strings* find_strings(const std::string& key) const;
  uint64_t get_u64(const std::string& key) const;
  double get_f64(const std::string& key) const;
  bool get_bool(const std::string& key) const;
  std::string get_string(const std::string& key) const;
  std::vector<int64_t> get_ints(const std::string& key) const;
  const std::vector<float>& get_floats(const std::string& key) const;
  const Strings& get_strings(const std::string& key) const;

  /// In file order, all shards.
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* find_tensor(const std::string& name) const;
  /// The tensor's bytes in the map.
  std::span<const std::byte> bytes(const GgufTensor& tensor) const;
  /// A tensor of scalars, borrowed from the map (copied where the file misaligns it). Raises
  /// corrupt where there is no such tensor, unsupported where it is made of blocks.
  Tensor tensor(const std::string& name) const;
  /// The tensor as a Weight whose planes borrow the map: "values" of its shape for floats, "blocks"
  /// u8 [rows, bytes per row] for block types. Raises as tensor(); integers are unsupported.
  Weight weight(const std::string& name) const;
  /// The tensor's pages need not stay in memory; they are read again when touched.
  void release(const std::string& name) const;

 private:
  void read_shard(const fs::path& path, int shard);
  void add_tensors(std::vector<GgufTensor> tensors);
  const GgufTensor& get_tensor(const std::string& name) const;
  template <typename T>
  T require(std::optional<T> value, const std::string& key) const;

  fs::path path_;
  std::vector<std::shared_ptr<const MappedFile>> maps_;
  std::vector<GgufEntry> metadata_;
  std::unordered_map<std::string, size_t> keys_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string, size_t> names_;
};

/// Writes a GGUF file in bounded memory: metadata and tensor shapes are declared first, then each
/// tensor's bytes follow in the order of declaration. The file appears under its name, complete and
/// synced, when finish() returns; otherwise nothing stays behind.
class GgufWriter {
 public:
  static constexpr int64_t kAlignment = 32;

  explicit GgufWriter(const fs::path& path) : path_(path), file_(path) {}

  /// Appends a key. Raises invalid_argument on a duplicate, on a value outside its type, and after
  /// the first write().
  void set(const std::string& key, GgufValue value);
  /// Appends a tensor of `shape` [N, K] (or [n], up to rank 4) in the GGUF type whose id is
  /// `encoding`. Raises invalid_argument on a duplicate, a name of 64 bytes or more (llama.cpp's
  /// limit), or rows that are no multiple of the block; unsupported where GGUF has no such type.
  void declare(const std::string& name, const Shape& shape, const std::string& encoding);
  /// The data of the next declared tensor, which must be `name` and have this size.
  void write(const std::string& name, std::span<const std::byte> bytes);
  /// As above, from a float or block Weight equal in shape and encoding to the declaration.
  void write(const std::string& name, const Weight& weight);
  /// Raises invalid_argument where a declared tensor was not written.
  void finish();

 private:
  struct Declared {
    std::string name;
    Shape shape;
    const GgmlType* type;
    int64_t size;
  };
  void write_header();

  fs::path path_;
  AtomicFile file_;
  std::vector<GgufEntry> metadata_;
  std::vector<Declared> tensors_;
  std::unordered_set<std::string> seen_keys_;
  std::unordered_set<std::string> seen_names_;
  size_t written_ = 0;
  bool header_done_ = false;
};

}  // namespace hone
