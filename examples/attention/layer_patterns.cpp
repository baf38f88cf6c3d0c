// Local and global layers: the pass attention sets which keys the queries of chosen layers see,
// here a window and sinks on every second layer of a model that was trained without. No weight
// changes; layers with a window keep no keys behind it.
//
//   build/examples/attention/layer_patterns models/hone-austen-3m examples/text
//
// Prints, for the original, the hybrid and a model with windows everywhere, the bytes of keys and
// values of a full context and the perplexity.
#include "base/files.h"
#include "eval/perplexity.h"
#include "example.h"
#include "models/sequence_memory.h"
#include "models/session.h"
#include "passes/recipe.h"

using namespace hone;

namespace {

void set_pattern(LoadedModel& m, int64_t every) {
  Recipe recipe = parse_recipe(
      fmt::format(
          "steps: [{{pass: attention, pattern: causal & (window(64) | sinks(4)), every: {}}}]",
          every),
      "the example's recipe");
  check_recipe(recipe.main, m);
  PassContext context{m, ModuleFilter(), nullptr, 0, nullptr, nullptr, -1, nullptr};
  recipe.main.steps[0].made->run(context);
}

// Logits behind the first `tokens` of a text.
Tensor logits(LoadedModel& m, const std::string& text, size_t tokens) {
  const std::vector<int32_t> ids = m.encode(text);
  Session session(*m.model, Activations::f32);
  return session.append(std::span(ids).first(tokens));
}

void show(const fs::path& path, const fs::path& texts, example::Checks& check) {
  const std::string text = read_text_file(texts / "heldout.txt");
  LoadOptions editable;
  editable.inference = false;
  LoadedModel original = load_model(path, editable), hybrid = load_model(path, editable),
              local = load_model(path, editable);
  set_pattern(hybrid, 2);
  set_pattern(local, 1);

  PerplexityOptions options;
  options.max_tokens = 2048;
  options.activations = Activations::f32;
  std::vector<int64_t> bytes;
  std::vector<double> perplexities;
  for (LoadedModel* m : {&original, &hybrid, &local}) {
    const int64_t context = m->model->context;
    bytes.push_back(sequence_memory(*m->model, KvType::f32, context).kv_bytes);
    perplexities.push_back(measure_perplexity(*m, text, options).perplexity);
    fmt::print("{:7} bytes behind {} tokens, perplexity {:.2f}; layers 0 and 1: {}; {}\n",
               bytes.back(), context, perplexities.back(), m->model->blocks[0].mixer->describe(),
               m->model->blocks[1].mixer->describe());
  }
  check(bytes[0] > bytes[1] && bytes[1] > bytes[2], "each window saves memory");
  check(perplexities[1] < 1.05 * perplexities[0], "and costs little where others see everything");
  check(example::same_bits(logits(hybrid, text, 64), logits(original, text, 64)),
        "inside a window's length nothing has changed");
  check(example::distance(logits(hybrid, text, 300), logits(original, text, 300)) > 1e-3,
        "behind it something has");
}

}  // namespace

int main(int argc, char** argv) {
  return example::run([&](example::Checks& check) {
    show(argc > 1 ? argv[1] : "models/hone-austen-3m", argc > 2 ? argv[2] : "examples/text", check);
  });
}
