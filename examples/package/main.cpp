// hone as a library: load a model, continue a text, quantise it, compare both, convert. Prints each
// step; returns 1 where a result is not what it should be.
//
//   continue_text MODEL TEXT DIRECTORY      DIRECTORY is new, and takes the quantised models
#include <hone/model.h>
#include <hone/optimize.h>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>

int main(int argc, char** argv) {
  namespace api = hone::v1;
  if (argc != 4) return std::fprintf(stderr, "usage: continue_text MODEL TEXT DIRECTORY\n"), 2;
  try {
    std::ifstream file(argv[2], std::ios::binary);
    const std::string text = std::string(std::istreambuf_iterator<char>(file), {}).substr(0, 4000);
    const std::string directory = argv[3];
    std::filesystem::create_directory(directory);

    api::Model model(argv[1]);
    const api::ModelInfo info = model.info();
    std::printf("hone %s: %s, %lld parameters\n", api::version(), info.name.c_str(),
                static_cast<long long>(info.parameters));
    api::GenerateOptions options;
    options.max_tokens = 20;
    std::string streamed;
    const api::Generation g = model.generate("It was a bright morning", options,
                                             [&](std::string_view piece) { streamed += piece; });
    std::printf("It was a bright morning%s\n", g.text.c_str());

    api::OptimizeOptions quantise;
    quantise.model = argv[1];
    quantise.recipe = "steps:\n  - {pass: rtn, bits: 4, group: 32}\n";
    quantise.out = directory + "/int4";
    api::optimize(quantise);
    api::convert(quantise.out, "gguf", directory + "/int4.gguf");
    const double before = model.perplexity(text, 128);
    const double after = api::Model(directory + "/int4.gguf").perplexity(text, 128);
    std::printf("perplexity %.3f, in 4 bits %.3f\n", before, after);

    bool refused = false;
    try {
      api::Model nowhere("no such model");
    } catch (const std::runtime_error& e) {
      refused = true;
    }
    const bool good = refused && streamed == g.text && g.tokens.size() == 20 &&
                      model.decode(g.tokens) == g.text && before > 1 && after < 2 * before;
    return good ? 0 : 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
