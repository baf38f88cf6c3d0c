// Journal: what an interrupted run leaves behind, so that `--resume` ends in the same bytes.
//
// A directory beside the output holds journal.json, which pins everything the bytes depend on
// (recipe, model file, calibration, seed, instruction set), and one safetensors file for each
// finished unit of each step. Files appear whole or not at all; the directory goes when the output
// is complete.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "passes/pass.h"

namespace hone {

class Journal {
 public:
  /// `identity` pins the run. With resume, an existing journal of another identity is refused
  /// (invalid_argument, naming the key that differs); without, an existing journal is an error that
  /// names --resume, unless `restart`.
  /// A journal without index or without a finished unit is no journal. It is locked while this
  /// lives; raises io where another run has it, or where something else bears its name.
  Journal(std::filesystem::path directory, const Json& identity, bool resume, bool restart);
  /// Removes a journal that holds no unit.
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  /// Puts the weights of all finished units of a step into the model, appends their records, and
  /// returns the first unit that is not finished (−1 … blocks).
  int64_t restore(int64_t step, LoadedModel& model, std::vector<LayerRecord>& records);
  /// Stores the named modules' weights, the norms and biases of the block, and the records as unit
  /// `unit` of a step.
  void store(int64_t step, int64_t unit, LoadedModel& model,
             const std::vector<LayerRecord>& records);
  /// What a conversion found for one block, and what it was; nothing where none is stored.
  void store_tensors(int64_t step, int64_t unit, const std::vector<NamedTensor>& tensors);
  std::vector<NamedTensor> stored_tensors(int64_t step, int64_t unit) const;
  void remove();

 private:
  void lock();
  /// Whether a file in the directory is one that a journal writes.
  static bool is_own(const std::filesystem::path& path);
  bool has_units() const;
  /// Removes every file of the journal, the index last.
  void clear();
  std::filesystem::path unit_path(int64_t step, int64_t unit) const;
  std::filesystem::path directory_;
  // Of the directory; closed, and thereby unlocked, also where the constructor throws.
  struct Descriptor {
    int fd = -1;
    ~Descriptor();
  } lock_;
};

}  // namespace hone
