// Linearising (LoLCATs): softmax over a sliding window, and learned features for what has left it,
// under one denominator. Up to a window's length it is softmax attention; a sequence keeps a state
// of one size, whatever its length.
//
//   build/examples/attention/linearise
//
// Prints how far the hybrid is from softmax in front of the window's end and behind it. The maps
// here are drawn at random; the pass `linearise` fits them to a model.
#include "attention/hybrid_attention.h"
#include "example.h"

using namespace hone;

namespace {

constexpr int64_t kTokens = 300, kHeads = 4, kKvHeads = 2, kDim = 32, kWindow = 64;

RecurrentState beginning(const HybridAttentionSpec& spec) {
  RecurrentState state;
  for (const Shape& shape : spec.state_shapes()) state.push_back(Tensor::zeros(shape, DType::f32));
  return state;
}

void show(example::Checks& check) {
  HybridAttentionSpec spec{.heads = kHeads, .kv_heads = kKvHeads, .k_dim = kDim, .v_dim = kDim};
  spec.scale = 1 / std::sqrt(float(kDim));
  spec.window = kWindow;
  spec.features = kDim;
  HybridAttentionInputs in;
  in.q = example::normal({kTokens, kHeads * kDim}, 1);
  in.k = example::normal({kTokens, kKvHeads * kDim}, 2);
  in.v = example::normal({kTokens, kKvHeads * kDim}, 3);
  in.q_map = example::normal({kHeads, kDim, kDim}, 4);
  in.k_map = example::normal({kHeads, kDim, kDim}, 5);
  in.factor = Tensor::zeros({kHeads}, DType::f32);  // γ = σ(0) = ½

  std::vector<HybridSpan> whole{{0, kTokens, beginning(spec)}};
  const Tensor o = hybrid_attention(spec, in, whole);
  AttentionSpec softmax;
  softmax.heads = kHeads;
  softmax.kv_heads = kKvHeads;
  softmax.k_dim = kDim;
  softmax.v_dim = kDim;
  softmax.scale = spec.scale;
  const Tensor exact = attention(softmax, in.q, in.k, in.v, {{0, kTokens, 0, kTokens}});
  const double inside = example::distance(o.rows(0, kWindow), exact.rows(0, kWindow));
  const double behind = example::distance(o.rows(kWindow, kTokens), exact.rows(kWindow, kTokens));
  fmt::print("first {} tokens: {:.1e} from softmax; behind them: {:.1e}\n", kWindow, inside,
             behind);
  check(inside < 1e-6, "inside the window it is softmax attention");
  check(behind > 1e-2, "behind it the features stand for what is gone");

  // A prefill of 250 tokens, and then one token after the other.
  RecurrentState state = beginning(spec);
  int64_t bytes = 0;
  for (const Tensor& t : state) bytes += t.byte_size();
  Tensor last;
  for (int64_t at = 0; at < kTokens;) {
    const int64_t end = at == 0 ? 250 : at + 1;
    std::vector<HybridSpan> piece{{at, end, state}};
    last = hybrid_attention(spec, in, piece).rows(end - 1, end);
    state = piece[0].state;
    at = end;
  }
  check(example::same_bits(last, o.rows(kTokens - 1, kTokens)), "decode gives the same bits");
  int64_t after = 0;
  for (const Tensor& t : state) after += t.byte_size();
  fmt::print("state: {} bytes in front, {} behind {} tokens\n", bytes, after, kTokens);
  check(after == bytes, "the state does not grow");
}

}  // namespace

int main() { return example::run(show); }
