#include "attention/terms.h"

#include <cmath>

#include "base/error.h"
#include "base/random.h"

namespace hone {

namespace {
constexpr double kSteps = 65536;
}

std::vector<float> alibi_slopes(int64_t heads, double most) {
  HONE_CHECK(heads > 0, invalid_argument, "ALiBi of {} heads: expected at least 1", heads);
  int64_t power = 1;
  while (2 * power <= heads) power *= 2;
  std::vector<float> slopes;
  for (int64_t i = 1; i <= power; ++i)
    slopes.push_back(static_cast<float>(std::exp2(-most * double(i) / double(power))));
  for (int64_t i = 1; std::ssize(slopes) < heads; i += 2)
    slopes.push_back(static_cast<float>(std::exp2(-most * double(i) / double(2 * power))));
  return slopes;
}

AttentionDropout::AttentionDropout(const AttentionTerms& terms)
    : seed_(mix64(terms.dropout_seed)),
      threshold_(static_cast<uint64_t>(std::lround(double{terms.dropout} * kSteps))) {}

float AttentionDropout::factor() const {
  return static_cast<float>(kSteps / (kSteps - static_cast<double>(threshold_)));
}

uint64_t AttentionDropout::keep(int64_t sequence, int64_t head, int64_t query, int64_t k0) const {
  uint64_t row = seed_;
  for (int64_t x : {sequence, head, query}) row = mix64(row ^ static_cast<uint64_t>(x));
  uint64_t bits = 0;
  for (int64_t i = 0; i < Pattern::kTile; i += 4) {
    const uint64_t drawn = mix64(row ^ static_cast<uint64_t>(k0 + i));
    for (int j = 0; j < 4; ++j)
      bits |= uint64_t{(drawn >> (16 * j) & 0xffff) >= threshold_} << (i + j);
  }
  return bits;
}

uint64_t visible_bits(const float* bias, int64_t n) {
  uint64_t bits = 0;
  for (int64_t j = 0; j < n; ++j) bits |= uint64_t{bias[j] != -INFINITY} << j;
  return bits;
}

void check_spec(const AttentionSpec& s) {
  HONE_CHECK(s.kv_heads > 0 && s.heads > 0 && s.heads % s.kv_heads == 0, invalid_argument,
             "attention: {} heads are no multiple of {} key and value heads", s.heads, s.kv_heads);
  HONE_CHECK(s.k_dim > 0 && s.v_dim > 0, invalid_argument,
             "attention: expected head sizes of at least 1, got {} and {}", s.k_dim, s.v_dim);
  HONE_CHECK(s.softcap >= 0, invalid_argument,
             "attention: expected a soft cap of at least 0, got {}", s.softcap);
  HONE_CHECK(s.alibi.slopes.empty() || std::ssize(s.alibi.slopes) == s.heads, invalid_argument,
             "attention: {} ALiBi slopes for {} heads", s.alibi.slopes.size(), s.heads);
}

void check_terms(const AttentionSpec& s, const AttentionTerms& t, int64_t rows, int64_t keys) {
  if (!t.bias.empty_handle()) {
    HONE_CHECK(t.bias.rank() == 3 && t.bias.dtype() == DType::f32, invalid_argument,
               "attention: expected a f32 bias [{} or 1, {}, {}], got rank {}", s.heads, rows, keys,
               t.bias.rank());
    HONE_CHECK((t.bias.dim(0) == 1 || t.bias.dim(0) == s.heads) && t.bias.dim(1) == rows &&
                   t.bias.dim(2) >= keys,
               invalid_argument, "attention: expected a bias [{} or 1, {}, {}], got [{}, {}, {}]",
               s.heads, rows, keys, t.bias.dim(0), t.bias.dim(1), t.bias.dim(2));
  }
  HONE_CHECK(
      t.sinks.empty_handle() || (t.sinks.numel() == s.heads && t.sinks.dtype() == DType::f32),
      invalid_argument, "attention: expected {} f32 sinks, got {}", s.heads, t.sinks.numel());
  HONE_CHECK(t.dropout >= 0 && t.dropout < 0.9999f, invalid_argument,
             "attention: expected dropout from 0 to below 0.9999, got {}", t.dropout);
}

}  // namespace hone
