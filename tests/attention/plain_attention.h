// The definition of attention() in double, key by key: what every test here compares with.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "attention/attention.h"
#include "attention/terms.h"

namespace hone::testing {

struct PlainAttention {
  std::vector<double> o, log_sum;  // [T, heads·v_dim], [T, heads]; 0 and −∞ where nothing is seen
};

/// `terms` gives the bias's shape, and dropout, whose bits are those of AttentionDropout; the
/// values of bias and sinks are given apart, empty = none.
inline PlainAttention plain_attention(
    const AttentionSpec& s, const std::vector<AttentionSpan>& spans, const std::vector<double>& q,
    const std::vector<double>& k, const std::vector<double>& v, const AttentionTerms& terms = {},
    const std::vector<double>& bias = {}, const std::vector<double>& sinks = {}) {
  const int64_t group = s.heads / s.kv_heads, rows = std::ssize(q) / (s.heads * s.k_dim);
  const BiasRows bias_rows(terms.bias);
  const AttentionDropout dropout(terms);
  PlainAttention out{std::vector<double>(rows * s.heads * s.v_dim),
                     std::vector<double>(rows * s.heads, -INFINITY)};
  auto one = [&](int64_t span, int64_t row, int64_t p, int64_t h) {
    const AttentionSpan& x = spans[span];
    std::vector<double> scores, weights;
    double top = sinks.empty() ? -INFINITY : sinks[h], total = 0;
    for (int64_t j = 0; j < x.k_end - x.k_begin; ++j) {
      double score = 0;
      for (int64_t c = 0; c < s.k_dim; ++c)
        score += q[(row * s.heads + h) * s.k_dim + c] *
                 k[((x.k_begin + j) * s.kv_heads + h / group) * s.k_dim + c];
      score *= s.scale;
      const double distance = static_cast<double>(j - p);
      const double alibi = s.alibi.slopes.empty() ? 0.0
                           : s.alibi.is_signed    ? s.alibi.slopes[h] * distance
                                                  : -s.alibi.slopes[h] * std::fabs(distance);
      if (s.alibi.before_cap) score += alibi;
      if (s.softcap > 0) score = s.softcap * std::tanh(score / s.softcap);
      if (!s.alibi.before_cap) score += alibi;
      if (!bias.empty()) score += bias[bias_rows.offset(h, row) + j];
      if (!s.pattern.sees(p, j)) score = -INFINITY;
      top = std::max(top, score);
      scores.push_back(score);
    }
    if (top == -INFINITY) return;
    for (double x : scores) {
      weights.push_back(std::exp(x - top));
      total += weights.back();
    }
    if (!sinks.empty()) total += std::exp(sinks[h] - top);
    out.log_sum[row * s.heads + h] = top + std::log(total);
    uint64_t keep = 0;
    for (int64_t j = 0; j < std::ssize(weights); ++j) {
      double weight = weights[j] / total;
      if (dropout.active()) {
        if (j % 64 == 0) keep = dropout.keep(span, h, p, j);
        weight *= keep >> (j % 64) & 1 ? dropout.factor() : 0;
      }
      for (int64_t c = 0; weight != 0 && c < s.v_dim; ++c)
        out.o[(row * s.heads + h) * s.v_dim + c] +=
            weight * v[((x.k_begin + j) * s.kv_heads + h / group) * s.v_dim + c];
    }
  };
  for (int64_t i = 0; i < std::ssize(spans); ++i) {
    const AttentionSpan& x = spans[i];
    const int64_t start = s.top_left ? 0 : x.k_end - x.k_begin - (x.q_end - x.q_begin);
    for (int64_t row = x.q_begin; row < x.q_end; ++row)
      for (int64_t h = 0; h < s.heads; ++h) one(i, row, start + row - x.q_begin, h);
  }
  return out;
}

inline AttentionSpec attention_spec(int64_t heads, int64_t kv_heads, int64_t k_dim, int64_t v_dim,
                                    Pattern pattern = Pattern::causal()) {
  AttentionSpec s;
  s.heads = heads;
  s.kv_heads = kv_heads;
  s.k_dim = k_dim;
  s.v_dim = v_dim;
  s.scale = 0.9f / std::sqrt(static_cast<float>(k_dim));
  s.pattern = pattern;
  return s;
}

}  // namespace hone::testing
