#include "models/sampler.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>

#include "base/error.h"
#include "base/random.h"

namespace hone {
namespace {

// Without top_k, only so many of the likeliest candidates are sorted for top_p at first.
constexpr size_t kFirstSort = 256;

}  // namespace

void SamplerOptions::validate() const {
  HONE_CHECK(temperature >= 0 && temperature <= 100, invalid_argument,
             "temperature {}: expected 0 to 100", temperature);
  HONE_CHECK(top_k >= 0, invalid_argument, "top-k {}: expected 0 (off) or more", top_k);
  HONE_CHECK(top_p > 0 && top_p <= 1, invalid_argument, "top-p {}: expected above 0, up to 1",
             top_p);
  HONE_CHECK(min_p >= 0 && min_p <= 1, invalid_argument, "min-p {}: expected 0 to 1", min_p);
  HONE_CHECK(repetition_penalty > 0 && repetition_penalty <= 100, invalid_argument,
             "repetition penalty {}: expected above 0, up to 100", repetition_penalty);
}

Sampler::Sampler(const SamplerOptions& options) : options_(options) { options.validate(); }

double Sampler::uniform() { return random_uniform(options_.seed, draws_++); }

int32_t argmax(std::span<const float> x) {
  size_t best = 0;
  for (size_t i = 1; i < x.size(); ++i)
    if (x[i] > x[best]) best = i;
  return static_cast<int32_t>(best);
}

int32_t Sampler::sample(std::span<const float> logits, std::span<const int32_t> seen) {
  if (options_.repetition_penalty != 1) {
    logits_.assign(logits.begin(), logits.end());
    std::unordered_set<int32_t> done;
    for (int32_t id : seen)
      if (id >= 0 && static_cast<size_t>(id) < logits_.size() && done.insert(id).second)
        logits_[id] = logits_[id] > 0 ? logits_[id] / options_.repetition_penalty
                                      : logits_[id] * options_.repetition_penalty;
    logits = logits_;
  }
  int32_t best = argmax(logits);
  float top = logits[best];
  HONE_CHECK(std::isfinite(top), corrupt, "the largest logit is {}: the model is broken", top);
  if (options_.temperature == 0) return best;

  // A token below min_p of the likeliest is out whatever else holds; so is one below e^-40.
  float floor = -40 * options_.temperature;
  if (options_.min_p > 0) floor = std::max(floor, std::log(options_.min_p) * options_.temperature);
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i)
    if (logits[i] - top >= floor) candidates_.push_back({logits[i], static_cast<int32_t>(i)});
  auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  size_t sorted = std::min(candidates_.size(),
                           options_.top_k > 0 ? static_cast<size_t>(options_.top_k) : kFirstSort);
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<int64_t>(sorted),
                    candidates_.end(), likelier);
  if (options_.top_k > 0) candidates_.resize(sorted);

  weights_.clear();
  double total = 0;
  for (const Candidate& c : candidates_) {
    weights_.push_back(std::exp(double{c.logit - top} / options_.temperature));
    total += weights_.back();
  }
  double kept = total;
  if (options_.top_p < 1) {
    kept = 0;
    size_t n = 0;
    while (n < candidates_.size() && kept < options_.top_p * total) {
      if (n == sorted) {
        // The nucleus is wider than what was sorted: sort the rest.
        std::sort(candidates_.begin() + static_cast<int64_t>(sorted), candidates_.end(), likelier);
        sorted = candidates_.size();
        for (size_t i = n; i < sorted; ++i)
          weights_[i] = std::exp(double{candidates_[i].logit - top} / options_.temperature);
      }
      kept += weights_[n++];
    }
    candidates_.resize(n);
  }
  double point = uniform() * kept;
  for (size_t i = 0; i + 1 < candidates_.size(); ++i) {
    point -= weights_[i];
    if (point < 0) return candidates_[i].id;
  }
  return candidates_.back().id;
}

}  // namespace hone
