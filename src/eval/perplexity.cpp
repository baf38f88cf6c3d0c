#include "eval/perplexity.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>

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

// Perplexity by position, in ranges that double.
class Ranges {
 public:
  explicit Ranges(int64_t first) : first_(first) {}
  void add(int64_t position, double nll) {
    if (first_ <= 0) return;
    size_t i = 0;
    while (position >= first_ << i) ++i;
    if (i >= sums_.size()) sums_.resize(i + 1);
    sums_[i].nll += nll;
    ++sums_[i].tokens;
    end_ = std::max(end_, position + 1);
  }
  std::vector<Perplexity::Range> all() const {
    std::vector<Perplexity::Range> out;
    for (size_t i = 0; i < sums_.size(); ++i)
      if (sums_[i].tokens > 0)
        out.push_back({i == 0 ? 0 : first_ << (i - 1), std::min(first_ << i, end_),
                       std::exp(sums_[i].nll / sums_[i].tokens)});
    return out;
  }

 private:
  struct Sum {
    double nll = 0, tokens = 0;
  };
  int64_t first_, end_ = 0;
  std::vector<Sum> sums_;
};

// A model with one cache, and what it was scored.
struct Run {
  Session session;
  Ranges ranges;
  Tensor hidden = {};
  std::vector<TokenScore> scores = {};
  double nll = 0;
  int64_t kv_bytes = 0;

  Run(LoadedModel& m, Activations activations, KvType kv, int64_t first_range)
      : session(*m.model, activations, kv), ranges(first_range) {}
  /// Logits of what predicts the tokens [first, last), where hidden[0] is that of token `begin`.
  Tensor logits(int64_t begin, int64_t first, int64_t last) {
    return session.logits(hidden.rows(first - 1 - begin, last - 1 - begin));
  }
};

// Runs chunks through all runs side by side, and a reference beside them, and scores them.
class Scoring {
 public:
  Scoring(LoadedModel& model, LoadedModel* reference, const PerplexityOptions& o,
          std::span<const KvType> types, KvType reference_type)
      : tokenizer_(*model.tokenizer) {
    for (KvType type : types) runs_.emplace_back(model, o.activations, type, o.first_range);
    if (reference)
      other_.emplace(*reference, o.exact_reference ? Activations::f32 : o.activations,
                     reference_type, 0);
  }

  // A few rows at a time, so that memory does not grow with the chunk.
  void run(const ScoredChunk& c, const std::function<void(int64_t done)>& progress) {
    const auto count = static_cast<int64_t>(c.tokens.size());
    each([](Run& r) { r.session.truncate(0); });
    for (int64_t begin = 0; begin < count; begin += kChunkTokens) {
      const int64_t end = std::min(count, begin + kChunkTokens);
      const auto piece =
          std::span(c.tokens).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
      each([&](Run& r) { r.hidden = r.session.hidden(piece); });
      const int64_t last = std::min(end + 1, count);
      for (int64_t t = std::max(c.score_from, begin + 1); t < last; t += kLogitRows)
        score(c, begin, t, std::min(last, t + kLogitRows));
      progress(end);
    }
    for (Run& r : runs_) r.kv_bytes = std::max(r.kv_bytes, r.session.kv_bytes());
  }

  std::string note() const {
    const Run& r = runs_[0];
    if (r.scores.empty()) return {};
    return fmt::format("perplexity {:.4f}", std::exp(r.nll / double(r.scores.size())));
  }
  std::vector<Perplexity> results() {
    HONE_CHECK(!runs_[0].scores.empty(), invalid_argument, "the text leaves no token to score");
    std::vector<Perplexity> all;
    for (const Run& r : runs_) {
      all.push_back(summarise(r.scores, bytes_, other_.has_value()));
      all.back().ranges = r.ranges.all();
      all.back().kv_bytes = r.kv_bytes;
    }
    return all;
  }

