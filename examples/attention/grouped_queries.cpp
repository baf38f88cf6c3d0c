// Fewer key/value heads: the pass gqa, through the API of passes. It merges each group of
// neighbouring heads of a model into one: by their mean (Ainslie et al. 2023), or by what keeps
// most of what they gave on a calibration text ("joint").
//
//   build/examples/attention/grouped_queries models/hone-austen-3m examples/text
//
// Prints the bytes of keys and values a token and the perplexity of the original and of both
// results, before any further training.
#include "base/files.h"
#include "eval/perplexity.h"
#include "example.h"
#include "models/sequence_memory.h"
#include "passes/recipe.h"

using namespace hone;

namespace {

struct Figures {
  double bytes, perplexity;
};

Figures measure(const char* name, LoadedModel& m, const std::string& text) {
  PerplexityOptions options;
  options.context = 128;
  options.max_tokens = 1024;
  options.activations = Activations::f32;
  const Figures f{sequence_memory(*m.model, KvType::f32, 512).kv_bytes_per_token,
                  measure_perplexity(m, text, options).perplexity};
  fmt::print("{:9} {:2} heads, {:6.0f} bytes a token, perplexity {:.2f}\n", name,
             m.model->kv_shapes()[0].kv_heads, f.bytes, f.perplexity);
  return f;
}

// Half as many heads. A step of a recipe makes the pass and fills in its options.
void merge_heads(LoadedModel& m, const std::string& method, const fs::path& calibration_text) {
  Recipe recipe = parse_recipe(fmt::format("steps: [{{pass: gqa, kv_heads: {}, method: {}}}]",
                                           m.config.kv_heads / 2, method),
                               "the example's recipe");
  check_recipe(recipe.main, m);  // refuses what cannot be before anything runs
  const Calibration calibration = read_calibration(calibration_text, m, 8, 128, 1);
  PassContext context{m, ModuleFilter(), &calibration, 1, nullptr, nullptr, -1, nullptr};
  recipe.main.steps[0].made->run(context);
}

void show(const fs::path& path, const fs::path& texts, example::Checks& check) {
  const std::string heldout = read_text_file(texts / "heldout.txt");
  LoadOptions editable;
  editable.inference = false;  // weights that passes may change
  LoadedModel original = load_model(path, editable), mean = load_model(path, editable),
              joint = load_model(path, editable);
  merge_heads(mean, "mean", texts / "calibration.txt");
  merge_heads(joint, "joint", texts / "calibration.txt");
  const Figures before = measure("original", original, heldout),
                by_mean = measure("mean", mean, heldout),
                by_joint = measure("joint", joint, heldout);
  check(2 * by_mean.bytes == before.bytes && by_joint.bytes == by_mean.bytes, "half the bytes");
  check(before.perplexity < by_joint.perplexity && by_joint.perplexity < by_mean.perplexity,
        "joint merging costs less than the mean");
}

}  // namespace

int main(int argc, char** argv) {
  return example::run([&](example::Checks& check) {
    show(argc > 1 ? argv[1] : "models/hone-austen-3m", argc > 2 ? argv[2] : "examples/text", check);
  });
}
