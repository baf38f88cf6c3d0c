// Recurrent memory: Transformer-XL, memory tokens (RMT) and Infini-attention, run segment by
// segment. What passes from one segment to the next is an explicit state: a tape can carry
// gradients through it, and cut_states() ends them there (truncated backpropagation through time).
//
//   build/examples/attention/recurrent_memory models/hone-austen-3m
//
// Makes three small untrained models, with the tokenizer of the model named. Prints, for each, the
// bytes that a sequence keeps, and the size of the gradient that the third segment's result sends
// to the tokens of the first, with the states carried and with them cut.
#include <unistd.h>

#include <filesystem>

#include "base/json.h"
#include "example.h"
#include "models/initial.h"
#include "models/loader.h"
#include "nn/model.h"
#include "ops/tape.h"

using namespace hone;
namespace fs = std::filesystem;

namespace {

constexpr int64_t kSegment = 16, kSegments = 3;

LoadedModel make_model(const std::string& memory, const fs::path& tokenizer) {
  const Json config = parse_json(R"({"model_type": "memory_transformer", "vocab_size": 2048,
      "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
      "max_position_embeddings": 256, "segment": 16, )" +
                                     memory + "}",
                                 "the example's config");
  const fs::path path = fs::temp_directory_path() / fmt::format("hone-example-{}", getpid());
  write_initial_model(path, config, tokenizer, 1);
  LoadOptions options;
  options.inference = false;  // weights that can be trained
  LoadedModel m = load_model(path, options);
  fs::remove_all(path);
  return m;
}

// Segment i has tokens of its own: 100·(i + 1), ….
Batch segment(int64_t i, std::vector<RecurrentState>& states) {
  std::vector<int32_t> tokens;
  for (int64_t t = 0; t < kSegment; ++t) tokens.push_back(int32_t(100 * (i + 1) + t));
  Batch batch;
  batch.append(tokens, nullptr, i * kSegment);
  batch.spans[0].recurrent = &states;
  return batch;
}

// Of the embeddings of segment `of`, for a loss of the last segment's hidden states.
double gradient_size(Model& model, int64_t of, bool cut) {
  const std::vector<NamedTensor> trained = model.train(
      [&](const std::string& name) { return name == model.embedding.name() + ".weight"; });
  Tape tape;
  std::vector<RecurrentState> states;
  Tensor hidden;
  for (int64_t i = 0; i < kSegments; ++i) {
    if (cut) cut_states(states);
    hidden = model.forward(segment(i, states));
  }
  tape.backward(hidden, example::normal(hidden.shape(), 2));
  double sum = 0;
  const Tensor& gradient = trained[0].value.gradient();
  for (int64_t i = 0; i < kSegment * model.width(); ++i) {
    const double x = gradient.data<float>()[100 * (of + 1) * model.width() + i];
    sum += x * x;
  }
  return std::sqrt(sum);
}

void show(const fs::path& tokenizer, example::Checks& check) {
  for (const auto& [name, memory] :
       {std::pair("Transformer-XL", R"("mixer": "transformer_xl", "memory": 16)"),
        {"memory tokens", R"("mixer": "segment", "memory_tokens": 4)"},
        {"Infini-attention", R"("mixer": "infini")"}}) {
    LoadedModel m = make_model(memory, tokenizer);
    const double carried = gradient_size(*m.model, 0, false),
                 cut = gradient_size(*m.model, 0, true);
    fmt::print("{}: {} bytes kept; gradient {:.3g} carried, {:.3g} cut\n", name,
               m.model->state_bytes(), carried, cut);
    check(carried > 0, "the third segment's loss reaches the first one's tokens");
    check(cut == 0, "and does not where the states were cut");
    check(gradient_size(*m.model, kSegments - 1, true) > 0, "its own tokens it reaches always");

    // What is computed does not depend on the cut into batches.
    std::vector<RecurrentState> at_once, one_by_one;
    Batch all;
    std::vector<Tensor> parts;
    for (int64_t i = 0; i < kSegments; ++i) {
      const Batch part = segment(i, one_by_one);
      parts.push_back(m.model->forward(part));
      all.tokens.insert(all.tokens.end(), part.tokens.begin(), part.tokens.end());
    }
    Batch batch;
    batch.append(all.tokens, nullptr);
    batch.spans[0].recurrent = &at_once;
    const Tensor whole = m.model->forward(batch);
    check(example::same_bits(parts.back(), whole.rows(2 * kSegment, 3 * kSegment)),
          "segment by segment gives the bits of one run");
  }
}

}  // namespace

int main(int argc, char** argv) {
  return example::run(
      [&](example::Checks& check) { show(argc > 1 ? argv[1] : "models/hone-austen-3m", check); });
}
