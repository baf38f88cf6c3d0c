// StreamingLLM: text without end through a model of a limited context, in constant memory. Queries
// see the first tokens, the sinks, and the last ones.
//
//   build/examples/attention/streaming models/hone-austen-3m examples/text
//
// Reads a text four times as long as the model's context. Prints the bytes of keys and values as it
// goes, and how the model goes on behind it.
#include "nn/streaming.h"
#include "base/files.h"
#include "example.h"
#include "models/generate.h"

using namespace hone;

namespace {

void show(const fs::path& path, const fs::path& texts, example::Checks& check) {
  LoadedModel plain = load_model(path), m = load_model(path);
  const Streaming s = set_streaming(*m.model, {.sinks = 4, .window = 252});
  const int64_t context = m.model->context, length = 4 * context;
  std::vector<int32_t> ids = m.encode(read_text_file(texts / "heldout.txt"));
  HONE_CHECK(std::ssize(ids) >= length, invalid_argument, "the text is too short");
  ids.resize(static_cast<size_t>(length));

  Session limited(*plain.model, Activations::f32), session(*m.model, Activations::f32);
  const std::span<const int32_t> all = ids, first = all.first(static_cast<size_t>(s.window));
  check(limited.room() == context && session.room() > length, "only the streaming one has no end");
  check(example::distance(session.append(first), limited.append(first)) < 1e-4,
        "until the window is full they are the same model");

  // Of a layer: the sinks' page, the window's, and the one that is being filled.
  const int64_t most = ((s.sinks + 63) / 64 + (s.window + 63) / 64 + 1) * session.page_bytes();
  int64_t held = 0;
  const auto text = all.first(all.size() - 1);
  for (size_t at = first.size(); at < text.size(); at += 150) {
    session.append(text.subspan(at, std::min<size_t>(150, text.size() - at)));
    held = std::max(held, session.kv_bytes());
    fmt::print("{:5} tokens: {} bytes\n", session.length(), session.kv_bytes());
  }
  check(session.length() == length - 1 && held <= most, "memory does not grow with the text");

  // What the session holds is the beginning of this prompt, and is not run again.
  GenerateOptions options;
  options.max_tokens = 20;
  options.sampler.temperature = 0;
  options.ignore_end = true;
  fmt::print("… {}", m.tokenizer->decode(all.last(10)));
  const Generation g = generate(m, session, all, options, [](std::string_view) {});
  fmt::print(" …{}\n", g.text);
  check(g.cached_tokens == length - 1 && std::ssize(g.tokens) == options.max_tokens,
        "and the model goes on behind its context");
}

}  // namespace

int main(int argc, char** argv) {
  return example::run([&](example::Checks& check) {
    show(argc > 1 ? argv[1] : "models/hone-austen-3m", argc > 2 ? argv[2] : "examples/text", check);
  });
}
