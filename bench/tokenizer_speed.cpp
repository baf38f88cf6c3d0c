// Speed of tokenizers in bytes of text per second on one core.
//   tokenizer_speed TEXT TOKENIZER... [--benchmark_*]
// TEXT is a file; a TOKENIZER is a model directory, a GGUF file or a tokenizer.json. Each decodes
// what it encoded first; where the text does not come back, as WordPiece and Unigram change it, the
// name says so.
#include <benchmark/benchmark.h>

#include <cstdio>

#include "base/error.h"
#include "base/files.h"
#include "models/loader.h"

namespace hone {
namespace {

void add(const std::string& path, const std::string& text) {
  std::shared_ptr<const Tokenizer> tokenizer = load_tokenizer(path);
  const std::vector<int32_t> ids = tokenizer->encode(text, false);
  const std::string name = path + (tokenizer->decode(ids) == text ? "" : " (changes the text)");
  const auto bytes = static_cast<int64_t>(text.size());
  benchmark::RegisterBenchmark(("encode " + name).c_str(), [=, &text](benchmark::State& state) {
    for (auto _ : state) benchmark::DoNotOptimize(tokenizer->encode(text, false));
    state.SetBytesProcessed(state.iterations() * bytes);
  })->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark(("decode " + name).c_str(), [=](benchmark::State& state) {
    for (auto _ : state) benchmark::DoNotOptimize(tokenizer->decode(ids));
    state.SetBytesProcessed(state.iterations() * bytes);
  })->Unit(benchmark::kMillisecond);
}

}  // namespace
}  // namespace hone

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  try {
    HONE_CHECK(argc >= 3, invalid_argument, "usage: tokenizer_speed TEXT TOKENIZER...");
    const std::string text = hone::read_text_file(argv[1]);
    for (int i = 2; i < argc; ++i) hone::add(argv[i], text);
    benchmark::RunSpecifiedBenchmarks();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "tokenizer_speed: %s\n", e.what());
    return 1;
  }
}
