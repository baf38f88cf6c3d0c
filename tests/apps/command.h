// Runs the built `hone` as a child process, and writes tiny checkpoints for it.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "testing.h"

namespace hone::testing {

namespace fs = std::filesystem;

struct Outcome {
  int status = -1;  ///< exit status
  int signal = 0;   ///< that ended it, or 0
  std::string out, err;
};

struct RunOptions {
  std::string input;           ///< of its standard input
  std::string output;          ///< a file to take its standard output, instead of Outcome::out
  int64_t max_file_bytes = 0;  ///< RLIMIT_FSIZE; 0 = none
};

/// The user's cache directory of the commands that are run: what the machine's owner has measured
/// must not show in tests.
const fs::path& cache_directory();
/// Runs `hone ARGUMENTS...`; one of five minutes is killed.
Outcome run_hone(const std::vector<std::string>& arguments, const RunOptions& options = {});
/// Starts it and returns its process id. Streams are descriptors; −1 is /dev/null.
struct Streams {
  int in = -1, out = -1, err = -1;
};
int start_hone(const std::vector<std::string>& arguments, const Streams& streams = {});

/// The last line of `out`, which must be a JSON object; the lines before it are counted by *others.
Json last_json(const std::string& out, int* others = nullptr);
std::vector<std::string> lines_of(const std::string& text);
/// The names below `directory`, ascending.
std::vector<std::string> names_below(const fs::path& directory);

/// One error line on stderr with all of `parts`, nothing on stdout, and this status.
void expect_refusal(const Outcome& run, int status, const std::vector<std::string>& parts);

/// A Llama of random weights with a byte-level tokenizer and a chat template, in a directory.
/// 2 layers of width 64, 8/4 heads, 288 tokens (bytes, <|end|>, padding), context of 96; f32.
struct TinyModel {
  int64_t layers = 2, width = 64, heads = 8, kv_heads = 4, ffn = 96, vocabulary = 288;
  std::string type = "f32";
  bool chat = true;
  void write(const fs::path& directory) const;
};

/// A LoRA of rank 2 in the q and down projections of a TinyModel, as a PEFT directory; the size of
/// its change grows with `scale`.
void write_adapter(const fs::path& directory, float scale = 0.3f, const TinyModel& of = {});

std::string read_bytes(const fs::path& path);
void write_bytes(const fs::path& path, const std::string& bytes);

}  // namespace hone::testing
