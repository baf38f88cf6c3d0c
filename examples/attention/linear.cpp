// Linear attention: all that a sequence keeps is one matrix a head, whatever its length. The
// recurrent form gives the same bits for any cut into pieces; the chunked form computes the same by
// matrix products.
//
//   build/examples/attention/linear
//
// Prints, for four published variants, how far the two forms are apart, and the bytes of the state
// beside those of a softmax layer's keys and values.
#include "attention/linear_attention.h"
#include "example.h"
#include "ops/heads.h"

using namespace hone;

namespace {

constexpr int64_t kTokens = 600, kHeads = 4, kDim = 64;

// Inputs as a layer would make them: normed queries and keys, decays below 1, rates in (0, 1).
LinearAttentionInputs inputs_of(const LinearAttentionSpec& s) {
  LinearAttentionInputs in;
  in.q = ops::l2_norm(example::normal({kTokens, kHeads * kDim}, 1), kDim, 1e-6f);
  in.k = ops::l2_norm(example::normal({kTokens, kHeads * kDim}, 2), kDim, 1e-6f);
  in.v = example::normal({kTokens, kHeads * kDim}, 3);
  if (s.decay == Decay::none && s.low_rank == LowRank::none) return in;
  if (s.decay != Decay::none) {
    const int64_t columns = s.decay == Decay::head ? kHeads : kHeads * kDim;
    in.g = Tensor::empty({kTokens, columns}, DType::f32);
    for (int64_t i = 0; i < in.g.numel(); ++i)
      in.g.mutable_data<float>()[i] = -0.2f * float(random_uniform(4, uint64_t(i)));
  }
  if (s.low_rank == LowRank::delta) {
    in.beta = Tensor::empty({kTokens, kHeads}, DType::f32);
    for (int64_t i = 0; i < in.beta.numel(); ++i)
      in.beta.mutable_data<float>()[i] = float(random_uniform(5, uint64_t(i)));
  }
  return in;
}

// The tokens in pieces of these sizes, the state handed from one to the next.
Tensor in_pieces(const LinearAttentionSpec& s, const LinearAttentionInputs& in,
                 std::initializer_list<int64_t> sizes, LinearForm form, Tensor& state) {
  Tensor o = Tensor::zeros({kTokens, kHeads * kDim}, DType::f32);
  state = Tensor::zeros(s.state_shape(), DType::f32);
  int64_t at = 0;
  for (int64_t size : sizes) {
    std::vector<LinearSpan> spans{{at, at + size, state}};
    const Tensor piece = linear_attend(s, in, spans, form);  // other rows are zeros
    std::copy_n(piece.data<float>() + at * kHeads * kDim, size * kHeads * kDim,
                o.mutable_data<float>() + at * kHeads * kDim);
    at += size;
  }
  return o;
}

void show(example::Checks& check) {
  const std::pair<const char*, LinearAttentionSpec> variants[] = {
      {"linear", katharopoulos(kHeads, kDim, kDim, false)},
      {"GLA", gla(kHeads, kDim, kDim)},
      {"DeltaNet", delta_net(kHeads, kDim, kDim)},
      {"Gated DeltaNet", gated_delta_net(kHeads, kHeads, kDim, kDim)}};
  for (const auto& [name, spec] : variants) {
    const LinearAttentionInputs in = inputs_of(spec);
    Tensor state, cut_state, chunk_state;
    const Tensor whole = in_pieces(spec, in, {kTokens}, LinearForm::recurrent, state);
    const Tensor cut = in_pieces(spec, in, {500, 1, 1, 98}, LinearForm::recurrent, cut_state);
    const Tensor chunked = in_pieces(spec, in, {kTokens}, LinearForm::chunked, chunk_state);
    const double apart = example::distance(chunked, whole);
    fmt::print("{}: forms {:.1e} apart; state {} bytes, keys and values of {} tokens {} bytes\n",
               name, apart, state.byte_size(), kTokens, in.k.byte_size() + in.v.byte_size());
    check(example::same_bits(cut, whole) && example::same_bits(cut_state, state),
          "prefill, decode and prefill again give the bits of one run");
    check(apart < 1e-5 && example::distance(chunk_state, state) < 1e-5, "the forms agree");
  }
}

}  // namespace

int main() { return example::run(show); }
