// Choosing the next token from logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace hone {

/// Applied in this order: repetition penalty, temperature, min-p, top-k, top-p. Defaults sample
/// from the plain distribution.
struct SamplerOptions {
  float temperature = 1;  ///< 0 = greedy
  int64_t top_k = 0;      ///< keep the k likeliest; 0 = all
  float top_p = 1;        ///< keep the smallest set with this much probability
  float min_p = 0;        ///< drop tokens below this share of the likeliest one's probability
  float repetition_penalty = 1;  ///< divides positive, multiplies negative logits of tokens seen
  uint64_t seed = 0;

  /// Raises invalid_argument naming the option that is out of its range (NaN included).
  void validate() const;
};

class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options);
  /// The next token for logits [V]; `seen` are the tokens so far (prompt and output), for the
  /// penalty. The n-th draw depends on (seed, n) and the logits only. Ties go to the lowest id.
  /// Raises corrupt where the largest logit is not finite.
  int32_t sample(std::span<const float> logits, std::span<const int32_t> seen);

 private:
  struct Mass {
    double weight = 0;
    int64_t count = 0;
  };
  double uniform();
  std::span<const float> penalised(std::span<const float> logits, std::span<const int32_t> seen);
  Mass mass_from(float least) const { return mass_from(least, 0, logits_.size()); }
  Mass mass_from(float least, size_t begin, size_t end) const;
  template <typename F>
  void keep_fewest(F enough, float needless);
  int32_t pick(double point) const;

  SamplerOptions options_;
  uint64_t draws_ = 0;
  std::vector<float> penalised_;
  std::vector<bool> marked_;  // tokens seen
  // Of one draw. A token is kept where its logit is at least least_ and its weight above 0.
  std::span<const float> logits_;
  std::vector<float> maxima_;   // of each block of logits
  std::vector<float> weights_;  // e^((logit − top)/temperature)
  float top_ = 0, least_ = 0;
  std::vector<int32_t> near_;  // ids about a threshold
};

/// The index of the largest value, the lowest on ties.
int32_t argmax(std::span<const float> x);

}  // namespace hone
