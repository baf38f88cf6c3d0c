// The tokens that casts are compared on: windows of a text, or what the model writes itself.
#include <algorithm>

#include "base/log.h"
#include "eval/precision.h"
#include "models/sampler.h"
#include "models/session.h"

namespace hone {
namespace {

// Of a text that the model writes: enough to leave the beginning behind.
constexpr int64_t kWrittenLength = 256;
constexpr int64_t kWrittenTokens = 2048;

}  // namespace

std::vector<std::vector<int32_t>> text_samples(const LoadedModel& model, const std::string& text,
                                               int64_t context, int64_t max_tokens) {
  HONE_CHECK(context >= 2 && context <= model.model->context, invalid_argument,
             "context {}: expected 2 to {}, which {} was made for", context, model.model->context,
             model.path);
  model.model->set_reach(context);
  std::vector<int32_t> ids = model.encode(text, true, false);
  auto n = std::ssize(ids);
  if (max_tokens > 0) n = std::min(n, max_tokens);
  std::optional<int32_t> bos = text_bos(*model.tokenizer);
  std::vector<std::vector<int32_t>> samples;
  for (int64_t b = 0; b + 2 <= n; b += context) {
    samples.emplace_back(ids.begin() + b, ids.begin() + std::min(n, b + context));
    if (bos) samples.back()[0] = *bos;
  }
  HONE_CHECK(!samples.empty(), invalid_argument, "the text has {} tokens; at least 2 are needed",
             n);
  return samples;
}

std::vector<std::vector<int32_t>> written_samples(LoadedModel& m, int64_t context,
                                                  int64_t max_tokens, uint64_t seed) {
  Model& model = *m.model;
  HONE_CHECK(context >= 2 && context <= model.context, invalid_argument,
             "context {}: expected 2 to {}, which {} was made for", context, model.context, m.path);
  const int64_t total = max_tokens > 0 ? max_tokens : kWrittenTokens;
  const int64_t length = std::min({context, kWrittenLength, std::max<int64_t>(2, total)});
  const int64_t count = std::max<int64_t>(1, total / length);
  int32_t start = m.end_ids.empty() ? 0 : m.end_ids[0];
  if (m.tokenizer && m.tokenizer->bos()) start = *m.tokenizer->bos();
  HONE_CHECK(start < model.vocabulary(), corrupt,
             "{}: token {} begins a text, and the vocabulary has {}", m.path, start,
             model.vocabulary());
  std::vector<std::vector<int32_t>> samples(static_cast<size_t>(count), {start});
  std::vector<Sampler> samplers;
  for (size_t i = 0; i < samples.size(); ++i) {
    SamplerOptions o;
    o.seed = seed + i;
    samplers.emplace_back(o);
  }
  KvCache cache(model.kv_shapes());
  std::vector<KvSequence> sequences(samples.size());
  Progress progress("writing a text to compare on", length - 1);
  for (int64_t n = 1; n < length; ++n) {
    Batch batch;
    for (size_t i = 0; i < samples.size(); ++i)
      batch.append({&samples[i].back(), 1}, &sequences[i]);
    Tensor logits = model.logits(model.forward(batch, cache), Activations::f32);
    const float* row = logits.data<float>();
    auto v = static_cast<size_t>(model.vocabulary());
    for (size_t i = 0; i < samples.size(); ++i)
      samples[i].push_back(samplers[i].sample({row + i * v, v}, samples[i]));
    progress.update(n);
  }
  for (Linear* l : model.linears()) l->unpack();
  return samples;
}

}  // namespace hone
