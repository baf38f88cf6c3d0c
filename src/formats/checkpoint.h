// Checkpoints: a model's weights and texts as a directory or a file holds them, in one of the known
// layouts.
//
// A layout (GGUF, Hugging Face floats, GPTQ, bitsandbytes) says how one Weight is spread over the
// tensors of a container. Reading makes the Weight when it is asked for, under one name
// ("X.weight", whatever tensors are behind it); writing asks its caller for one Weight at a time,
// so that memory stays bounded. Names and their meaning are the model families' concern: formats
// writes what it is given. A new layout is one file and one line in registry.cpp.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/json.h"
#include "formats/gguf.h"
#include "tensor/weight.h"

namespace hone {

/// An open checkpoint; thread-safe, and its Weights outlive it.
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  fs::path path;
  std::string layout;        ///< name in layouts(): "gguf", "hf", "gptq", ...
  std::string architecture;  ///< config.json's model_type, or general.architecture
  Json config;               ///< config.json; for GGUF an object of its scalar metadata

  /// The weights' names, ascending (GGUF: in file order).
  virtual std::vector<std::string> names() const = 0;
  virtual bool has(const std::string& name) const = 0;
  /// Raises corrupt, naming file and tensor, where it is missing or its parts do not fit together.
  virtual Weight weight(const std::string& name) const = 0;
  /// The weight's pages need not stay in memory; they are read again when touched.
  virtual void release(const std::string&) const {}
  /// A text beside the weights ("tokenizer.json", "chat_template.jinja", ...), if it is there.
  virtual std::optional<std::string> text(const std::string&) const { return std::nullopt; }
  /// The file behind a GGUF checkpoint, otherwise null.
  virtual const GgufFile* gguf() const { return nullptr; }
};

/// One weight to be written: all of it but the data.
struct WeightInfo {
  std::string name;  ///< "X.weight", "X.bias" of Hugging Face, or the GGUF tensor's name
  Shape shape;
  std::string encoding;
  WeightParams params;
};

struct CheckpointContents {
  Json config;  ///< config.json; the layout adds "quantization_config" (not for GGUF)
  /// Further files of the directory: name and text (not for GGUF).
  std::vector<std::pair<std::string, std::string>> texts;
  std::vector<GgufEntry> gguf_metadata;  ///< in order; for GGUF only
  std::vector<WeightInfo> weights;       ///< in model order; shards are filled in this order
  /// Gives the weight announced under this name. Called once for each tensor that the layout makes
  /// of it, and never for two names at a time; the result is dropped before the next name.
  std::function<Weight(const std::string& name)> weight;
  int64_t max_shard_bytes = int64_t{5} << 30;
  /// Float type that readers of bitsandbytes give the decoded values; f32 loses nothing.
  DType decoded_type = DType::f32;
  /// Remarks for the quantisation config: {"damp_percent": 0.01, ...}; may be null.
  Json quantization_notes;
};

/// One layout. Slots that it has not are null.
struct Layout {
  std::string_view name;
  std::string_view description;
  bool (*can_open)(const fs::path& path);
  std::unique_ptr<Checkpoint> (*open)(const fs::path& path);
  /// Why a weight of this shape and encoding cannot be written, or empty where it can.
  std::string (*refusal)(const WeightInfo& weight);
  void (*write)(const fs::path& path, const CheckpointContents& contents);
  /// Raises unsupported where the weights cannot stand in one checkpoint together; may be null.
  void (*check_together)(const CheckpointContents& contents);
};

/// All layouts; the first one whose can_open accepts a path opens it.
std::span<const Layout> layouts();
/// Raises unsupported, naming those there are.
const Layout& layout(std::string_view name);

/// Opens a GGUF file or a directory. Raises io, corrupt or unsupported.
std::shared_ptr<const Checkpoint> open_checkpoint(const fs::path& path);

/// Raises unsupported, with the reason, where write_checkpoint would for this layout; reads no
/// data.
void check_contents(std::string_view layout, const CheckpointContents& contents);

/// Writes `contents` to `path`: a file for GGUF, otherwise a directory that must not exist yet or
/// be empty. It appears complete and synced under its name when this returns; an error or
/// interruption leaves nothing under that name. Raises unsupported, with the reason, for a weight
/// that the layout cannot hold, before anything is written.
void write_checkpoint(std::string_view layout, const fs::path& path,
                      const CheckpointContents& contents);

}  // namespace hone
