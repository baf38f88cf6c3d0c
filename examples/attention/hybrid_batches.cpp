// Hybrid batches: an Engine runs many requests through one model. Each of its steps is one forward
// of decodes and of prompts' chunks together, in which attention fetches the decodes' keys and
// values while it multiplies the prompts' tiles (POD-Attention).
//
//   build/examples/attention/hybrid_batches models/hone-austen-3m
//
// Prints what each step held and what each request became, and checks that every request got the
// tokens that it gets alone.
#include <map>

#include "example.h"
#include "models/engine.h"
#include "models/loader.h"
#include "models/sampler.h"

using namespace hone;

namespace {

constexpr size_t kMost = 12;  // tokens of an answer

// The likeliest continuation of one request by itself.
std::vector<int32_t> alone(Model& model, const std::vector<int32_t>& prompt) {
  Session session(model, Activations::f32, KvType::bf16);
  std::vector<int32_t> answer;
  Tensor logits = session.append(prompt);
  while (true) {
    answer.push_back(argmax({logits.data<float>(), static_cast<size_t>(logits.numel())}));
    if (answer.size() == kMost) return answer;
    logits = session.append(std::span(answer).last(1));
  }
}

void show(const std::string& path, example::Checks& check) {
  LoadedModel m = load_model(path);
  const char* prompts[] = {
      "The morning was", "She had never seen a house so",
      "It is a truth universally acknowledged, that a single man in possession of a good fortune, "
      "must be in want of a wife. However little known the feelings or views of such a man may be "
      "on his first entering a neighbourhood, this truth is so well fixed in the minds of"};

  // So few tokens a step that the third prompt needs several, beside the others' decodes.
  EngineOptions options;
  options.kv = KvType::bf16;
  options.step_tokens = 24;
  Engine engine(*m.model, options);
  std::map<Engine::Id, std::vector<int32_t>> answers;
  for (const char* prompt : prompts) answers[engine.add(m.encode(prompt))];
  int hybrid = 0;
  while (engine.waits()) {
    const std::vector<Engine::Output> outputs = engine.step();
    const Engine::Step& step = engine.last_step();
    if (step.prefill_tokens > 0)
      fmt::print("a step: {} decodes, {} tokens of {} prompts\n", step.decodes, step.prefill_tokens,
                 step.prefills);
    hybrid += step.decodes > 0 && step.prefill_tokens > 0;
    for (const auto& [id, logits] : outputs) {
      std::vector<int32_t>& answer = answers[id];
      answer.push_back(argmax({logits.data<float>(), static_cast<size_t>(logits.numel())}));
      if (answer.size() < kMost)
        engine.append(id, std::span(answer).last(1));
      else
        engine.end(id);
    }
  }
  check(hybrid > 0, "some steps held decodes and a prompt's chunk");
  size_t i = 0;
  for (const auto& [id, answer] : answers) {
    const char* prompt = prompts[i++];
    fmt::print("{} … {}\n", prompt, m.tokenizer->decode(answer));
    check(answer == alone(*m.model, m.encode(prompt)), "the tokens that it gets alone");
  }
}

}  // namespace

int main(int argc, char** argv) {
  return example::run(
      [&](example::Checks& check) { show(argc > 1 ? argv[1] : "models/hone-austen-3m", check); });
}
