// What the subcommands share: common flags, output rules, and the table row that each file exports.
//
// Data goes to stdout, talk to stderr. With --json a command prints one JSON object as the last
// line of stdout and nothing else there.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "models/loader.h"
#include "models/sampler.h"

namespace hone {

struct CommonOptions {
  bool json = false;
  bool quiet = false;
  int threads = 0;
  uint64_t seed = 0;
  std::string isa = "auto";
  std::string activations = "int8";

  Activations precision() const { return activations_from_name(activations); }
};

/// One subcommand: `add` declares its flags on `app` and returns what to run after parsing.
struct Command {
  const char* name;
  const char* summary;
  std::function<void()> (*add)(CLI::App& app, CommonOptions& common);
};

extern const Command kInfoCommand;
extern const Command kGenerateCommand;
extern const Command kChatCommand;
extern const Command kEvalCommand;
extern const Command kBenchCommand;
extern const Command kOptimizeCommand;
extern const Command kQuantizeCommand;
extern const Command kConvertCommand;

/// --load-as and the model argument, for the commands that run a model.
struct ModelArgument {
  std::string path;
  std::string load_as;
  void add(CLI::App& app);
  LoadedModel load(bool inference = true) const;
};

/// Flags of the sampler, with its defaults.
void add_sampler_flags(CLI::App& app, SamplerOptions& options);

/// "products with int8 activations (4-bit and 8-bit weights), f32 elsewhere; avx512_vnni, 2
/// threads"
std::string precision_line(LoadedModel& model, Activations a);

/// Prints the object as one line on stdout.
void print_json(const Json& object);

/// Largest resident size of this process so far, in bytes.
int64_t peak_rss_bytes();

/// A table for the terminal: columns padded to their widest cell; the first is flush left, the
/// others flush right. The first row is the head.
std::string text_table(const std::vector<std::vector<std::string>>& rows);

}  // namespace hone
