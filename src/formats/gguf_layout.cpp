// "gguf": one GGUF file (or a split set, to read); a weight is a tensor.
#include "formats/checkpoint.h"
#include "formats/printable.h"

namespace hone {
namespace gguf_layout {

class GgufCheckpoint final : public Checkpoint {
 public:
  explicit GgufCheckpoint(const fs::path& file) : file_(GgufFile::open(file)) {
    path = file;
    layout = "gguf";
    architecture = file_.get_string("general.architecture");
    Json::object_t scalars;  // filled as a vector: keys are unique, and look-ups would be linear
    for (const GgufEntry& e : file_.metadata())
      std::visit(
          [&](const auto& value) {
            using T = std::decay_t<decltype(value)>;
            if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>)
              scalars.emplace_back(e.key, value);
          },
          e.value.data);
    config = std::move(scalars);
  }

  std::vector<std::string> names() const override {
    std::vector<std::string> names;
    for (const GgufTensor& t : file_.tensors()) names.push_back(t.name);
    return names;
  }
  bool has(const std::string& name) const override { return file_.find_tensor(name) != nullptr; }
  Weight weight(const std::string& name) const override { return file_.weight(name); }
  void release(const std::string& name) const override { file_.release(name); }
  const GgufFile* gguf() const override { return &file_; }

 private:
  GgufFile file_;
};

bool can_open(const fs::path& path) { return fs::is_regular_file(path); }

std::unique_ptr<Checkpoint> open(const fs::path& path) {
  return std::make_unique<GgufCheckpoint>(path);
}

std::string refusal(const WeightInfo& weight) {
  const GgmlType* type = find_ggml_type(weight.encoding);
  if (type == nullptr || (type->scalar && !is_float(*type->scalar)))
    return fmt::format("GGUF has no type for {} weights{}", weight.encoding,
                       weight.encoding == "int_group"
                           ? " but symmetric ones of 4 or 8 bits in groups of 32, 64, ... columns"
                           : "");
  if (weight.shape.empty() || weight.shape.back() % type->block_elements != 0)
    return fmt::format("{} needs rows of a multiple of {}, not {}", type->id, type->block_elements,
                       shape_string(weight.shape));
  return {};
}

void write(const fs::path& path, const CheckpointContents& contents) {
  GgufWriter writer(path);
  for (const GgufEntry& e : contents.gguf_metadata) writer.set(e.key, e.value);
  for (const WeightInfo& w : contents.weights) writer.declare(w.name, w.shape, w.encoding);
  for (const WeightInfo& w : contents.weights) {
    Weight weight = contents.weight(w.name);
    writer.write(w.name, weight);
    for (const auto& [name, plane] : weight.planes) plane.release_pages();
  }
  writer.finish();
}

}  // namespace gguf_layout

namespace layout_entry {

const Layout& gguf() {
  static constexpr Layout kLayout = {"gguf",
                                     "GGUF file of llama.cpp",
                                     gguf_layout::can_open,
                                     gguf_layout::open,
                                     gguf_layout::refusal,
                                     gguf_layout::write,
                                     nullptr};
  return kLayout;
}

}  // namespace layout_entry
}  // namespace hone
