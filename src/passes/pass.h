// Pass: one optimisation of a model. A new one is one file and one line in registry.cpp.
//
// A pass works unit by unit: a unit is a block (or, for block == −1, what lies outside the blocks:
// embedding and head). After each unit the runner stores the changed weights in the journal, so
// that an interrupted run resumes behind the last finished unit. A pass must therefore depend on
// nothing but the model, its options, the calibration and the seed, never on time or thread count.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/options.h"
#include "models/export.h"
#include "models/loader.h"
#include "passes/calibration.h"

namespace hone {

class CalibrationWalk;

/// What one pass did to one Linear (or the embedding), for the report.
struct LayerRecord {
  std::string module;
  std::string before, after;  ///< encodings
  int64_t bytes_before = 0, bytes_after = 0;
  /// ‖(W−Ŵ)X‖²/‖WX‖² over the calibration inputs, of what was kept and of round-to-nearest; NaN
  /// where there was no calibration. Without inputs, error holds ‖W−Ŵ‖²/‖W‖².
  double error = 0;
  double rtn_error = 0;
  std::string kept;  ///< method whose weights were kept
  bool from_inputs = false;
};

/// Which modules a step changes: a glob ("model.layers.*.mlp.*"; '*' any text, '?' one character,
/// alternatives separated by '|'), or the pass's own choice where empty.
class ModuleFilter {
 public:
  explicit ModuleFilter(std::string glob = {}) : glob_(std::move(glob)) {}
  bool empty() const { return glob_.empty(); }
  bool matches(std::string_view module) const;

 private:
  std::string glob_;
};

struct PassContext {
  LoadedModel& model;
  ModuleFilter modules;
  const Calibration* calibration = nullptr;  ///< set where the pass needs one
  uint64_t seed = 0;
  std::vector<LayerRecord>* records = nullptr;
  /// A unit is finished: its weights may be stored. Throws where the run is to stop.
  std::function<void(int64_t block)> unit_done;
  /// Units below this were finished before an interruption; their weights are in the model already.
  int64_t first_unit = -1;
  std::function<void(int64_t done, int64_t total, const std::string& note)> progress;
  /// For a conversion that takes long: what it found for a block may be stored, and asked for again
  /// by a resumed run, which gets nothing where that block was not finished. May be empty.
  std::function<void(int64_t block, const std::vector<NamedTensor>& found)> store_unit = nullptr;
  std::function<std::vector<NamedTensor>(int64_t block)> stored_unit = nullptr;

  /// The Linears of a block that the filter selects; for block −1 the head, if `head` or named.
  std::vector<Linear*> selected(int64_t block, bool head) const;
  bool embedding_selected(bool by_default) const;
};

/// What must hold between the steps of a recipe.
enum class PassKind {
  /// Rewrites the model in float (rotation): before any quantisation. Quick, and a function of seed
  /// and calibration; no unit of it is stored, a resumed run does it again.
  transform,
  convert,  ///< likewise, into a model that computes nearly the same (gqa, linearise)
  /// Changes no weight but how layers use them: anywhere in a recipe.
  configure,
  encode,  ///< changes how weights are stored: once for each module
  /// Sets weights to zero and leaves them floats: module by module, before their encoding.
  sparsify,
};
/// Takes a module glob, and is stored unit by unit.
inline bool works_on_modules(PassKind k) {
  return k == PassKind::encode || k == PassKind::sparsify;
}

class Pass {
 public:
  virtual ~Pass() = default;
  virtual PassKind kind() const = 0;
  virtual bool needs_calibration() const { return false; }
  /// Works on the Linears of blocks only, whatever the module glob says.
  virtual bool blocks_only() const { return false; }
  /// Without a module glob it takes embedding and head too.
  virtual bool ends_by_default() const { return false; }
  /// Moves scales between what it stores: norms in front of it and its biases change too.
  virtual bool folds_scales() const { return false; }
  /// A later step must not store the same module again.
  virtual bool is_final() const { return true; }
  virtual void visit_options(OptionVisitor& v) = 0;
  /// Raises invalid_argument where the options make no sense together.
  virtual void check_options() const {}
  /// Raises unsupported, with the reason, where the pass cannot work on such a model.
  virtual void check_model(const Model&) const {}
  /// Raises unsupported, with the reason, where a layout cannot hold what the pass makes, but for
  /// the weights' encodings.
  virtual void check_layout(const std::string&) const {}
  /// The form in which it stores a matrix with K columns, so that what cannot be stored or written
  /// is refused before anything runs.
  virtual WeightForm form(int64_t k) const = 0;
  /// That of one module of a model, for passes that tell modules apart.
  virtual WeightForm form_of(const LoadedModel& model, const std::string& module, int64_t k) const {
    (void)model, (void)module;
    return form(k);
  }
  /// general.file_type of a GGUF file that holds what it makes, where the encodings do not say it.
  virtual std::optional<uint32_t> gguf_file_type() const { return std::nullopt; }
  virtual void run(PassContext& context) = 0;
};

struct PassEntry {
  const char* name;
  const char* summary;
  std::unique_ptr<Pass> (*make)();
};
std::span<const PassEntry> pass_registry();
/// Raises invalid_argument naming the known passes.
const PassEntry& pass_named(const std::string& name);

/// Takes the calibration through the blocks: `change` gets the walk in front of a block and leaves
/// it in front of the next one, or in the last block. Units that a run before finished are walked
/// through as they are; of the others each is reported as done.
void each_calibrated_block(PassContext& context,
                           const std::function<void(CalibrationWalk& walk)>& change);
/// int_group of rows with K columns; a group of 0 or K is the whole row.
WeightForm integer_form(int64_t bits, int64_t group, bool symmetric, int64_t k);
/// Replaces a Linear's weight by `w` and records it. `values` are the f32 weights before.
void replace_weight(PassContext& context, Linear& linear, Weight w, const Tensor& values,
                    const char* kept);
/// Encodes `values` [N, K] of `module`, columns weighed by `importance` [K] if not empty; raises
/// unsupported with the encoding's reason.
Weight encode_module(const std::string& module, const Tensor& values, const WeightForm& form,
                     std::span<const float> importance = {});
/// ‖a−b‖²/‖a‖²; 0 where both are zero.
double relative_error(const Tensor& a, const Tensor& b);
/// What becomes of a module's f32 values [N, K].
using EncodeModule = std::function<Weight(const std::string& module, const Tensor& values)>;
/// Stores the selected Linears and the embedding, if selected, as `encoded` makes them, unit by
/// unit. All that a pass without calibration does.
void encode_each_by(PassContext& context, const Pass& pass, const char* kept,
                    const EncodeModule& encoded);
/// The same in the pass's form; `adjust`, if given, changes the f32 values [N, K] first, and
/// `importance` gives weights of the columns, or none.
void encode_each(
    PassContext& context, const Pass& pass, const char* kept,
    const std::function<void(Tensor& values)>& adjust = nullptr,
    const std::function<std::span<const float>(const std::string& module)>& importance = nullptr);
/// The part of it that is the embedding and the head; no unit is done by it.
void encode_ends(PassContext& context, const Pass& pass, const char* kept);

}  // namespace hone
