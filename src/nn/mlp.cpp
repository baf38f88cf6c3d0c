#include "nn/mlp.h"

#include "kernels/select.h"
#include "ops/dense.h"
#include "ops/elementwise.h"
#include "ops/heads.h"
#include "ops/tape.h"

namespace hone {
namespace {

Tensor activated(Mlp::Activation f, const Tensor& x) {
  switch (f) {
    case Mlp::Activation::silu:
      return ops::apply(ops::Nonlinearity::silu, x);
    case Mlp::Activation::gelu_tanh:
      return ops::gelu_tanh(x);
    case Mlp::Activation::gelu:
      return ops::apply(ops::Nonlinearity::gelu, x);
    case Mlp::Activation::relu:
      return ops::apply(ops::Nonlinearity::relu, x);
  }
  HONE_ASSERT(false);
  return {};
}

Tensor gated(Mlp::Activation f, const Tensor& gate, const Tensor& up) {
  if (f == Mlp::Activation::silu) return ops::silu_mul(gate, up);
  if (f == Mlp::Activation::gelu_tanh) return ops::gelu_tanh_mul(gate, up);
  return ops::mul(activated(f, gate), up);
}

}  // namespace

Tensor Mlp::expand(const LinearInput& in, Activations a, std::function<Tensor()>* again) {
  if (!gate.defined()) {
    const Tensor half = up.forward(in, a), y = activated(activation, half);
    if (again != nullptr && recorded({&y}))
      *again = [f = activation, half] { return activated(f, half); };
    return y;
  }
  const Product products[] = {gate.product(), up.product()};
  // Mixed precision rounds both halves, also where nothing is recorded.
  const bool fused = activation == Activation::silu || activation == Activation::gelu_tanh;
  if (!fused || rounds_results(a) || !gate.adapters.empty() || !up.adapters.empty() ||
      recorded(
          {&in.x(), products[0].values, products[0].bias, products[1].values, products[1].bias})) {
    Linear* const linears[] = {&gate, &up};
    std::vector<Tensor> both = forward_all(linears, in, a);
    const Tensor y = gated(activation, both[0], both[1]);
    if (again != nullptr && recorded({&y}))
      *again = [f = activation, both] { return gated(f, both[0], both[1]); };
    return y;
  }
  const kernels::KernelTable& table = kernels::table();
  return multiply_gated(in, gate.product(), up.product(),
                        activation == Activation::silu ? table.silu_mul : table.gelu_tanh_mul, a);
}

Mixed Mlp::mix(const LinearInput& x, const Batch& batch, MixerState&) {
  std::function<Tensor()> again;
  Mixed out =
      expand(x, batch.activations, batch.checkpointing == Checkpointing::cheap ? &again : nullptr);
  out.again = std::move(again);
  return out;
}

std::vector<Linear*> Mlp::inputs() {
  if (!gate.defined()) return {&up};
  return {&gate, &up};
}

std::string Mlp::describe() const {
  const char* name = activation == Activation::silu   ? "SiLU"
                     : activation == Activation::relu ? "ReLU"
                                                      : "GELU";
  return fmt::format("{}{}", gate.defined() ? "gated " : "", name);
}

}  // namespace hone
