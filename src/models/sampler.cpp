// A draw must cost next to nothing beside a forward pass, so the vocabulary is never sorted: every
// filter (min-p, top-k, top-p) keeps the tokens from some logit on, and that logit is found by
// bisection, each step one pass of a kernel that sums the weights above a threshold. Only the few
// tokens about the threshold are sorted. A draw then goes through the kept tokens by id.
#include "models/sampler.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "kernels/select.h"

namespace hone {
namespace {

// So many tokens about a threshold are sorted; more are bisected on.
constexpr int64_t kSorted = 256;
// Tokens with less than e^-40 of the likeliest one's weight are out.
constexpr float kFaintest = 40;

// The index of the largest value, the lowest on ties.
int32_t find_largest(std::span<const float> x, std::vector<float>& maxima) {
  constexpr size_t block = kernels::kMaximaBlock;
  maxima.resize((x.size() + block - 1) / block);
  kernels::table().block_maxima(x.data(), std::ssize(x), maxima.data());
  auto best = std::max_element(maxima.begin(), maxima.end());
  auto begin = x.begin() + (best - maxima.begin()) * static_cast<int64_t>(block);
  auto at = std::find(begin, x.end(), *best);
  return at == x.end() ? 0 : static_cast<int32_t>(at - x.begin());
}

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
  std::vector<float> maxima;
  return find_largest(x, maxima);
}

std::span<const float> Sampler::penalised(std::span<const float> logits,
                                          std::span<const int32_t> seen) {
  penalised_.assign(logits.begin(), logits.end());
  marked_.assign(logits.size(), false);
  for (int32_t id : seen) {
    if (id < 0 || static_cast<size_t>(id) >= penalised_.size() || marked_[id]) continue;
    marked_[id] = true;
    penalised_[id] = penalised_[id] > 0 ? penalised_[id] / options_.repetition_penalty
                                        : penalised_[id] * options_.repetition_penalty;
  }
  return penalised_;
}

Sampler::Mass Sampler::mass_from(float least, size_t begin, size_t end) const {
  Mass m;
  m.weight = kernels::table().mass_at_least(&logits_[begin], &weights_[begin],
                                            static_cast<int64_t>(end - begin), least, &m.count);
  return m;
}

// Keeps the fewest of the likeliest tokens for which enough(their mass) holds, all where it never
// does. On ties the lowest ids stay. Tokens below the logit `needless` are not needed for it.
template <typename F>
void Sampler::keep_fewest(F enough, float needless) {
  // Tokens from `low` on are enough, those from `high` on are not.
  float low = std::max(least_, needless), high = std::nextafter(top_, INFINITY);
  Mass from_low = mass_from(low), from_high;
  if (!enough(from_low)) return;
  while (from_low.count - from_high.count > kSorted) {
    float middle = low + (high - low) / 2;
    if (!(middle > low && middle < high)) break;  // ties
    Mass mass = mass_from(middle);
    (enough(mass) ? low : high) = middle;
    (enough(mass) ? from_low : from_high) = mass;
  }
  near_.resize(logits_.size());
  near_.resize(static_cast<size_t>(
      kernels::table().find_between(logits_.data(), std::ssize(logits_), low, high, near_.data())));
  std::sort(near_.begin(), near_.end(), [&](int32_t a, int32_t b) {
    return logits_[a] != logits_[b] ? logits_[a] > logits_[b] : a < b;
  });
  Mass kept = from_high;
  for (int32_t id : near_) {
    if (enough(kept)) weights_[id] = 0;
    kept.weight += weights_[id];
    kept.count += 1;
  }
  least_ = low;
}

// The kept token at `point` of the kept weights, by id.
int32_t Sampler::pick(double point) const {
  constexpr size_t kBlock = 1024;
  size_t block = 0;  // the first whose weights reach beyond the point, or the last with any
  for (size_t at = 0; at < logits_.size(); at += kBlock) {
    double mass = mass_from(least_, at, std::min(logits_.size(), at + kBlock)).weight;
    if (mass == 0) continue;
    block = at;
    if (point < mass) break;
    point -= mass;
  }
  size_t last = block;
  for (size_t i = block; i < std::min(logits_.size(), block + kBlock); ++i) {
    if (logits_[i] < least_ || !(weights_[i] > 0)) continue;
    last = i;
    if ((point -= weights_[i]) < 0) break;
  }
  return static_cast<int32_t>(last);
}

int32_t Sampler::sample(std::span<const float> logits, std::span<const int32_t> seen) {
  logits_ = options_.repetition_penalty == 1 ? logits : penalised(logits, seen);
  int32_t best = find_largest(logits_, maxima_);
  top_ = logits_[best];
  HONE_CHECK(std::isfinite(top_), corrupt, "the largest logit is {}: the model is broken", top_);
  const float factor = 1 / options_.temperature;
  if (std::isinf(factor)) return best;

  float faintest = -kFaintest;
  if (options_.min_p > 0) faintest = std::max(faintest, std::log(options_.min_p));
  least_ = top_ + faintest * options_.temperature;
  weights_.resize(logits_.size());
  kernels::table().weights_at_least(logits_.data(), std::ssize(logits_), least_, top_, factor,
                                    weights_.data());
  if (options_.top_k > 0) keep_fewest([&](Mass m) { return m.count >= options_.top_k; }, least_);
  if (options_.top_p < 1) {
    const double total = mass_from(least_).weight, wanted = options_.top_p * total;
    // So faint that all of them together have less than half of what the nucleus leaves out.
    const double faint = (total - wanted) / (2 * double(logits_.size()));
    keep_fewest([&](Mass m) { return m.weight >= wanted; },
                top_ + static_cast<float>(std::log(faint)) * options_.temperature);
  }
  return pick(uniform() * mass_from(least_).weight);
}

}  // namespace hone
