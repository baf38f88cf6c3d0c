// safetensors, the container of Hugging Face: named tensors behind a JSON header.
//
//   u64 header length | JSON {name: {dtype, shape, data_offsets}, "__metadata__": {text: text}} |
//   data
//
// Little-endian; the tensors' ranges tile the data without gap or overlap. Reading maps the file
// and checks all of that before anything is handed out; errors name the file, the tensor and the
// byte. A large model is several such files and an index that maps names to files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/files.h"
#include "tensor/tensor.h"

namespace hone {

/// One tensor of a file. `dtype` is how hone holds it: BOOL and F8_E8M0 as u8, unsigned integers of
/// 16 bits and more as signed ones of the same bits.
struct SafetensorsEntry {
  std::string name;
  std::string type;  ///< as in the file: "BF16", "BOOL", ...
  DType dtype = DType::u8;
  Shape shape;
  int64_t offset = 0;  ///< first byte, counted from the start of the file
  int64_t size = 0;    ///< bytes
};

/// One open file. Copies share the map; thread-safe.
class SafetensorsFile {
 public:
  /// Raises io, corrupt or (for a dtype that hone has not) unsupported.
  static SafetensorsFile open(const fs::path& path);

  const fs::path& path() const { return map_->path(); }
  /// In the order of their data.
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const SafetensorsEntry* find(const std::string& name) const;
  bool has(const std::string& name) const { return find(name) != nullptr; }
  /// Borrowed from the map (copied where the file misaligns it); raises corrupt where absent.
  Tensor tensor(const std::string& name) const;
  /// The tensor's pages need not stay in memory; they are read again when touched.
  void release(const std::string& name) const;

 private:
  std::shared_ptr<const MappedFile> map_;
  std::vector<SafetensorsEntry> entries_;
  std::unordered_map<std::string, size_t> names_;
  std::map<std::string, std::string> metadata_;
};

/// The tensors of a directory: `stem`.safetensors, or the files of `stem`.safetensors.index.json.
class SafetensorsSet {
 public:
  static constexpr const char* kModel = "model";

  /// Whether `directory` holds either form.
  static bool exists(const fs::path& directory, const std::string& stem = kModel);
  /// Raises as SafetensorsFile::open, and corrupt where the index and the files disagree or a file
  /// name in the index leaves the directory.
  static SafetensorsSet open(const fs::path& directory, const std::string& stem = kModel);

  const std::vector<SafetensorsFile>& files() const { return files_; }
  /// Ascending.
  std::vector<std::string> names() const;
  bool has(const std::string& name) const { return owner_.contains(name); }
  const SafetensorsEntry* find(const std::string& name) const;
  Tensor tensor(const std::string& name) const;
  void release(const std::string& name) const;

 private:
  const SafetensorsFile& file_of(const std::string& name) const;

  fs::path directory_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, size_t> owner_;  // name → index in files_
};

/// Writes one file in bounded memory: all tensors are declared, then written in the order of
/// order(). The bytes are those that the reference library writes for the same tensors: sorted by
/// type, then name, the header padded with spaces to 8 bytes. The file appears under its name,
/// complete and synced, when finish() returns; otherwise nothing stays behind.
class SafetensorsWriter {
 public:
  explicit SafetensorsWriter(const fs::path& path, std::map<std::string, std::string> metadata = {})
      : path_(path), file_(path), metadata_(std::move(metadata)) {}

  /// Raises invalid_argument on a duplicate or after the first write().
  void declare(const std::string& name, DType dtype, const Shape& shape);
  /// The names in the order in which write() expects them. Ends the declarations.
  const std::vector<std::string>& order();
  /// The next tensor of order(), with the declared type and shape.
  void write(const std::string& name, const Tensor& tensor);
  /// Raises invalid_argument where a declared tensor was not written.
  void finish();

 private:
  struct Declared {
    std::string name;
    DType dtype;
    Shape shape;
  };
  void write_header();

  fs::path path_;
  AtomicFile file_;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, Declared> tensors_;
  std::vector<std::string> order_;
  size_t written_ = 0;
  bool header_done_ = false;
};

/// Writes the tensors that `make` returns for `entries` (name, dtype and shape matter) into
/// `directory`: one file `stem`.safetensors where they fit into `max_shard_bytes` (0 = any size),
/// otherwise numbered shards, filled in the order given, and their index. `make` is called once for
/// each tensor, shard by shard, in SafetensorsWriter's order.
void write_safetensors_set(const fs::path& directory, const std::string& stem,
                           const std::vector<SafetensorsEntry>& entries, int64_t max_shard_bytes,
                           const std::map<std::string, std::string>& metadata,
                           const std::function<Tensor(const SafetensorsEntry&)>& make);

}  // namespace hone
