// Model files in, model files out: recipes, conversion, and fetching from a hub. Errors as in
// model.h. What is written appears whole under its name or not at all.
#pragma once

#include <string>
#include <vector>

namespace hone::v1 {

struct OptimizeOptions {
  std::string model;        ///< a GGUF file or a Hugging Face directory
  std::string recipe;       ///< YAML text, as of the files that hone optimize takes
  std::string out;          ///< a new directory, or a new .gguf file
  std::string calibration;  ///< a text file, which some passes need; empty = none
  unsigned long long seed = 0;
  bool resume = false;  ///< go on where an interrupted run of the same options ended
};
void optimize(const OptimizeOptions& options);

/// The same weights in another layout: "hf", "gguf", "gptq", ... `decode_to` ("f16", "bf16", "f32")
/// is for weights that the layout cannot hold; without it they are refused.
void convert(const std::string& model, const std::string& layout, const std::string& out,
             const std::string& decode_to = {});

struct PullOptions {
  std::string name;                  ///< org/name
  std::string revision = "main";     ///< a branch, a tag or a commit
  std::vector<std::string> include;  ///< globs of file names; empty = what hone reads
  std::vector<std::string> exclude;
};
/// Fetches a model of the Hugging Face hub into the cache, by the environment variables that
/// hone pull goes by. Returns the directory of the snapshot.
std::string pull(const PullOptions& options);

}  // namespace hone::v1
