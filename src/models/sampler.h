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
  struct Candidate {
    float logit;
    int32_t id;
  };
  double uniform();
  std::span<const float> penalised(std::span<const float> logits, std::span<const int32_t> seen);
  double weight(float logit) const;
  void take_likeliest(std::span<const float> logits, size_t count);
  double block_mass(size_t block) const;
  double total_mass(std::span<const float> logits);
  int32_t draw_from_rest(double point);

  SamplerOptions options_;
  uint64_t draws_ = 0;
  std::vector<float> logits_;  // with the penalty
  std::vector<bool> marked_;   // tokens seen
  // Of one draw.
  float top_ = 0, floor_ = 0;          // the largest logit; how far below it a token may be
  std::vector<float> maxima_;          // of each block of logits
  std::vector<Candidate> candidates_;  // the likeliest, sorted,
  bool complete_ = false;              // which are all there are, or all that top_k keeps
  std::vector<double> weights_;        // of the candidates
  std::vector<float> scaled_;          // log weights of all tokens
};

/// The index of the largest value, the lowest on ties.
int32_t argmax(std::span<const float> x);

}  // namespace hone
