// Opens a MODEL as commands name it (a GGUF file, or a Hugging Face directory) and joins formats,
// families and text into something that runs.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "formats/checkpoint.h"
#include "models/config.h"
#include "models/decoder.h"
#include "models/family.h"
#include "nn/model.h"
#include "text/tokenizer.h"

namespace hone {

struct LoadOptions {
  /// Weights go to kernel layout as they are read and the canonical copy is dropped: the peak is
  /// the packed model plus one layer. Passes and export need false.
  bool inference = true;
  /// Encode every Linear but the head in this encoding while loading ("nf4", "int8_row", ...).
  std::string load_as;
};

struct LoadedModel {
  std::string path;
  std::string layout;  ///< of the files: "gguf", "hf", "gptq", ...
  std::shared_ptr<const Checkpoint> checkpoint;
  const Family* family = nullptr;
  ModelConfig config;
  std::unique_ptr<Model> model;
  std::unique_ptr<Tokenizer> tokenizer;
  /// Ids that end a generation: the tokenizer's and generation_config.json's.
  std::vector<int32_t> end_ids;
  std::string chat_template;  ///< Jinja text, or empty
  std::string name;           ///< for reports: general.name or the directory's name
  /// What must live as long as the model: adapters that are hooked into it.
  std::vector<std::shared_ptr<void>> attached;

  /// As Tokenizer::encode. Raises, naming the model, where it has no tokenizer, or one whose ids go
  /// beyond the model's vocabulary.
  std::vector<int32_t> encode(std::string_view text, bool add_special = true,
                              bool parse_special = true) const;
  /// Bytes of all weights as they run: in kernel layout, positions and vectors. An embedding in a
  /// mapped file is not among them: of it only rows are read.
  int64_t running_bytes() const;
};

/// Raises io, corrupt or unsupported with one line that names the file.
LoadedModel load_model(const std::filesystem::path& path, const LoadOptions& options = {});

/// The tokenizer alone: of a GGUF file (one without weights, too), of a directory, or a
/// tokenizer.json with the tokenizer_config.json beside it, if any.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);

/// The shorthand names that --load-as accepts beside encoding ids: int8, int4, ...
std::string encoding_from_shorthand(const std::string& name, WeightParams& params);

}  // namespace hone
