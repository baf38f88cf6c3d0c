// What the subcommands share: common flags, output rules, and the table row that each file exports.
//
// Data goes to stdout, talk to stderr. With --json a command prints one JSON object as the last
// line of stdout and nothing else there.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/json.h"
#include "kernels/machine.h"
#include "models/generate.h"
#include "models/loader.h"

namespace hone {

/// Flags that make no sense, whatever the files hold: exit status 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct CommonOptions {
  bool json = false;
  bool quiet = false;
  int threads = 0;
  uint64_t seed = 0;
  std::string isa = "auto";
  std::string activations = "int8";
  double outlier_threshold = 6;
  std::string kv_cache = "f32";  // of some commands several, "f32,fp8"

  Activations precision() const { return activations_from_name(activations); }
  std::vector<KvType> kv_list() const;
  KvType kv() const { return kv_list().front(); }
};

/// One subcommand: `add` declares its flags on `app` and returns what to run after parsing.
struct Command {
  const char* name;
  const char* summary;
  std::function<void()> (*add)(CLI::App& app, CommonOptions& common);
  bool compares_caches = false;  ///< --kv-cache takes several types
};

extern const Command kInfoCommand;
extern const Command kGenerateCommand;
extern const Command kChatCommand;
extern const Command kEvalCommand;
extern const Command kPrecisionCommand;
extern const Command kBenchCommand;
extern const Command kOptimizeCommand;
extern const Command kQuantizeCommand;
extern const Command kConvertCommand;
extern const Command kTrainCommand;
extern const Command kTuneCommand;
extern const Command kMergeCommand;
extern const Command kPruneCommand;
extern const Command kDoctorCommand;
extern const Command kExplainCommand;
extern const Command kPullCommand;
extern const Command kCompletionCommand;
extern const Command kManCommand;

/// Checks of a flag's value. between() refuses NaN as well.
CLI::Validator between(double low, double high);
CLI::Validator one_of(const std::vector<std::string>& names);
/// The names that an option's one_of() allows; nothing where it has none.
std::vector<std::string> choices_of(CLI::Option& option);
CLI::Validator encoding_name();      ///< an encoding's id, or a shorthand of --load-as
CLI::Validator layout_name();        ///< a layout that can be written
CLI::Validator decoded_type_name();  ///< f32, f16 or bf16
CLI::Validator kv_cache_types(bool several);

/// The positional MODEL: a path, or the name of a pulled model.
CLI::Option* add_model(CLI::App& app, std::string& path);

/// After parsing: names of pulled models among the values of options that take a MODEL (or an
/// adapter) become paths in the hub's cache. Raises io, with what to pull, where one is not there.
void resolve_pulled_models(CLI::App& app);

/// "DIR", "FILE.gguf" or either with "=WEIGHT" behind it: an adapter and what its part is
/// multiplied by. A name that exists is a name, whatever is in it. Raises UsageError where the
/// weight is no finite number.
struct AdapterArgument {
  std::string path;
  float weight = 1;
  static AdapterArgument parse(const std::string& text);
};
/// --adapter, repeatable; `what` is its help.
CLI::Option* add_adapters(CLI::App& app, std::vector<std::string>& texts, const char* what);

/// MODEL and --load-as, for the commands that load a model; --adapter for those that run it.
struct ModelArgument {
  std::string path;
  std::string load_as;
  std::vector<std::string> adapters;
  void add(CLI::App& app, bool required = true);
  void add_with_adapters(CLI::App& app, bool required = true);
  LoadedModel load(bool inference = true) const;
  /// To run with these activations.
  LoadedModel load(const CommonOptions& common) const;
};

/// --streaming, --sinks and --window: text without end (nn/streaming.h).
struct StreamingFlags {
  bool on = false;
  Streaming options;
  void add(CLI::App& app);
  /// Makes the model stream, if asked to, and says with what.
  void apply(LoadedModel& model) const;
};

/// Flags of the sampler and of where a generation ends, with their defaults. Each stands for one
/// field of GenerateOptions; the seed comes from the common flags.
void add_generation_flags(CLI::App& app, GenerateOptions& options);

/// What hone bench --machine kept, read once; nothing where it is missing or of no use.
const std::optional<kernels::Machine>& known_machine();

/// Which fractions of the machine's limits a generation's speeds reach; nothing where it did no
/// such work, or the machine has not been measured with this number of threads.
struct Fractions {
  std::optional<double> prefill, decode;
};
Fractions fractions_of_limit(const Generation& g, LoadedModel& model, const CommonOptions& common);
/// As the keys prefill_of_limit and decode_of_limit.
void add_fractions(const Fractions& f, Json& to);

/// "9 prompt tokens at 736 tok/s; 40 more at 234.5 tok/s"; with the fraction of
/// the machine's limit that each speed reaches, where it is known.
std::string speed_line(const Generation& g, LoadedModel& model, const CommonOptions& common);

/// "int8 and f32 activations; bf16 KV cache; avx512_vnni, 2 threads"; an f32 cache is not named.
std::string precision_line(LoadedModel& model, const CommonOptions& common);

/// Prints the object as one line on stdout.
void print_json(const Json& object);
/// Writes text to stdout at once.
void print_text(std::string_view text);

/// Largest resident size of this process so far, in bytes.
int64_t peak_rss_bytes();

/// A table for the terminal: columns padded to their widest cell. The first row is the head.
/// Numbers: the first column is flush left, the others flush right; words: all flush left.
enum class Columns { numbers, words };
std::string text_table(const std::vector<std::vector<std::string>>& rows,
                       Columns columns = Columns::numbers);

}  // namespace hone
