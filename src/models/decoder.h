// Builds a Model from a ModelConfig and a place to read parameters from: the same code for every
// family and file format.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "models/family.h"
#include "nn/model.h"

namespace hone {

/// Where parameters come from, by the names of one file format.
struct ParameterNames {
  bool gguf = false;   ///< names and row orders of GGUF; else of Hugging Face
  std::string source;  ///< named in errors
  std::function<bool(const std::string&)> has;
  std::function<Weight(const std::string&)> get;
};

/// Called with each Linear's weight as it is read; returns what the Model keeps. For load-time
/// quantisation. `role` is never embedding.
using WeightTransform = std::function<Weight(Weight w, Role role, const std::string& path)>;

/// Reads parameters in hone's canonical form: Hugging Face's row order, one matrix for each role.
class ParameterReader {
 public:
  ParameterReader(const Family& family, const ModelConfig& config, ParameterNames names)
      : family_(family), config_(config), names_(std::move(names)) {}

  bool has(Role role, int64_t layer = 0) const;
  /// The matrix [N, K], or raises corrupt naming the tensor that is missing or has another shape.
  Weight matrix(Role role, int64_t layer, int64_t n, int64_t k, int64_t expert = 0) const;
  /// A vector as f32 [n]; an empty handle where the file has none and `required` is false.
  Tensor vector(Role role, int64_t layer, const char* suffix, int64_t n, bool required,
                int64_t expert = 0) const;
  /// Fills a mixer's parameters. `change` is applied to the weights that passes may change.
  void fill(Mixer& mixer, int64_t layer, const WeightTransform& change) const;
  /// The matrix as the file holds it; nothing where it has none.
  std::optional<Weight> stored(Role role, int64_t layer) const;
  std::string path(Role role, int64_t layer, int64_t expert = 0) const;
  const ParameterNames& names() const { return names_; }

 private:
  Weight part_of(const MixerSlot& slot, const std::string& name, const Shape& shape) const;
  const Slot* slot(Role role) const;
  std::string stored_name(const Slot& slot, int64_t layer, const char* suffix,
                          int64_t expert = 0) const;

  const Family& family_;
  const ModelConfig& config_;
  ParameterNames names_;
};

/// One expert's matrix of a weight [experts, N, K] that holds all; its planes are views of theirs.
Weight expert_of(Weight all, int64_t expert);

/// The order of canonical rows in a matrix whose heads have paired rows (see Slot), for both
/// directions: canonical row i is paired row order[i]. Of each head the first `paired` rows; 0 =
/// all.
std::vector<int64_t> unpair_rows(int64_t rows, int64_t head_dim, int64_t paired = 0);
std::vector<int64_t> pair_rows(int64_t rows, int64_t head_dim, int64_t paired = 0);

/// `pack`: each Linear goes to kernel layout at once and drops its canonical weight (inference).
std::unique_ptr<Model> build_model(const ModelConfig& config, const ParameterReader& reader,
                                   const WeightTransform& transform, bool pack);

}  // namespace hone
