#include "formats/hf_directory.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "formats/file_util.h"
#include "formats/json_fields.h"
#include "formats/printable.h"

namespace hone {
namespace {

constexpr size_t kMaxConfig = size_t{16} << 20;

bool is_plain_name(const std::string& name) {
  return !name.empty() && name[0] != '.' &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
}

/// The weight that was asked for last. The pieces of one weight follow each other within a type, so
/// that few weights are asked for twice.
class HeldWeight {
 public:
  explicit HeldWeight(const CheckpointContents& contents) : contents_(contents) {}

  const Weight& get(const WeightInfo& info) {
    if (info_ == &info) return weight_;
    for (const auto& [name, plane] : weight_.planes) plane.release_pages();
    weight_ = Weight();
    weight_ = contents_.weight(info.name);
    HONE_CHECK(weight_.encoding == info.encoding && weight_.shape == info.shape &&
                   weight_.params == info.params,
               invalid_argument, "weight {} is not what was announced", printable(info.name));
    info_ = &info;
    return weight_;
  }

 private:
  const CheckpointContents& contents_;
  const WeightInfo* info_ = nullptr;
  Weight weight_;
};

Json read_object(const fs::path& path) {
  Json json = parse_json(read_text_file(path, kMaxConfig), path.string());
  HONE_CHECK(json.is_object(), corrupt, "{}: expected a JSON object", path.string());
  return json;
}

/// The quantization_config that a file beside config.json stands for, or null.
Json legacy_quantization(const fs::path& directory) {
  if (fs::path gptq = directory / "quantize_config.json"; file_exists(gptq)) {
    Json q = read_object(gptq);
    if (!q.contains("quant_method")) q["quant_method"] = "gptq";
    return q;
  }
  if (fs::path awq = directory / "quant_config.json"; file_exists(awq)) {
    Json q = read_object(awq);
    q["quant_method"] = "awq";
    for (auto [old, name] : {std::pair("w_bit", "bits"), std::pair("q_group_size", "group_size")})
      if (q.contains(old)) q[name] = q[old];
    return q;
  }
  if (fs::path modelopt = directory / "hf_quant_config.json"; file_exists(modelopt)) {
    const Json q = read_object(modelopt);
    const Json* inner = find_field(q, "quantization");
    HONE_CHECK(inner != nullptr && inner->is_object(), corrupt,
               "{}: \"quantization\": expected an object", modelopt.string());
    Json flat = *inner;
    flat["quant_method"] = "modelopt";
    return flat;
  }
  return nullptr;
}

}  // namespace

Json read_hf_config(const fs::path& directory) {
  Json config = read_object(directory / "config.json");
  if (find_field(config, "quantization_config") == nullptr)
    if (Json legacy = legacy_quantization(directory); !legacy.is_null())
      config["quantization_config"] = std::move(legacy);
  return config;
}

std::string quant_method(const Json& config, const std::string& source) {
  const Json* quantization = find_field(config, "quantization_config");
  if (quantization == nullptr) return {};
  HONE_CHECK(quantization->is_object(), corrupt, "{}: \"quantization_config\": expected an object",
             source);
  std::string method = string_field(*quantization, "quant_method", "", source);
  HONE_CHECK(!method.empty(), corrupt, "{}: \"quantization_config\" names no \"quant_method\"",
             source);
  return method;
}

bool is_hf_directory(const fs::path& path, std::string_view method) {
  return file_exists(path / "config.json") &&
         quant_method(read_hf_config(path), (path / "config.json").string()) == method;
}

HfCheckpoint::HfCheckpoint(const fs::path& directory, const char* layout_name) {
  path = directory;
  layout = layout_name;
  config = read_hf_config(directory);
  std::string source = (directory / "config.json").string();
  architecture = string_field(config, "model_type", "", source);
  HONE_CHECK(!architecture.empty(), corrupt, "{}: \"model_type\" is missing", source);
  tensors_ = SafetensorsSet::open(directory);
  for (std::string& name : tensors_.names()) names_.insert(std::move(name));
}

Weight HfCheckpoint::weight(const std::string& name) const {
  const SafetensorsEntry* e = tensors_.find(name);
  HONE_CHECK(e != nullptr, corrupt, "{}: the tensor {} is missing", path.string(), printable(name));
  HONE_CHECK(is_float(e->dtype), unsupported, "{}: tensor {}: a weight of type {}", path.string(),
             printable(name), e->type);
  return float_weight(tensors_.tensor(name));
}

std::optional<std::string> HfCheckpoint::text(const std::string& name) const {
  if (!is_plain_name(name) || !file_exists(path / name)) return std::nullopt;
  return read_text_file(path / name);
}

Tensor HfCheckpoint::part(const std::string& name, std::initializer_list<DType> types,
                          const Shape& shape) const {
  const SafetensorsEntry* e = tensors_.find(name);
  HONE_CHECK(e != nullptr, corrupt, "{}: the tensor {} is missing", path.string(), printable(name));
  bool fits = e->shape.size() == shape.size() &&
              std::find(types.begin(), types.end(), e->dtype) != types.end();
  for (size_t i = 0; fits && i < shape.size(); ++i)
    fits = shape[i] == -1 || shape[i] == e->shape[i];
  HONE_CHECK(fits, corrupt, "{}: tensor {}: expected {} {} (-1: any size), got {} {}",
             path.string(), printable(name), dtype_name(*types.begin()), shape_string(shape),
             e->type, shape_string(e->shape));
  return tensors_.tensor(name);
}

Tensor HfCheckpoint::part_if(const std::string& name, std::initializer_list<DType> types,
                             const Shape& shape) const {
  return tensors_.has(name) ? part(name, types, shape) : Tensor();
}

void HfCheckpoint::join(const std::string& name, std::initializer_list<std::string> parts) {
  for (const std::string& p : parts) {
    if (!tensors_.has(p)) continue;
    names_.erase(p);
    parts_[name].push_back(p);
  }
  names_.insert(name);
}

void HfCheckpoint::release(const std::string& name) const {
  auto it = parts_.find(name);
  if (it == parts_.end()) return tensors_.release(name);
  for (const std::string& p : it->second) tensors_.release(p);
}

Tensor bytes_of(const Tensor& t, const Shape& shape) {
  const auto size = static_cast<size_t>(t.byte_size());
  if (t.borrowed())
    return Tensor::borrow(shape, DType::u8, {t.raw(), size}, std::make_shared<Tensor>(t));
  Tensor copy = Tensor::empty(shape, DType::u8);
  HONE_ASSERT(copy.byte_size() == t.byte_size());
  std::memcpy(copy.mutable_raw(), t.raw(), size);
  return copy;
}

bool is_float_encoding(std::string_view encoding) {
  for (DType t : {DType::f32, DType::f64, DType::f16, DType::bf16, DType::f8_e4m3, DType::f8_e5m2})
    if (dtype_name(t) == encoding) return true;
  return false;
}

std::string float_refusal(const WeightInfo& w) {
  if (!w.params.row_scaled) return {};
  return fmt::format(
      "{} with row scales has no place in it; give a float type to decode to "
      "(--decode-to)",
      w.encoding);
}

HfPiece float_piece(const WeightInfo& weight) {
  DType dtype = DType::f32;
  for (DType t : {DType::f64, DType::f16, DType::bf16, DType::f8_e4m3, DType::f8_e5m2})
    if (dtype_name(t) == weight.encoding) dtype = t;
  return {weight.name, dtype, weight.shape, &weight, [name = weight.name](const Weight& w) {
            HONE_CHECK(w.planes.size() == 1, unsupported,
                       "weight {}: a plain tensor has no place for its row scales",
                       printable(name));
            return w.plane("values");
          }};
}

std::string module_of(const std::string& weight_name) {
  constexpr std::string_view kSuffix = ".weight";
  HONE_CHECK(weight_name.size() > kSuffix.size() && weight_name.ends_with(kSuffix),
             invalid_argument, "{}: a quantised tensor's name should end in {}",
             printable(weight_name), kSuffix);
  return weight_name.substr(0, weight_name.size() - kSuffix.size());
}

void write_hf_directory(const fs::path& path, const CheckpointContents& contents,
                        const Json& quantization, const std::vector<HfPiece>& pieces,
                        const std::vector<std::pair<std::string, std::string>>& extra) {
  Temporary directory(path, Temporary::Kind::directory);
  Json config = contents.config;
  config.erase("quantization_config");
  if (!quantization.is_null()) config["quantization_config"] = quantization;
  write_text_file(directory.path() / "config.json", config.dump(2) + "\n");
  for (const auto* texts : {&contents.texts, &extra})
    for (const auto& [name, text] : *texts) {
      HONE_CHECK(is_plain_name(name) && name != "config.json", invalid_argument,
                 "{} is no name for a text of a checkpoint", printable(name));
      write_text_file(directory.path() / name, text);
    }

  std::vector<SafetensorsEntry> entries;
  std::unordered_map<std::string, const HfPiece*> by_name;
  for (const HfPiece& p : pieces) {
    entries.push_back({p.name, "", p.dtype, p.shape, 0, 0});
    by_name[p.name] = &p;
  }
  HeldWeight held(contents);
  write_safetensors_set(directory.path(), SafetensorsSet::kModel, entries, contents.max_shard_bytes,
                        {{"format", "pt"}}, [&](const SafetensorsEntry& e) {
                          const HfPiece& piece = *by_name.at(e.name);
                          return piece.make(held.get(*piece.weight));
                        });
  directory.commit();
}

}  // namespace hone
