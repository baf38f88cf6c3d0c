// The relative position term of Transformer-XL (Dai et al. 2019), as an additive bias of attention.
//
// A query sees a key `distance` positions behind it with (q + v)·r_distance beside (q + u)·k, where
// r_distance is a projection of sinusoids. The published code makes these products for all
// distances and shifts them into place; here each is made where it belongs.
#pragma once

#include <vector>

#include "attention/attention.h"

namespace hone {

/// [distances, width]: row d is sin(d·ω_i), then cos(d·ω_i), with ω_i = 10000^(−2i/width). `width`
/// must be even.
Tensor sinusoids(int64_t distances, int64_t width);

/// q [T, heads·K] and r [distances, heads·K] give AttentionTerms::bias [heads, T, W], W the most
/// keys of a span: scale·q_t·r_d for the key d positions in front of the row's own, in every span.
/// What stands behind a row's own key is 0: the pattern must be causal. Takes heads·T·W floats.
/// Gradients flow to both. A span may have at most `distances` keys.
Tensor relative_bias(const Tensor& q, const Tensor& r, int64_t heads, float scale,
                     const std::vector<AttentionSpan>& spans);

}  // namespace hone
