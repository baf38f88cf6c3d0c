#include "models/generate.h"

#include <algorithm>

#include "base/log.h"
#include "text/stream_decoder.h"

namespace hone {
namespace {

// Holds back text that may be the beginning of a stop string.
class StopFilter {
 public:
  StopFilter(const std::vector<std::string>& stops,
             const std::function<void(std::string_view)>& emit, std::string& out)
      : stops_(stops), emit_(emit), out_(out) {}

  // True where a stop string is complete: what came before it is out.
  bool push(const std::string& piece) {
    held_ += piece;
    size_t first = std::string::npos;
    for (const std::string& s : stops_)
      if (!s.empty()) first = std::min(first, held_.find(s));
    if (first != std::string::npos) {
      release(first);
      held_.clear();
      return true;
    }
    size_t keep = 0;
    for (const std::string& s : stops_)
      for (size_t n = std::min(s.size(), held_.size() + 1); n-- > 1;)
        if (held_.compare(held_.size() - n, n, s, 0, n) == 0) {
          keep = std::max(keep, n);
          break;
        }
    release(held_.size() - keep);
    return false;
  }
  void finish() { release(held_.size()); }

 private:
  void release(size_t n) {
    if (n == 0) return;
    std::string_view part(held_.data(), n);
    out_ += part;
    if (emit_) emit_(part);
    held_.erase(0, n);
  }
  const std::vector<std::string>& stops_;
  const std::function<void(std::string_view)>& emit_;
  std::string& out_;
  std::string held_;
};

}  // namespace

double Generation::prefill_speed() const {
  return static_cast<double>(prompt_tokens - cached_tokens) / std::max(prefill_seconds, 1e-9);
}

double Generation::decode_speed() const {
  return static_cast<double>(decode_steps) / std::max(decode_seconds, 1e-9);
}

Generation generate(const LoadedModel& model, Session& session, std::span<const int32_t> prompt,
                    const GenerateOptions& o, const std::function<void(std::string_view)>& emit) {
  HONE_CHECK(o.max_tokens >= 0, invalid_argument, "max-tokens {}: expected 0 or more",
             o.max_tokens);
  HONE_CHECK(model.tokenizer != nullptr, unsupported, "{}: it has no tokenizer", model.path);
  Generation g;
  g.finish_reason = "length";
  g.prompt_tokens = static_cast<int64_t>(prompt.size());
  g.cached_tokens = session.length();
  HONE_CHECK(model.model->streaming || g.prompt_tokens <= model.model->context, invalid_argument,
             "a prompt of {} tokens: the context of {} holds {}", g.prompt_tokens, model.path,
             model.model->context);
  HONE_ASSERT(g.cached_tokens < g.prompt_tokens || prompt.empty());
  // What a chat holds already stays as it is.
  if (g.cached_tokens == 0)
    model.model->set_reach(std::min(model.model->context, g.prompt_tokens) +
                           std::min(model.model->context, o.max_tokens));
  Sampler sampler(o.sampler);
  StreamDecoder decoder(*model.tokenizer);
  StopFilter filter(o.stop, emit, g.text);
  std::vector<int32_t> seen(prompt.begin(), prompt.end());
  double started = monotonic_seconds();
  Tensor logits = session.append(prompt.subspan(static_cast<size_t>(g.cached_tokens)));
  g.prefill_seconds = monotonic_seconds() - started;
  started = monotonic_seconds();
  const int64_t room = session.room();
  // Models pad their vocabulary: an id without a token is never chosen.
  auto choices =
      static_cast<size_t>(std::min<int64_t>(logits.numel(), model.tokenizer->vocab_size()));
  bool stopped = false, cut = false;
  for (int64_t n = 0; n < o.max_tokens && !stopped; ++n) {
    int32_t id = sampler.sample({logits.data<float>(), choices}, seen);
    bool end = std::binary_search(model.end_ids.begin(), model.end_ids.end(), id);
    if (end && !o.ignore_end) {
      stopped = true;
      break;
    }
    g.tokens.push_back(id);
    seen.push_back(id);
    stopped = cut = filter.push(decoder.push(id));
    if (n + 1 >= o.max_tokens || n >= room) break;
    if (stopped) break;
    logits = session.append({&id, 1});
    ++g.decode_steps;
  }
  g.decode_seconds = monotonic_seconds() - started;
  if (stopped) g.finish_reason = "stop";
  // Behind a stop text nothing more comes, nor the bytes of a character that it has cut.
  if (!cut) filter.push(decoder.finish());
  filter.finish();
  return g;
}

}  // namespace hone
