#include "eval/perplexity.h"

#include <algorithm>
#include <cmath>

#include "base/log.h"
#include "base/threads.h"
#include "models/session.h"
#include "ops/dense.h"

namespace hone {
namespace {

// Rows of logits held at once: a large vocabulary makes them the largest activation by far.
constexpr int64_t kLogitRows = 64;

struct TokenScore {
  double nll = 0, reference_nll = 0, kl = 0;
  bool same_top = false;
};

// KL(reference ‖ candidate) = Σ p_ref·(log p_ref − log p).
double divergence(const float* r, double r_lse, const float* c, double c_lse, int64_t v) {
  double kl = 0;
  for (int64_t i = 0; i < v; ++i) {
    double log_p = r[i] - r_lse;
    // Terms below e^-25·25 cannot reach the last printed digit.
    if (log_p < -25) continue;
    kl += std::exp(log_p) * (log_p - (c[i] - c_lse));
  }
  return std::max(kl, 0.0);
}

bool same_argmax(const float* a, const float* b, int64_t v) {
  return std::max_element(a, a + v) - a == std::max_element(b, b + v) - b;
}

// Scores the rows of `logits` (and `reference`, if any): row i predicts target[i].
void score_rows(const Tensor& logits, const Tensor* reference, const int32_t* target,
                TokenScore* out) {
  int64_t v = logits.dim(1);
  const float* c = logits.data<float>();
  const float* r = reference ? reference->data<float>() : nullptr;
  parallel_for(logits.dim(0), 1, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) {
      const float* row = c + i * v;
      double lse = ops::log_sum_exp(row, v);
      out[i].nll = lse - row[target[i]];
      if (r == nullptr) continue;
      const float* ref = r + i * v;
      double ref_lse = ops::log_sum_exp(ref, v);
      out[i].reference_nll = ref_lse - ref[target[i]];
      out[i].kl = divergence(ref, ref_lse, row, lse, v);
      out[i].same_top = same_argmax(ref, row, v);
    }
  });
}

double quantile(std::vector<double>& sorted, double q) {
  if (sorted.empty()) return std::numeric_limits<double>::quiet_NaN();
  double at = q * static_cast<double>(sorted.size() - 1);
  auto low = static_cast<size_t>(at);
  size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (at - static_cast<double>(low)) * (sorted[high] - sorted[low]);
}

Perplexity summarise(const std::vector<TokenScore>& scores, int64_t bytes, bool reference) {
  Perplexity p;
  auto n = static_cast<double>(scores.size());
  double sum = 0, squares = 0;
  for (const TokenScore& s : scores) {
    sum += s.nll;
    squares += s.nll * s.nll;
  }
  p.tokens = static_cast<int64_t>(scores.size());
  p.nll = sum / n;
  p.perplexity = std::exp(p.nll);
  double variance = n > 1 ? std::max(0.0, (squares - sum * sum / n) / (n - 1)) : 0;
  p.standard_error = p.perplexity * std::sqrt(variance / n);
  p.bits_per_byte = bytes > 0 ? sum / (std::log(2.0) * static_cast<double>(bytes)) : 0;
  if (!reference) return p;
  std::vector<double> kl;
  double ref = 0, same = 0, dp2 = 0, top = 0;
  for (const TokenScore& s : scores) {
    kl.push_back(s.kl);
    ref += s.reference_nll;
    same += s.same_top;
    double dp = std::exp(-s.nll) - std::exp(-s.reference_nll);
    dp2 += dp * dp;
    top = std::max(top, std::fabs(dp));
  }
  p.reference_perplexity = std::exp(ref / n);
  double total = 0;
  for (double k : kl) total += k;
  p.kl_mean = total / n;
  std::sort(kl.begin(), kl.end());
  p.kl_median = quantile(kl, 0.5);
  p.kl_p99 = quantile(kl, 0.99);
  p.top1_agreement = same / n;
  p.rms_dp = std::sqrt(dp2 / n);
  p.max_dp = top;
  return p;
}

}  // namespace

PerplexityConvention convention_from_name(const std::string& name) {
  if (name == "llama.cpp") return PerplexityConvention::llama_cpp;
  HONE_CHECK(name == "hf", invalid_argument, "convention '{}': expected llama.cpp or hf", name);
  return PerplexityConvention::hf;
}

const char* convention_name(PerplexityConvention c) {
  return c == PerplexityConvention::hf ? "hf" : "llama.cpp";
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

Perplexity measure_perplexity(LoadedModel& model, const std::string& text,
                              const PerplexityOptions& o, LoadedModel* reference) {
  for (LoadedModel* m : {&model, reference}) {
    if (m == nullptr) continue;
    HONE_CHECK(o.context <= m->model->context, invalid_argument,
               "context {}: {} was made for {} positions", o.context, m->path, m->model->context);
    HONE_CHECK(m->model->vocabulary() == model.model->vocabulary(), invalid_argument,
               "{} and {} have different vocabularies ({} and {} tokens)", model.path, m->path,
               model.model->vocabulary(), m->model->vocabulary());
  }
  double started = monotonic_seconds();
  std::vector<int32_t> tokens = model.encode(text, true, false);
  const Tokenizer& tokenizer = *model.tokenizer;
  if (o.max_tokens > 0 && static_cast<int64_t>(tokens.size()) > o.max_tokens)
    tokens.resize(static_cast<size_t>(o.max_tokens));
  // A tokenizer that puts bos before a text does so before every chunk.
  std::vector<int32_t> none = tokenizer.encode("", true, false);
  std::optional<int32_t> bos;
  if (tokenizer.bos() && !none.empty() && none[0] == *tokenizer.bos()) bos = tokenizer.bos();
  std::vector<ScoredChunk> chunks = perplexity_chunks(tokens, bos, o);

  Session session(*model.model, o.activations, o.kv);
  std::optional<Session> other;
  if (reference)
    other.emplace(*reference->model, o.exact_reference ? Activations::f32 : o.activations,
                  o.exact_reference ? KvType::f32 : o.kv);
  Progress progress("evaluating", static_cast<int64_t>(chunks.size()));
  std::vector<TokenScore> scores;
  int64_t bytes = 0;
  double nll = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    const ScoredChunk& c = chunks[i];
    auto count = static_cast<int64_t>(c.tokens.size());
    session.truncate(0);
    Tensor hidden = session.hidden(c.tokens), other_hidden;
    if (other) {
      other->truncate(0);
      other_hidden = other->hidden(c.tokens);
    }
    for (int64_t first = c.score_from; first < count; first += kLogitRows) {
      int64_t last = std::min(count, first + kLogitRows);
      Tensor logits = session.logits(hidden.rows(first - 1, last - 1)), ref;
      if (other) ref = other->logits(other_hidden.rows(first - 1, last - 1));
      size_t at = scores.size();
      scores.resize(at + static_cast<size_t>(last - first));
      score_rows(logits, other ? &ref : nullptr, c.tokens.data() + first, scores.data() + at);
      for (int64_t t = first; t < last; ++t) {
        bytes += static_cast<int64_t>(tokenizer.token_bytes(c.tokens[t]).size());
        nll += scores[at + static_cast<size_t>(t - first)].nll;
      }
    }
    progress.update(static_cast<int64_t>(i) + 1,
                    fmt::format("perplexity {:.4f}", std::exp(nll / double(scores.size()))));
  }
  HONE_CHECK(!scores.empty(), invalid_argument, "the text leaves no token to score");
  Perplexity result = summarise(scores, bytes, reference != nullptr);
  result.seconds = monotonic_seconds() - started;
  return result;
}

}  // namespace hone