 private:
  template <typename F>
  void each(F f) {
    for (Run& r : runs_) f(r);
    if (other_) f(*other_);
  }

  // Targets [first, last), each predicted by the row before it; row 0 is token `begin`.
  void score(const ScoredChunk& c, int64_t begin, int64_t first, int64_t last) {
    const Tensor ref = other_ ? other_->logits(begin, first, last) : Tensor();
    for (int64_t t = first; t < last; ++t)
      bytes_ += static_cast<int64_t>(tokenizer_.token_bytes(c.tokens[t]).size());
    for (Run& r : runs_) {
      const Tensor mine = r.logits(begin, first, last);
      const size_t at = r.scores.size();
      r.scores.resize(at + static_cast<size_t>(last - first));
      score_rows(mine, other_ ? &ref : nullptr, c.tokens.data() + first, r.scores.data() + at);
      for (int64_t t = first; t < last; ++t) {
        const double nll = r.scores[at + static_cast<size_t>(t - first)].nll;
        r.nll += nll;
        r.ranges.add(t, nll);
      }
    }
  }

  const Tokenizer& tokenizer_;
  std::vector<Run> runs_;
  std::optional<Run> other_;
  int64_t bytes_ = 0;
};

void check_fit(LoadedModel& model, LoadedModel* reference, const PerplexityOptions& o) {
  for (LoadedModel* m : {&model, reference}) {
    if (m == nullptr) continue;
    HONE_CHECK(m->model->streaming || o.context <= m->model->context, invalid_argument,
               "context {}: {} was made for {} positions", o.context, m->path, m->model->context);
    m->model->set_reach(o.context);
    HONE_CHECK(m->model->vocabulary() == model.model->vocabulary(), invalid_argument,
               "{} and {} have different vocabularies ({} and {} tokens)", model.path, m->path,
               model.model->vocabulary(), m->model->vocabulary());
  }
}

std::vector<Perplexity> measure(LoadedModel& model, const std::string& text,
                                const PerplexityOptions& o, LoadedModel* reference,
                                std::span<const KvType> types, KvType reference_type) {
  check_fit(model, reference, o);
  double started = monotonic_seconds();
  std::vector<int32_t> tokens = model.encode(text, true, false);
  if (o.max_tokens > 0 && static_cast<int64_t>(tokens.size()) > o.max_tokens)
    tokens.resize(static_cast<size_t>(o.max_tokens));
  std::vector<ScoredChunk> chunks;
  if (model.model->streaming)
    chunks.push_back({tokens, 1});
  else
    chunks = perplexity_chunks(tokens, text_bos(*model.tokenizer), o);
  int64_t total = 0, done = 0;
  for (const ScoredChunk& c : chunks) total += std::ssize(c.tokens);
  Scoring scoring(model, reference, o, types, reference_type);
  Progress progress("evaluating", total);
  for (const ScoredChunk& c : chunks) {
    scoring.run(c, [&](int64_t of_chunk) { progress.update(done + of_chunk, scoring.note()); });
    done += std::ssize(c.tokens);
  }
  std::vector<Perplexity> results = scoring.results();
  for (Perplexity& p : results) p.seconds = monotonic_seconds() - started;
  return results;
}

}  // namespace

Perplexity measure_perplexity(LoadedModel& model, const std::string& text,
                              const PerplexityOptions& o, LoadedModel* reference) {
  return measure(model, text, o, reference, {&o.kv, 1}, o.exact_reference ? KvType::f32 : o.kv)[0];
}

std::vector<Perplexity> measure_caches(LoadedModel& model, const std::string& text,
                                       const PerplexityOptions& o, std::span<const KvType> types,
                                       LoadedModel* reference) {
  HONE_CHECK(!types.empty(), invalid_argument, "expected at least one type of KV cache");
  return measure(model, text, o, reference == nullptr ? &model : reference, types, KvType::f32);
}

}  // namespace hone
