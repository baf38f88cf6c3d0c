// Sharded safetensors: an index (name → file) beside numbered files.
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "base/checked.h"
#include "base/json.h"
#include "formats/file_util.h"
#include "formats/printable.h"
#include "formats/safetensors.h"

namespace hone {
namespace {

constexpr size_t kMaxIndex = size_t{64} << 20;

fs::path single_path(const fs::path& directory, const std::string& stem) {
  return directory / (stem + ".safetensors");
}
fs::path index_path(const fs::path& directory, const std::string& stem) {
  return directory / (stem + ".safetensors.index.json");
}

// A plain name inside the directory: a hostile index must not reach other files.
void check_file_name(const std::string& name, const fs::path& index) {
  HONE_CHECK(!name.empty() && name != "." && name != ".." &&
                 name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos,
             corrupt, "{}: {} is no plain file name", index.string(), printable(name));
}

/// The index's "weight_map", as name → file name.
std::map<std::string, std::string> read_index(const fs::path& path) {
  Json index = parse_json(read_text_file(path, kMaxIndex), path.string());
  HONE_CHECK(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(),
             corrupt, "{}: expected an object with \"weight_map\"", path.string());
  std::map<std::string, std::string> files;
  for (const auto& [name, file] : index["weight_map"].items()) {
    HONE_CHECK(file.is_string(), corrupt, "{}: tensor {}: expected a file name", path.string(),
               printable(name));
    check_file_name(file.get_ref<const std::string&>(), path);
    files[name] = file.get<std::string>();
  }
  return files;
}

}  // namespace

bool SafetensorsSet::exists(const fs::path& directory, const std::string& stem) {
  return file_exists(single_path(directory, stem)) || file_exists(index_path(directory, stem));
}

SafetensorsSet SafetensorsSet::open(const fs::path& directory, const std::string& stem) {
  SafetensorsSet set;
  set.directory_ = directory;
  if (file_exists(single_path(directory, stem))) {
    set.files_.push_back(SafetensorsFile::open(single_path(directory, stem)));
    for (const SafetensorsEntry& e : set.files_[0].entries()) set.owner_[e.name] = 0;
    return set;
  }
  fs::path index = index_path(directory, stem);
  HONE_CHECK(file_exists(index), io, "{}: neither {}.safetensors nor its index is there",
             directory.string(), stem);
  std::unordered_map<std::string, size_t> opened;
  for (const auto& [name, file] : read_index(index)) {
    auto [it, fresh] = opened.emplace(file, set.files_.size());
    if (fresh) set.files_.push_back(SafetensorsFile::open(directory / file));
    HONE_CHECK(set.files_[it->second].has(name), corrupt, "{}: tensor {} is not in {}",
               index.string(), printable(name), file);
    set.owner_[name] = it->second;
  }
  return set;
}

std::vector<std::string> SafetensorsSet::names() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : owner_) names.push_back(name);
  return names;
}

const SafetensorsEntry* SafetensorsSet::find(const std::string& name) const {
  auto it = owner_.find(name);
  return it == owner_.end() ? nullptr : files_[it->second].find(name);
}

const SafetensorsFile& SafetensorsSet::file_of(const std::string& name) const {
  auto it = owner_.find(name);
  HONE_CHECK(it != owner_.end(), corrupt, "{}: the tensor {} is missing", directory_.string(),
             printable(name));
  return files_[it->second];
}

Tensor SafetensorsSet::tensor(const std::string& name) const { return file_of(name).tensor(name); }
void SafetensorsSet::release(const std::string& name) const { file_of(name).release(name); }

void write_safetensors_set(const fs::path& directory, const std::string& stem,
                           const std::vector<SafetensorsEntry>& entries, int64_t max_shard_bytes,
                           const std::map<std::string, std::string>& metadata,
                           const std::function<Tensor(const SafetensorsEntry&)>& make) {
  // Greedy, in the order given; a tensor larger than a shard gets one of its own.
  std::vector<std::vector<const SafetensorsEntry*>> shards(1);
  int64_t total = 0;
  int64_t used = 0;
  for (const SafetensorsEntry& e : entries) {
    int64_t size =
        checked_mul(checked_numel(e.shape, e.name.c_str()), dtype_size(e.dtype), e.name.c_str());
    if (max_shard_bytes > 0 && used > 0 && size > max_shard_bytes - used) {
      shards.emplace_back();
      used = 0;
    }
    shards.back().push_back(&e);
    used = checked_add(used, size, "shard");
    total = checked_add(total, size, "model");
  }

  std::map<std::string, std::string> owner;
  for (size_t i = 0; i < shards.size(); ++i) {
    std::string file = shards.size() == 1 ? stem + ".safetensors"
                                          : fmt::format("{}-{:05}-of-{:05}.safetensors", stem,
                                                        i + 1, shards.size());
    SafetensorsWriter writer(directory / file, metadata);
    std::unordered_map<std::string, const SafetensorsEntry*> by_name;
    for (const SafetensorsEntry* e : shards[i]) {
      writer.declare(e->name, e->dtype, e->shape);
      by_name[e->name] = e;
      HONE_CHECK(owner.emplace(e->name, file).second, invalid_argument,
                 "tensor {} is to be written twice", printable(e->name));
    }
    for (const std::string& name : writer.order()) writer.write(name, make(*by_name.at(name)));
    writer.finish();
  }
  if (shards.size() == 1) return;
  Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", owner}};
  write_text_file(index_path(directory, stem), index.dump(2) + "\n");
}

}  // namespace hone
