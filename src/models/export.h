// Writes a model in the layouts that other tools load.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/loader.h"

namespace hone {

/// How a weight is stored: all of it but shape and data.
struct WeightForm {
  std::string encoding;
  WeightParams params;
};

struct ExportOptions {
  std::string layout = "hf";  ///< a name of formats' layouts: hf, gguf, gptq, gptq_v2, bitsandbytes
  /// Decode weights that the layout cannot hold to this float type ("f16", "bf16", "f32"). Empty:
  /// blocks of a GGUF source, which only GGUF can hold, become f16; anything else is refused.
  std::string decode_to;
  /// general.file_type of a GGUF file, if not that of the encoding of most weights.
  std::optional<uint32_t> gguf_file_type = std::nullopt;
  /// Further files for a directory: recipe.yaml, ...
  std::vector<std::pair<std::string, std::string>> texts;
  Json quantization_notes;
};

/// Writes `model` (loaded with inference == false) to `path`: a new directory, or a file for GGUF.
/// Complete under its name when this returns; nothing is left there otherwise. Raises unsupported
/// with the reason where the layout cannot hold a weight, before anything is written.
void export_model(LoadedModel& model, const std::filesystem::path& path,
                  const ExportOptions& options);

/// Raises what export_model would raise for its contents once the modules named in `plan` are
/// stored in those forms; nothing is written.
void check_export(LoadedModel& model, const ExportOptions& options,
                  const std::map<std::string, WeightForm>& plan);

/// The layout for `out` where none is asked for, once the modules named in `plan` are stored in
/// those forms: gguf for a .gguf file, else the directory layout that refuses fewest matrices.
std::string fitting_layout(LoadedModel& model, const std::filesystem::path& out,
                           const std::map<std::string, WeightForm>& plan);

/// Bytes in memory of the modules named in `plan`, once they are stored in those forms.
int64_t planned_bytes(LoadedModel& model, const std::map<std::string, WeightForm>& plan);

/// Bytes that the weights take as they are now, a tied head counted once.
int64_t weight_bytes(LoadedModel& model);

/// Bytes of the weight files at `path`: a GGUF file, or the safetensors of a directory.
int64_t written_bytes(const std::filesystem::path& path);

}  // namespace hone
