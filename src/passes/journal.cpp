#include "passes/journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <map>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "formats/safetensors.h"

namespace hone {
namespace {

constexpr const char* kIndex = "journal.json";

Json params_json(const WeightParams& p) {
  return {{"bits", p.bits},
          {"group", p.group},
          {"symmetric", p.symmetric},
          {"act_order", p.act_order},
          {"block", p.block},
          {"double_quant", p.double_quant},
          // As bits: the offset must come back exactly.
          {"nested_offset", std::bit_cast<uint32_t>(p.nested_offset)},
          {"scale_type", static_cast<int>(p.scale_type)},
          {"row_scaled", p.row_scaled}};
}

WeightParams params_from(const Json& j) {
  WeightParams p;
  p.bits = j.at("bits").get<int>();
  p.group = j.at("group").get<int64_t>();
  p.symmetric = j.at("symmetric").get<bool>();
  p.act_order = j.at("act_order").get<bool>();
  p.block = j.at("block").get<int64_t>();
  p.double_quant = j.at("double_quant").get<bool>();
  p.nested_offset = std::bit_cast<float>(j.at("nested_offset").get<uint32_t>());
  p.scale_type = static_cast<DType>(j.at("scale_type").get<int>());
  p.row_scaled = j.at("row_scaled").get<bool>();
  return p;
}

Json record_json(const LayerRecord& r) {
  auto number = [](double x) { return std::isnan(x) ? Json(nullptr) : Json(x); };
  return {{"module", r.module},
          {"before", r.before},
          {"after", r.after},
          {"bytes_before", r.bytes_before},
          {"bytes_after", r.bytes_after},
          {"error", number(r.error)},
          {"rtn_error", number(r.rtn_error)},
          {"kept", r.kept},
          {"from_inputs", r.from_inputs}};
}

LayerRecord record_from(const Json& j) {
  auto number = [&](const char* key) {
    return j.at(key).is_null() ? std::nan("") : j.at(key).get<double>();
  };
  LayerRecord r;
  r.module = j.at("module").get<std::string>();
  r.before = j.at("before").get<std::string>();
  r.after = j.at("after").get<std::string>();
  r.bytes_before = j.at("bytes_before").get<int64_t>();
  r.bytes_after = j.at("bytes_after").get<int64_t>();
  r.error = number("error");
  r.rtn_error = number("rtn_error");
  r.kept = j.at("kept").get<std::string>();
  r.from_inputs = j.at("from_inputs").get<bool>();
  return r;
}

std::map<std::string, Linear*> modules_of(LoadedModel& model) {
  std::map<std::string, Linear*> all;
  for (Linear* l : model.model->linears()) all[l->name()] = l;
  return all;
}

// Of a block, by names that no plane has: norms and biases, which a pass may have folded scales
// into.
std::map<std::string, Tensor> vectors_of(LoadedModel& model, int64_t unit) {
  std::map<std::string, Tensor> all;
  if (unit < 0) return all;
  Block& block = model.model->blocks[unit];
  std::vector<Norm*> norms = block.norms();
  for (size_t i = 0; i < norms.size(); ++i) {
    all[fmt::format("norm-{}-weight", i)] = norms[i]->weight;
    all[fmt::format("norm-{}-bias", i)] = norms[i]->bias;
  }
  for (const auto& stage : block.stages())
    for (const Linear* l : stage) all["bias-" + l->name()] = l->bias();
  std::erase_if(all, [](const auto& entry) { return entry.second.empty_handle(); });
  return all;
}

void restore_vectors(const SafetensorsFile& file, LoadedModel& model, int64_t unit) {
  if (unit < 0) return;
  Block& block = model.model->blocks[unit];
  const auto before = vectors_of(model, unit);
  auto stored = [&](const std::string& name) {
    Tensor t = file.tensor(name).clone();
    HONE_CHECK(t.dtype() == DType::f32 && t.shape() == before.at(name).shape(), corrupt,
               "{}: {} is {} of {}; expected f32 of {}", file.path().string(), name,
               shape_string(t.shape()), dtype_name(t.dtype()),
               shape_string(before.at(name).shape()));
    return t;
  };
  std::vector<Norm*> norms = block.norms();
  for (size_t i = 0; i < norms.size(); ++i) {
    norms[i]->weight = stored(fmt::format("norm-{}-weight", i));
    if (!norms[i]->bias.empty_handle()) norms[i]->bias = stored(fmt::format("norm-{}-bias", i));
  }
  for (const auto& stage : block.stages())
    for (Linear* l : stage)
      if (!l->bias().empty_handle()) l->set_bias(stored("bias-" + l->name()));
}

void restore_unit(const fs::path& path, int64_t unit_number, LoadedModel& model,
                  std::vector<LayerRecord>& records) {
  SafetensorsFile file = SafetensorsFile::open(path);
  Json unit = parse_json(file.metadata().at("unit"), path.string());
  auto modules = modules_of(model);
  Model& m = *model.model;
  for (const Json& entry : unit.at("modules")) {
    auto name = entry.at("name").get<std::string>();
    Weight w;
    w.shape = entry.at("shape").get<Shape>();
    w.encoding = entry.at("encoding").get<std::string>();
    w.params = params_from(entry.at("params"));
    for (const Json& plane : entry.at("planes")) {
      auto plane_name = plane.get<std::string>();
      w.planes[plane_name] = file.tensor(name + "/" + plane_name);
    }
    encoding(w.encoding).validate(w);
    if (name == m.embedding.name()) {
      m.embedding.set_weight(w);
      if (m.tied_head) m.head.set_weight(w);
    } else {
      auto it = modules.find(name);
      HONE_CHECK(it != modules.end(), corrupt, "{}: no module is called '{}'", path.string(), name);
      it->second->set_weight(w);
    }
  }
  restore_vectors(file, model, unit_number);
  for (const Json& r : unit.at("records")) records.push_back(record_from(r));
}

}  // namespace

Journal::Journal(fs::path directory, const Json& identity, bool resume, bool restart)
    : directory_(std::move(directory)) {
  lock();
  fs::path index = directory_ / kIndex;
  // Units without an index are what is left of a journal that was being removed.
  if (restart || !fs::exists(index) || !has_units()) clear();
  if (fs::exists(index)) {
    HONE_CHECK(resume, invalid_argument,
               "{}: an interrupted run left its journal here; use --resume to go on, or --restart "
               "to begin anew",
               directory_.string());
    Json before = parse_json(read_text_file(index), index.string());
    for (const auto& [key, value] : identity.items())
      HONE_CHECK(before.contains(key) && before[key] == value, invalid_argument,
                 "cannot resume: {} was {} and is now {}", key,
                 before.contains(key) ? before[key].dump().substr(0, 120) : "absent",
                 value.dump().substr(0, 120));
    return;
  }
  write_text_file(index, identity.dump(2) + "\n");
}

Journal::~Journal() {
  if (!has_units()) remove();
}

Journal::Descriptor::~Descriptor() {
  if (fd >= 0) ::close(fd);
}

void Journal::lock() {
  // Whatever else bears this name is not ours to change.
  if (fs::exists(fs::symlink_status(directory_))) {
    bool ours = fs::is_directory(directory_);
    if (ours)
      for (const auto& e : fs::directory_iterator(directory_)) ours = ours && is_own(e.path());
    HONE_CHECK(ours, io, "{}: it stands where the journal goes, and is none; move it away",
               directory_.string());
  }
  fs::create_directories(directory_);
  lock_.fd = ::open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  HONE_CHECK(lock_.fd >= 0, io, "{}: cannot be opened", directory_.string());
  HONE_CHECK(::flock(lock_.fd, LOCK_EX | LOCK_NB) == 0, io, "{}: another run is writing it",
             directory_.string());
}

bool Journal::is_own(const fs::path& path) {
  std::string name = path.filename().string();
  bool unit = name.rfind("step-", 0) == 0 && name.find(".safetensors") != std::string::npos;
  return unit || name.rfind(kIndex, 0) == 0;
}

bool Journal::has_units() const {
  std::error_code none;
  for (const auto& e : fs::directory_iterator(directory_, none))
    if (e.path().extension() == ".safetensors") return true;
  return false;
}

void Journal::clear() {
  std::vector<fs::path> units;
  for (const auto& e : fs::directory_iterator(directory_))
    if (is_own(e.path()) && e.path().filename() != kIndex) units.push_back(e.path());
  for (const fs::path& p : units) fs::remove(p);
  fs::remove(directory_ / kIndex);
}

void Journal::remove() {
  std::error_code ignored;
  if (!fs::is_directory(directory_, ignored)) return;
  clear();
  fs::remove(directory_, ignored);
}

fs::path Journal::unit_path(int64_t step, int64_t unit) const {
  return directory_ / fmt::format("step-{}-unit-{}.safetensors", step, unit + 1);
}

int64_t Journal::restore(int64_t step, LoadedModel& model, std::vector<LayerRecord>& records) {
  int64_t unit = -1;
  auto blocks = static_cast<int64_t>(model.model->blocks.size());
  // A pass may have nothing to do for unit −1 and never report it.
  if (!fs::exists(unit_path(step, -1)) && fs::exists(unit_path(step, 0))) unit = 0;
  for (; unit < blocks && fs::exists(unit_path(step, unit)); ++unit)
    restore_unit(unit_path(step, unit), unit, model, records);
  return unit;
}

void Journal::store(int64_t step, int64_t unit, LoadedModel& model,
                    const std::vector<LayerRecord>& records) {
  Json description = {{"modules", Json::array()}, {"records", Json::array()}};
  auto modules = modules_of(model);
  Model& m = *model.model;
  std::map<std::string, Tensor> tensors = vectors_of(model, unit);
  for (const LayerRecord& r : records) {
    description["records"].push_back(record_json(r));
    const Weight& w =
        r.module == m.embedding.name() ? m.embedding.weight() : modules.at(r.module)->weight();
    Json planes = Json::array();
    for (const auto& [plane, t] : w.planes) {
      planes.push_back(plane);
      tensors[r.module + "/" + plane] = t;
    }
    description["modules"].push_back({{"name", r.module},
                                      {"shape", w.shape},
                                      {"encoding", w.encoding},
                                      {"params", params_json(w.params)},
                                      {"planes", planes}});
  }
  SafetensorsWriter writer(unit_path(step, unit), {{"unit", description.dump()}});
  for (const auto& [name, t] : tensors) writer.declare(name, t.dtype(), t.shape());
  for (const std::string& name : writer.order()) writer.write(name, tensors.at(name));
  writer.finish();
}

void Journal::store_tensors(int64_t step, int64_t unit, const std::vector<NamedTensor>& tensors) {
  SafetensorsWriter writer(unit_path(step, unit), {});
  for (const NamedTensor& t : tensors) writer.declare(t.name, t.value.dtype(), t.value.shape());
  std::map<std::string, Tensor> by_name;
  for (const NamedTensor& t : tensors) by_name[t.name] = t.value;
  for (const std::string& name : writer.order()) writer.write(name, by_name.at(name));
  writer.finish();
}

std::vector<NamedTensor> Journal::stored_tensors(int64_t step, int64_t unit) const {
  std::vector<NamedTensor> out;
  if (!fs::exists(unit_path(step, unit))) return out;
  const SafetensorsFile file = SafetensorsFile::open(unit_path(step, unit));
  for (const SafetensorsEntry& e : file.entries())
    out.push_back({e.name, file.tensor(e.name).clone()});
  return out;
}

}  // namespace hone
