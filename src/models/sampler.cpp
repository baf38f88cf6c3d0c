// A draw must cost next to nothing beside a forward pass, so the vocabulary is never sorted and few
// of its exponentials are taken one by one: one pass finds the largest logit of each block, the
// blocks with the largest hold the likeliest tokens, and only the mass of the rest is summed, by
// the kernels. The order of a draw is the likeliest kHead tokens from the top, then the others by
// id.
#include "models/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/error.h"
#include "base/random.h"
#include "kernels/select.h"

namespace hone {
namespace {

// Without top_k, so many of the likeliest tokens are sorted at first.
constexpr size_t kHead = 256;
constexpr size_t kBlock = 64;
constexpr size_t kMassBlock = 1024;
// Log weight of a token that is out: finite, so that a whole block of them is a sum of zero.
constexpr float kOut = -1e30f;

constexpr size_t kLanes = 16;

// The largest of n values, NaN left out; -inf where there is none.
float largest(const float* x, size_t n) {
  float lanes[kLanes];
  std::fill(lanes, lanes + kLanes, -INFINITY);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (size_t j = 0; j < kLanes; ++j) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
  for (size_t j = 0; i + j < n; ++j) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
  for (size_t half = kLanes / 2; half > 0; half /= 2)
    for (size_t j = 0; j < half; ++j) lanes[j] = std::max(lanes[j], lanes[j + half]);
  return lanes[0];
}

// The index of the largest value, the lowest on ties, with the largest of each block in `maxima`.
int32_t find_largest(std::span<const float> x, std::vector<float>& maxima) {
  maxima.clear();
  for (size_t at = 0; at < x.size(); at += kBlock)
    maxima.push_back(largest(&x[at], std::min(kBlock, x.size() - at)));
  auto block = std::max_element(maxima.begin(), maxima.end());
  auto begin = x.begin() + (block - maxima.begin()) * static_cast<int64_t>(kBlock);
  auto at = std::find(begin, x.end(), *block);
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
  logits_.assign(logits.begin(), logits.end());
  marked_.assign(logits.size(), false);
  for (int32_t id : seen) {
    if (id < 0 || static_cast<size_t>(id) >= logits_.size() || marked_[id]) continue;
    marked_[id] = true;
    logits_[id] = logits_[id] > 0 ? logits_[id] / options_.repetition_penalty
                                  : logits_[id] * options_.repetition_penalty;
  }
  return logits_;
}

double Sampler::weight(float logit) const {
  return std::exp(double{logit - top_} / options_.temperature);
}

// Fills candidates_ with the `count` likeliest tokens above the floor, sorted.
void Sampler::take_likeliest(std::span<const float> logits, size_t count) {
  // `count` blocks have a token of at least the threshold each.
  float threshold = -INFINITY;
  if (count < maxima_.size()) {
    std::vector<float> order = maxima_;
    auto nth = order.begin() + static_cast<int64_t>(count) - 1;
    std::nth_element(order.begin(), nth, order.end(), std::greater<>());
    threshold = *nth;
  }
  candidates_.clear();
  for (size_t block = 0; block < maxima_.size(); ++block) {
    if (!(maxima_[block] >= threshold && maxima_[block] - top_ >= floor_)) continue;
    size_t end = std::min(logits.size(), (block + 1) * kBlock);
    for (size_t i = block * kBlock; i < end; ++i)
      if (logits[i] >= threshold && logits[i] - top_ >= floor_)
        candidates_.push_back({logits[i], static_cast<int32_t>(i)});
  }
  complete_ = candidates_.size() <= count && threshold - top_ < floor_;
  auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  if (candidates_.size() > count) {
    auto end = candidates_.begin() + static_cast<int64_t>(count);
    std::nth_element(candidates_.begin(), end, candidates_.end(), likelier);
    candidates_.resize(count);
  }
  std::sort(candidates_.begin(), candidates_.end(), likelier);
  for (size_t i = weights_.size(); i < candidates_.size(); ++i)
    weights_.push_back(weight(candidates_[i].logit));
}

double Sampler::block_mass(size_t block) const {
  size_t begin = block * kMassBlock, end = std::min(scaled_.size(), begin + kMassBlock);
  return std::exp(
      double{kernels::table().log_sum_exp(&scaled_[begin], static_cast<int64_t>(end - begin))});
}

// The weight of all tokens above the floor; fills scaled_.
double Sampler::total_mass(std::span<const float> logits) {
  scaled_.resize(logits.size());
  const float inverse = 1 / options_.temperature, top = top_, floor = floor_;
  const float* in = logits.data();
  float* out = scaled_.data();
  auto scale = [&](size_t i) {
    float below = in[i] - top;
    out[i] = below >= floor ? below * inverse : kOut;
  };
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes)
    for (size_t j = 0; j < kLanes; ++j) scale(i + j);
  for (; i < logits.size(); ++i) scale(i);
  double total = 0;
  for (size_t b = 0; b * kMassBlock < scaled_.size(); ++b) total += block_mass(b);
  return total;
}

// The token at `point` of the weights of all but the candidates, by id.
int32_t Sampler::draw_from_rest(double point) {
  for (const Candidate& c : candidates_) scaled_[c.id] = kOut;
  int32_t last = candidates_.back().id;
  for (size_t b = 0; b * kMassBlock < scaled_.size(); ++b) {
    double mass = block_mass(b);
    if (point >= mass) {
      point -= mass;
      continue;
    }
    size_t end = std::min(scaled_.size(), (b + 1) * kMassBlock);
    for (size_t i = b * kMassBlock; i < end && point >= 0; ++i) {
      if (scaled_[i] == kOut) continue;
      last = static_cast<int32_t>(i);
      point -= std::exp(double{scaled_[i]});
    }
    break;
  }
  return last;
}

int32_t Sampler::sample(std::span<const float> logits, std::span<const int32_t> seen) {
  if (options_.repetition_penalty != 1) logits = penalised(logits, seen);
  int32_t best = find_largest(logits, maxima_);
  top_ = logits[best];
  HONE_CHECK(std::isfinite(top_), corrupt, "the largest logit is {}: the model is broken", top_);
  if (options_.temperature == 0) return best;

  // A token below min_p of the likeliest is out whatever else holds; so is one below e^-40.
  floor_ = -40 * options_.temperature;
  if (options_.min_p > 0)
    floor_ = std::max(floor_, std::log(options_.min_p) * options_.temperature);
  weights_.clear();
  size_t head = options_.top_k > 0 ? static_cast<size_t>(options_.top_k) : kHead;
  take_likeliest(logits, head);
  if (options_.top_k > 0) complete_ = true;

  double total = 0;
  for (double w : weights_) total += w;
  if (!complete_) total = std::max(total, total_mass(logits));
  double kept = total;
  if (options_.top_p < 1) {
    kept = 0;
    size_t n = 0;
    while (kept < options_.top_p * total) {
      if (n == candidates_.size()) {
        if (complete_) break;
        // The nucleus is wider than what was sorted. It needs no token so unlikely that all of them
        // together have less than what it leaves out.
        double least = (1 - double{options_.top_p}) * total / (2 * double(logits.size()));
        floor_ = std::max(floor_, static_cast<float>(std::log(least) * options_.temperature));
        take_likeliest(logits, head *= 8);
        continue;
      }
      kept += weights_[n++];
    }
    candidates_.resize(n);
    complete_ = true;
  }
  double point = uniform() * kept;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    if (complete_ && i + 1 == candidates_.size()) break;
    point -= weights_[i];
    if (point < 0) return candidates_[i].id;
  }
  return complete_ ? candidates_.back().id : draw_from_rest(point);
}

}  // namespace hone
