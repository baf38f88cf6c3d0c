// Command lines that --help and the man page end with, a few for each subcommand.
#include <fmt/core.h>

#include "surface.h"

namespace hone {
namespace {

struct Example {
  const char* command;  // empty: of the whole
  const char* line;
};

constexpr Example kExamples[] = {
    {"", "hone pull HuggingFaceTB/SmolLM2-135M-Instruct"},
    {"", "hone quantize HuggingFaceTB/SmolLM2-135M-Instruct --method rtn --bits 4 --out small"},
    {"", "hone generate small --prompt \"The sea\""},
    {"info", "hone info models/hone-austen-3m"},
    {"info", "hone info model.gguf --json"},
    {"info", "hone info org/name"},
    {"generate", "hone generate MODEL --prompt \"The sea\" --max-tokens 64"},
    {"generate", "hone generate MODEL --prompt-file FILE --temperature 0.8 --top-p 0.95 --seed 7"},
    {"chat", "hone chat MODEL --system \"You answer briefly.\""},
    {"chat", "hone chat MODEL --message \"What is a whale?\" --json"},
    {"eval", "hone eval MODEL --text FILE"},
    {"eval", "hone eval QUANTISED --text FILE --reference ORIGINAL --json"},
    {"eval", "hone eval MODEL --text FILE --kv-cache f32,fp8,int8"},
    {"bench", "hone bench MODEL --prompt 512 --decode 64 --threads 2"},
    {"bench", "hone bench --machine"},
    {"optimize", "hone optimize MODEL --recipe R.yaml --text HELDOUT --out OUT --report R.html"},
    {"quantize", "hone quantize MODEL --method gptq --bits 4 --calibration TEXT --out OUT"},
    {"quantize", "hone quantize MODEL --method rtn --type q4_k --embeddings q6_k --out model.gguf"},
    {"quantize", "hone quantize MODEL --method nf4 --out nf4"},
    {"prune", "hone prune MODEL --method wanda --sparsity 0.5 --calibration TEXT --out OUT"},
    {"prune", "hone prune MODEL --method sparsegpt --pattern 2:4 --calibration TEXT --out OUT"},
    {"convert", "hone convert MODEL --layout gguf --out model.gguf"},
    {"convert", "hone convert DIR --base MODEL --layout gguf --out adapter.gguf"},
    {"doctor", "hone doctor MODEL"},
    {"doctor", "hone doctor MODEL --out mended"},
    {"precision", "hone precision MODEL --text FILE"},
    {"precision", "hone precision MODEL --to f16 --to bf16 --json"},
    {"train", "hone train examples/training/hone-austen-3m.yaml --out model"},
    {"train", "hone train CONFIG.yaml --out model --resume"},
    {"tune", "hone tune MODEL --method lora --data chats.jsonl --steps 500 --out my-lora"},
    {"tune", "hone tune MODEL --method lora --load-as nf4 --data chats.jsonl --out my-lora"},
    {"tune", "hone tune MODEL --method qat --bits 3 --data texts.txt --out small-model"},
    {"merge", "hone merge MODEL --adapter DIR --out OUT"},
    {"merge", "hone merge MODEL --adapter DIR --advise --text FILE"},
    {"explain", "hone explain attention --heads 32 --kv-heads 8 --queries 65536"},
    {"explain", "hone explain attention --heads 32 --prefill 512@4096 --decode 16@8192"},
    {"pull", "hone pull HuggingFaceTB/SmolLM2-135M-Instruct"},
    {"pull", "hone pull org/name --revision v1.0 --exclude '*.md'"},
    {"pull", "hone pull org/name-GGUF --include '*Q4_K_M*'"},
    {"completion", "hone completion zsh > ~/.zfunc/_hone"},
    {"completion", "hone completion fish > ~/.config/fish/completions/hone.fish"},
    {"completion", "source <(hone completion bash)"},
    {"man", "hone man | man -l -"},
};

}  // namespace

std::string examples_of(std::string_view name) {
  std::string text;
  for (const Example& e : kExamples)
    if (name == e.command) text += fmt::format("\n  {}", e.line);
  return text.empty() ? text : "\nExamples:" + text;
}

}  // namespace hone
