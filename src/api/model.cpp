// hone::v1::Model over the engine.
#include "hone/model.h"

#include <utility>

#include "base/threads.h"
#include "eval/perplexity.h"
#include "models/generate.h"
#include "models/loader.h"
#include "models/session.h"

namespace hone::v1 {

const char* version() { return HONE_VERSION; }

void set_threads(int threads) {
  HONE_CHECK(threads >= 0 && threads <= 4096, invalid_argument,
             "threads: expected 0 to 4096, got {}", threads);
  hone::set_threads(threads);
}

struct Model::State {
  LoadedModel model;
};

namespace {

const Tokenizer& tokenizer_of(const LoadedModel& m) {
  HONE_CHECK(m.tokenizer != nullptr, unsupported, "{}: it has no tokenizer", m.path);
  return *m.tokenizer;
}

}  // namespace

Model::Model(const std::string& path, const std::string& load_as) {
  LoadOptions options;
  options.load_as = load_as;
  state_ = std::make_unique<State>(State{load_model(path, options)});
}

Model::~Model() = default;
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;

ModelInfo Model::info() const {
  const LoadedModel& m = state_->model;
  ModelInfo i;
  i.name = m.name;
  i.family = m.family->name;
  i.layout = m.layout;
  i.parameters = m.model->parameter_count();
  i.context = m.config.context;
  i.vocabulary = m.config.vocabulary;
  i.weight_bytes = m.running_bytes();
  return i;
}

std::vector<int32_t> Model::encode(std::string_view text) const {
  return state_->model.encode(text);
}

std::string Model::decode(const std::vector<int32_t>& ids) const {
  return tokenizer_of(state_->model).decode(ids);
}

Generation Model::generate(std::string_view prompt, const GenerateOptions& options,
                           const std::function<void(std::string_view)>& emit) {
  LoadedModel& m = state_->model;
  hone::GenerateOptions o;
  o.max_tokens = options.max_tokens;
  o.stop = options.stop;
  o.sampler.temperature = options.temperature;
  o.sampler.top_k = options.top_k;
  o.sampler.top_p = options.top_p;
  o.sampler.seed = options.seed;
  std::vector<int32_t> ids = m.encode(prompt);
  if (ids.empty() && tokenizer_of(m).bos()) ids.push_back(*tokenizer_of(m).bos());
  HONE_CHECK(!ids.empty(), invalid_argument, "the prompt is empty and {} has no bos token", m.path);
  Session session(*m.model, Activations::int8);
  hone::Generation g = hone::generate(m, session, ids, o, [&](std::string_view piece) {
    if (emit) emit(piece);
  });
  Generation out;
  out.prefill_tokens_per_second = g.prefill_speed();
  out.decode_tokens_per_second = g.decode_speed();
  out.text = std::move(g.text);
  out.tokens = std::move(g.tokens);
  out.finish_reason = std::move(g.finish_reason);
  out.prompt_tokens = g.prompt_tokens;
  return out;
}

double Model::perplexity(const std::string& text, int64_t context) {
  PerplexityOptions o;
  o.context = context;
  return measure_perplexity(state_->model, text, o).perplexity;
}

}  // namespace hone::v1
