#include "text/pretokenizer_names.h"

#include <algorithm>

#include "base/error.h"
#include "text/unicode.h"

// Parts of which the published expressions are made.
#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORD R"([^\r\n\p{L}\p{N}]?\p{L}+)"
#define REST R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"
#define UPPER R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])"
#define LOWER R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])"
#define CASED(tail) \
  R"([^\r\n\p{L}\p{N}]?)" UPPER "*" LOWER "+" tail R"(|[^\r\n\p{L}\p{N}]?)" UPPER "+" LOWER "*" tail
#define SLASHED_REST R"( ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"

namespace hone {

const char* const kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

// In the order in which pretokenizer_name() looks. A family is what the models' own tokenizer.json
// says; llama.cpp knows nothing of `nfc` (Qwen 2), so that its ids differ on decomposed text, and
// reads "default" as an expression of its own.
const std::vector<PreTokenizerFamily>& families() {
  static const std::vector<PreTokenizerFamily> kFamilies = {
      {.name = "GPT-2",
       .patterns = {kGpt2Pattern},
       .names = {"gpt-2", "default", "", "phi-2", "gigachat", "jais", "trillion", "a.x-4.0",
                 "mellum", "exaone4", "granite-docling"}},
      {.name = "GPT-2 after normal form C",
       .patterns = {kGpt2Pattern},
       .nfc = true,
       .names = {"olmo", "mpt"}},
      {.name = "single digits, then GPT-2",
       .patterns = {R"(\p{N})", kGpt2Pattern},
       .names = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone",
                 "minerva-7b"}},
      {.name = "Llama 3",
       .patterns = {CONTRACTIONS "|" WORD R"(|\p{N}{1,3}|)" REST},
       .ignore_merges = true,
       .add_bos = true,
       .names = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0",
                 "lfm2", "jina-v5-nano"}},
      {.name = "Llama 3 without ignore_merges",
       .patterns = {CONTRACTIONS "|" WORD R"(|\p{N}{1,3}|)" REST},
       .names = {"dbrx", "smaug-bpe", "chatglm-bpe", "glm4"}},
      {.name = "Qwen 2",
       .patterns = {CONTRACTIONS "|" WORD R"(|\p{N}|)" REST},
       .nfc = true,
       .names = {"qwen2", "deepseek-r1-qwen", "megrez", "kormo", "f2llmv2"}},
      {.name = "Qwen 2 without normal form C",
       .patterns = {CONTRACTIONS "|" WORD R"(|\p{N}|)" REST},
       .names = {"stablelm2", "hunyuan", "grok-2"}},
      {.name = "GPT-4o",
       .patterns = {CASED(CONTRACTIONS "?") R"(|\p{N}{1,3}|)" SLASHED_REST},
       .names = {"gpt-4o", "llama4", "kanana2", "minimax-m2"}},
      {.name = "Tekken",
       .patterns = {CASED("") R"(|\p{N}|)" SLASHED_REST},
       .ignore_merges = true,
       .add_bos = true,
       .names = {"tekken"}},
      {.name = "Falcon",
       .patterns = {R"([\p{P}$+<=>^~|`]+)", kGpt2Pattern, R"(\p{N}+)", "[0-9][0-9][0-9]"},
       .names = {"falcon"}},
      {.name = "DeepSeek Coder",
       .patterns = {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", R"([一-龥ࠀ-一가-퟿]+)",
                    R"(\p{N})"},
       .names = {"deepseek-coder"}},
      {.name = "DeepSeek V3",
       .patterns = {R"(\p{N}{1,3})", R"([一-龥぀-ゟ゠-ヿ]+)",
                    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+)"
                    R"(|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*)"
                    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       .names = {"deepseek-v3", "hunyuan-dense"}},
      {.name = "Qwen 3.5",
       .patterns = {CONTRACTIONS R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N})"
                                 R"(| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       .nfc = true,
       .names = {"qwen35"}},
      {.name = "Seed Coder",
       .patterns = {CONTRACTIONS "|" WORD R"(|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+)"
                                 R"(|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       .names = {"seed-coder"}},
      {.name = "Bailing",
       .patterns = {R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N})"
                    R"(| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)"},
       .names = {"bailingmoe", "bailingmoe2", "llada-moe"}},
      {.name = "Bloom",
       .patterns = {" ?[^(\\s|[.,!?…。，、।۔،])]+"},
       .names = {"bloom", "gpt3-finnish", "poro-chat"}},
      {.name = "Viking",
       .patterns = {" ?[^(\\s|[.,!?…。，、।۔،])]+", R"(\p{N})"},
       .names = {"viking"}},
  };
  return kFamilies;
}

}  // namespace

const PreTokenizerFamily& pretokenizer_family(std::string_view name, const std::string& source) {
  for (const PreTokenizerFamily& family : families()) {
    if (std::find(family.names.begin(), family.names.end(), name) != family.names.end()) {
      return family;
    }
  }
  fail(ErrorKind::unsupported, "{}: tokenizer.ggml.pre {} is not a pre-tokenizer hone knows",
       source, printed(name));
}

std::string without_line_ends(std::string_view pattern) {
  return replace_all(replace_all(pattern, "\r", "\\r"), "\n", "\\n");
}

std::optional<std::string> pretokenizer_name(const std::vector<std::string>& patterns,
                                             bool ignore_merges, bool nfc) {
  const auto same = [](std::string_view a, std::string_view b) {
    return without_line_ends(a) == b;
  };
  for (const PreTokenizerFamily& family : families()) {
    if (family.ignore_merges == ignore_merges && family.nfc == nfc &&
        std::equal(patterns.begin(), patterns.end(), family.patterns.begin(), family.patterns.end(),
                   same)) {
      return family.names.front();
    }
  }
  return std::nullopt;
}

}  // namespace hone
