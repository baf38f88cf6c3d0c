// What the layouts of Hugging Face directories share: config.json, texts, plain float tensors, and
// writing a directory all or nothing.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/safetensors.h"

namespace hone {

/// config.json of `directory`, an object. Where it has no "quantization_config" but the legacy
/// quantize_config.json of GPTQ, quant_config.json of AutoAWQ or hf_quant_config.json of ModelOpt
/// lies beside it, that takes its place. Raises io or corrupt.
Json read_hf_config(const fs::path& directory);
/// config["quantization_config"]["quant_method"], or empty for plain floats.
std::string quant_method(const Json& config, const std::string& source);
/// Whether `path` is a directory with a config.json of this quantisation method.
bool is_hf_directory(const fs::path& path, std::string_view method);

/// A directory whose tensors are plain floats. Layouts derive from it: they hide the tensors that
/// are parts of a weight and make that weight themselves.
class HfCheckpoint : public Checkpoint {
 public:
  HfCheckpoint(const fs::path& directory, const char* layout);

  std::vector<std::string> names() const override { return {names_.begin(), names_.end()}; }
  bool has(const std::string& name) const override { return names_.contains(name); }
  Weight weight(const std::string& name) const override;
  void release(const std::string& name) const override;
  std::optional<std::string> text(const std::string& name) const override;

 protected:
  /// A tensor that must have this type and shape (−1 = any size); corrupt otherwise.
  Tensor part(const std::string& name, std::initializer_list<DType> types,
              const Shape& shape) const;

  /// The same where the tensor is, otherwise an empty handle.
  Tensor part_if(const std::string& name, std::initializer_list<DType> types,
                 const Shape& shape) const;
  /// From now on the tensors `parts`, those of them that there are, make up the weight `name`.
  void join(const std::string& name, std::initializer_list<std::string> parts);

  SafetensorsSet tensors_;
  std::set<std::string> names_;

 private:
  std::map<std::string, std::vector<std::string>> parts_;
};

/// The bytes of a tensor, of which there must be as many, as u8 of this shape: shared where they
/// lie in a file.
Tensor bytes_of(const Tensor& t, const Shape& shape);

/// One tensor of a file, made from the weight it belongs to.
struct HfPiece {
  std::string name;
  DType dtype;
  Shape shape;
  const WeightInfo* weight;
  std::function<Tensor(const Weight&)> make;
};

/// The float tensor of `weight`, under its own name.
HfPiece float_piece(const WeightInfo& weight);
/// Whether `encoding` is a float type that safetensors stores.
bool is_float_encoding(std::string_view encoding);
/// Why no directory holds these floats: 8-bit ones with scales. Empty where one does.
std::string float_refusal(const WeightInfo& weight);
/// "X" of "X.weight"; raises invalid_argument for other names.
std::string module_of(const std::string& weight_name);

/// Writes config.json with `quantization` (if not null) as its quantization_config, contents.texts,
/// `extra` texts, and the pieces. All or nothing, as write_checkpoint says.
void write_hf_directory(const fs::path& path, const CheckpointContents& contents,
                        const Json& quantization, const std::vector<HfPiece>& pieces,
                        const std::vector<std::pair<std::string, std::string>>& extra = {});

}  // namespace hone
