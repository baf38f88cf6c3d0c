#include "eval/perplexity.h"

#include <algorithm>
#include <cmath>

#include "base/log.h"
#include "eval/token_score.h"
#include "models/session.h"

namespace hone {

PerplexityConvention convention_from_name(const std::string& name) {
  if (name == "llama.cpp") return PerplexityConvention::llama_cpp;
  HONE_CHECK(name == "hf", invalid_argument, "convention '{}': expected llama.cpp or hf", name);
  return PerplexityConvention::hf;
}

const char* convention_name(PerplexityConvention c) {
  return c == PerplexityConvention::hf ? "hf" : "llama.cpp";
}

std::optional<int32_t> text_bos(const Tokenizer& tokenizer) {
  std::vector<int32_t> none = tokenizer.encode("", true, false);
  if (tokenizer.bos() && !none.empty() && none[0] == *tokenizer.bos()) return tokenizer.bos();
  return std::nullopt;
}

std::vector<ScoredChunk> perplexity_chunks(const std::vector<int32_t>& tokens,
                                           std::optional<int32_t> bos, const PerplexityOptions& o) {
  HONE_CHECK(o.context >= 2, invalid_argument, "context {}: expected at least 2", o.context);
  HONE_CHECK(o.stride >= 0 && o.stride <= o.context, invalid_argument,
             "stride {}: expected 0 (half the context) to the context, {}", o.stride, o.context);
  auto n = static_cast<int64_t>(tokens.size());
  std::vector<ScoredChunk> chunks;
  auto part = [&](int64_t b, int64_t e) {
    return std::vector<int32_t>(tokens.begin() + b, tokens.begin() + e);
  };
  if (o.convention == PerplexityConvention::llama_cpp) {
    HONE_CHECK(n >= o.context, invalid_argument,
               "the text has {} tokens, fewer than one chunk of {}; use a smaller --context", n,
               o.context);
    for (int64_t b = 0; b + o.context <= n; b += o.context) {
      ScoredChunk c{part(b, b + o.context), o.context / 2 + 1};
      if (bos) c.tokens[0] = *bos;
      chunks.push_back(std::move(c));
    }
    return chunks;
  }
  HONE_CHECK(n >= 2, invalid_argument, "the text has {} tokens; at least 2 are needed", n);
  int64_t stride = o.stride > 0 ? o.stride : std::max<int64_t>(1, o.context / 2);
  int64_t scored_to = 0;
  for (int64_t b = 0; scored_to < n; b += stride) {
    int64_t e = std::min(n, b + o.context);
    chunks.push_back({part(b, e), std::max<int64_t>(1, scored_to - b)});
    scored_to = e;
  }
  return chunks;
}

namespace {

void check_fits(const LoadedModel& model, const PerplexityOptions& o, const LoadedModel& m) {
  HONE_CHECK(o.context <= m.model->context, invalid_argument,
             "context {}: {} was made for {} positions", o.context, m.path, m.model->context);
  HONE_CHECK(m.model->vocabulary() == model.model->vocabulary(), invalid_argument,
             "{} and {} have different vocabularies ({} and {} tokens)", model.path, m.path,
             model.model->vocabulary(), m.model->vocabulary());
}

// One model, with one cache.
struct Run {
  Session session;
  Tensor hidden;
  std::vector<TokenScore> scores = {};

  void begin(const ScoredChunk& c) {
    session.truncate(0);
    hidden = session.hidden(c.tokens);
  }
  /// What predicts the tokens [first, last).
  Tensor logits(int64_t first, int64_t last) {
    return session.logits(hidden.rows(first - 1, last - 1));
  }
};

std::vector<Perplexity> measure(LoadedModel& model, const std::string& text,
                                const PerplexityOptions& o, std::vector<Run>& runs,
                                std::optional<Run> reference) {
  double started = monotonic_seconds();
  std::vector<int32_t> tokens = model.encode(text, true, false);
  const Tokenizer& tokenizer = *model.tokenizer;
  if (o.max_tokens > 0 && static_cast<int64_t>(tokens.size()) > o.max_tokens)
    tokens.resize(static_cast<size_t>(o.max_tokens));
  std::vector<ScoredChunk> chunks = perplexity_chunks(tokens, text_bos(tokenizer), o);

  Progress progress("evaluating", static_cast<int64_t>(chunks.size()));
  int64_t bytes = 0;
  double nll = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    const ScoredChunk& c = chunks[i];
    auto count = static_cast<int64_t>(c.tokens.size());
    for (Run& r : runs) r.begin(c);
    if (reference) reference->begin(c);
    for (int64_t first = c.score_from; first < count; first += kLogitRows) {
      int64_t last = std::min(count, first + kLogitRows);
      Tensor ref = reference ? reference->logits(first, last) : Tensor();
      for (Run& r : runs) {
        Tensor logits = r.logits(first, last);
        size_t at = r.scores.size();
        r.scores.resize(at + static_cast<size_t>(last - first));
        score_rows(logits, reference ? &ref : nullptr, c.tokens.data() + first,
                   r.scores.data() + at);
      }
      const std::vector<TokenScore>& scores = runs[0].scores;
      for (int64_t t = first; t < last; ++t) {
        bytes += static_cast<int64_t>(tokenizer.token_bytes(c.tokens[t]).size());
        nll += scores[scores.size() - static_cast<size_t>(last - t)].nll;
      }
    }
    progress.update(
        static_cast<int64_t>(i) + 1,
        fmt::format("perplexity {:.4f}", std::exp(nll / double(runs[0].scores.size()))));
  }
  HONE_CHECK(!runs[0].scores.empty(), invalid_argument, "the text leaves no token to score");
  std::vector<Perplexity> results;
  for (const Run& r : runs) {
    results.push_back(summarise(r.scores, bytes, reference.has_value()));
    results.back().seconds = monotonic_seconds() - started;
  }
  return results;
}

}  // namespace

Perplexity measure_perplexity(LoadedModel& model, const std::string& text,
                              const PerplexityOptions& o, LoadedModel* reference) {
  check_fits(model, o, model);
  if (reference) check_fits(model, o, *reference);
  std::vector<Run> runs;
  runs.push_back({Session(*model.model, o.activations, o.kv), {}});
  std::optional<Run> other;
  if (reference)
    other.emplace(
        Run{Session(*reference->model, o.exact_reference ? Activations::f32 : o.activations,
                    o.exact_reference ? KvType::f32 : o.kv),
            {}});
  return measure(model, text, o, runs, std::move(other))[0];
}

std::vector<Perplexity> measure_caches(LoadedModel& model, const std::string& text,
                                       const PerplexityOptions& o, std::span<const KvType> types,
                                       LoadedModel* reference) {
  HONE_CHECK(!types.empty(), invalid_argument, "expected at least one type of KV cache");
  if (reference == nullptr) reference = &model;
  check_fits(model, o, model);
  check_fits(model, o, *reference);
  std::vector<Run> runs;
  for (KvType type : types) runs.push_back({Session(*model.model, o.activations, type), {}});
  Run other{Session(*reference->model, o.exact_reference ? Activations::f32 : o.activations), {}};
  return measure(model, text, o, runs, std::move(other));
}

}  // namespace hone
