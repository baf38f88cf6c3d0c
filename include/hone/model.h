// A model: load it, ask what it is, continue a text, measure it. Part of hone's public API, which
// is what lies in include/hone; see docs/design.md.
//
// Functions raise std::runtime_error, whose what() is one line that says what was expected, what
// came and where. A Model is used by one thread at a time; several may live at once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace hone::v1 {

/// "0.1.0"
const char* version();
/// Threads that all of hone uses: 0 = as many as this process may. Not while anything runs.
void set_threads(int threads);

struct ModelInfo {
  std::string name;
  std::string family;  ///< "llama", ...
  std::string layout;  ///< of its files: "hf", "gguf", "gptq", ...
  int64_t parameters = 0;
  int64_t context = 0;       ///< tokens
  int64_t vocabulary = 0;    ///< tokens
  int64_t weight_bytes = 0;  ///< as they run
};

struct GenerateOptions {
  int64_t max_tokens = 128;
  float temperature = 0;          ///< 0 = greedy, 1 = the model's own distribution
  int64_t top_k = 0;              ///< keep the k likeliest; 0 = all
  float top_p = 1;                ///< keep the likeliest up to this probability
  uint64_t seed = 0;              ///< the same seed, the same text
  std::vector<std::string> stop;  ///< end before the first of these texts
};

struct Generation {
  std::string text;
  std::vector<int32_t> tokens;
  std::string finish_reason;  ///< "stop" or "length"
  int64_t prompt_tokens = 0;
  double prefill_tokens_per_second = 0;
  double decode_tokens_per_second = 0;
};

class Model {
 public:
  /// A GGUF file or a Hugging Face directory. `load_as` quantises while loading: "nf4", "int8",
  /// "int4" or an encoding's id; empty leaves the weights as they are.
  explicit Model(const std::string& path, const std::string& load_as = {});
  ~Model();
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;

  ModelInfo info() const;
  /// Ids of a text, with the tokens that the tokenizer puts around one.
  std::vector<int32_t> encode(std::string_view text) const;
  std::string decode(const std::vector<int32_t>& ids) const;
  /// Continues `prompt`. `emit`, where it is given, gets the text piece by piece.
  Generation generate(std::string_view prompt, const GenerateOptions& options = {},
                      const std::function<void(std::string_view)>& emit = {});
  /// Of a text under the model, as llama.cpp counts it: chunks of `context` tokens, the second half
  /// of each scored.
  double perplexity(const std::string& text, int64_t context = 512);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace hone::v1
