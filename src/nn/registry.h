// The table of mixers that families name: linear attention, state spaces, and feed-forwards other
// than the MLP. One file each, one line here; tests/nn/mixer_contract_test.cpp takes them all.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "nn/mixer.h"

namespace hone {

/// What a mixer is made from; each says in its head comment which of these it reads.
struct MixerSpec {
  int64_t width = 0;     ///< of the hidden states
  int64_t hidden = 0;    ///< of a feed-forward
  int64_t heads = 0;     ///< of values and state
  int64_t qk_heads = 0;  ///< of queries and keys; divides heads
  int64_t k_dim = 0;     ///< per head
  int64_t v_dim = 0;
  int64_t filter = 0;  ///< tokens that a short convolution sees
  // Inner sizes of low-rank products: of token mixing, decay, rate, value mixing and gate.
  int64_t mix_rank = 0, decay_rank = 0, rate_rank = 0, value_rank = 0, gate_rank = 0;
  float eps = 1e-5f;  ///< of the norm over heads
  bool filter_bias = false;
  bool bias = false;    ///< of the projections
  bool first = false;   ///< the model's first layer
  int64_t segment = 0;  ///< tokens that see each other, from the sequence's beginning on
  int64_t memory = 0;   ///< rows in front of a segment that it sees as well
  float rope_theta = 10000;
  bool delta = true;  ///< a memory takes what it does not hold yet
};

struct MixerKind {
  const char* name;
  std::unique_ptr<Mixer> (*make)(const MixerSpec& spec);
};

std::span<const MixerKind> mixer_kinds();
/// With parameters() to be filled; raises internal on a name that is not in the table.
std::unique_ptr<Mixer> make_mixer(std::string_view name, const MixerSpec& spec);

}  // namespace hone
