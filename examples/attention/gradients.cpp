// Gradients through attention: while a Tape records, attention() keeps q, k, v, its result and one
// log sum a row, and makes the scores anew in the backward, so that memory is linear in the length.
//
//   build/examples/attention/gradients
//
// Prints, for each input (queries, keys, values, the additive bias, the learnable sinks), how the
// loss changes along a random direction by its gradient and by finite differences.
#include "attention/attention.h"
#include "example.h"
#include "ops/tape.h"

using namespace hone;

namespace {

constexpr int64_t kQueries = 96, kKeys = 160, kHeads = 4, kKvHeads = 2, kDim = 32;

double dot(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.numel(); ++i) sum += double(a.data<float>()[i]) * b.data<float>()[i];
  return sum;
}

Tensor moved(const Tensor& x, const Tensor& direction, float step) {
  Tensor y = x.detached().clone();
  for (int64_t i = 0; i < y.numel(); ++i)
    y.mutable_data<float>()[i] += step * direction.data<float>()[i];
  return y;
}

void show(example::Checks& check) {
  AttentionSpec spec;
  spec.heads = kHeads;
  spec.kv_heads = kKvHeads;
  spec.k_dim = kDim;
  spec.v_dim = kDim;
  spec.scale = 1 / std::sqrt(float(kDim));
  spec.softcap = 20;
  spec.pattern = Pattern::parse("causal & (window(64) | sinks(4))");
  const std::vector<const char*> names{"queries", "keys", "values", "bias", "sinks"};
  std::vector<Tensor> inputs{
      example::normal({kQueries, kHeads * kDim}, 1), example::normal({kKeys, kKvHeads * kDim}, 2),
      example::normal({kKeys, kKvHeads * kDim}, 3), example::normal({kHeads, kQueries, kKeys}, 4),
      example::normal({kHeads}, 5)};
  auto forward = [&](const std::vector<Tensor>& x) {
    AttentionTerms terms;
    terms.bias = x[3];
    terms.sinks = x[4];
    return attention(spec, x[0], x[1], x[2], {{0, kQueries, 0, kKeys}}, terms);
  };

  // The loss is ⟨w, o⟩, so that dL/do is w.
  const Tensor w = example::normal({kQueries, kHeads * kDim}, 6);
  for (Tensor& x : inputs) x.require_gradient();
  {
    Tape tape;
    const Tensor o = forward(inputs);
    tape.backward(o, w);
  }

  for (size_t i = 0; i < inputs.size(); ++i) {
    const Tensor direction = example::normal(inputs[i].shape(), 10 + i);
    const double expected = dot(inputs[i].gradient(), direction);
    double loss[2];
    for (int side : {0, 1}) {
      std::vector<Tensor> x = inputs;
      x[i] = moved(inputs[i], direction, side == 0 ? -0.01f : 0.01f);
      loss[side] = dot(forward(x), w);
    }
    const double measured = (loss[1] - loss[0]) / 0.02;
    fmt::print("{:8} gradient {:9.4f}, differences {:9.4f}\n", names[i], expected, measured);
    check(std::fabs(measured - expected) < 0.01 * (std::fabs(expected) + 1), "they agree");
  }
}

}  // namespace

int main() { return example::run(show); }
