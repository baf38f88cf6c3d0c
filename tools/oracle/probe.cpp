// Shows to the scripts beside it what the command does not print: token ids and logits, as raw
// little-endian arrays.
//   hone_probe tokens MODEL TEXTS OUT            i32 ids of texts, each ended by byte FF and id -1
//   hone_probe plain MODEL TEXTS OUT             the same; special tokens are ordinary text
//   hone_probe logits MODEL IDS OUT              f32 [T, V] after each of the ids, f32 activations
//   hone_probe greedy MODEL IDS OUT COUNT        the likeliest i32 ids that follow, f32 activations
#include <cstdio>
#include <cstring>
#include <fstream>

#include "base/error.h"
#include "base/files.h"
#include "models/generate.h"
#include "models/loader.h"
#include "models/session.h"

namespace hone {
namespace {

template <class T>
void write(const std::string& path, const T* data, size_t count) {
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(count * sizeof(T)));
  HONE_CHECK(out.flush(), io, "{}: cannot be written", path);
}

std::vector<int32_t> read_ids(const std::string& path) {
  const std::string bytes = read_text_file(path);
  std::vector<int32_t> ids(bytes.size() / sizeof(int32_t));
  std::memcpy(ids.data(), bytes.data(), ids.size() * sizeof(int32_t));
  return ids;
}

std::vector<int32_t> tokens(const Tokenizer& tokenizer, std::string_view texts,
                            bool parse_special) {
  std::vector<int32_t> out;
  for (size_t end; (end = texts.find('\xff')) != texts.npos; texts.remove_prefix(end + 1)) {
    const auto ids = tokenizer.encode(texts.substr(0, end), false, parse_special);
    out.insert(out.end(), ids.begin(), ids.end());
    out.push_back(-1);
  }
  return out;
}

void write_logits(const std::string& model, const std::vector<int32_t>& ids,
                  const std::string& out) {
  const LoadedModel m = load_model(model);
  Session session(*m.model, Activations::f32);
  const Tensor logits = session.logits(session.hidden(ids));
  write(out, logits.data<float>(), static_cast<size_t>(logits.numel()));
}

void write_greedy(const std::string& model, const std::vector<int32_t>& ids, int64_t count,
                  const std::string& out) {
  const LoadedModel m = load_model(model);
  Session session(*m.model, Activations::f32);
  GenerateOptions options;
  options.max_tokens = count;
  options.sampler.temperature = 0;
  options.ignore_end = true;
  const Generation g = generate(m, session, ids, options, nullptr);
  write(out, g.tokens.data(), g.tokens.size());
}

void run(const std::vector<std::string>& args) {
  HONE_CHECK(args.size() >= 4, invalid_argument, "usage: hone_probe WHAT MODEL IN OUT");
  const std::string &what = args[0], &model = args[1], &in = args[2], &out = args[3];
  if (what == "logits") return write_logits(model, read_ids(in), out);
  if (what == "greedy" && args.size() == 5)
    return write_greedy(model, read_ids(in), std::stoll(args[4]), out);
  const auto tokenizer = load_tokenizer(model);
  HONE_CHECK(what == "tokens" || what == "plain", invalid_argument, "unknown probe '{}'", what);
  const std::vector<int32_t> ids = tokens(*tokenizer, read_text_file(in), what == "tokens");
  write(out, ids.data(), ids.size());
}

}  // namespace
}  // namespace hone

int main(int argc, char** argv) {
  try {
    hone::run({argv + 1, argv + argc});
  } catch (const std::exception& e) {
    std::fprintf(stderr, "hone_probe: %s\n", e.what());
    return 1;
  }
}
