// Counter-based random numbers: each is a function of (seed, counter), so that results depend on
// nothing that ran before, and on no thread.
#pragma once

#include <cmath>
#include <cstdint>

namespace hone {

/// SplitMix64's finaliser (Steele et al. 2014).
inline uint64_t mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

/// Uniform in [0, 1), 53 bits.
inline double random_uniform(uint64_t seed, uint64_t counter) {
  return static_cast<double>(mix64(mix64(seed) ^ counter) >> 11) * 0x1p-53;
}

/// Standard normal (Box & Muller 1958).
inline double random_normal(uint64_t seed, uint64_t counter) {
  double u = 1 - random_uniform(seed, 2 * counter), v = random_uniform(seed, 2 * counter + 1);
  return std::sqrt(-2 * std::log(u)) * std::cos(2 * M_PI * v);
}

}  // namespace hone
