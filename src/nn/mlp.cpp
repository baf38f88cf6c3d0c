#include "nn/mlp.h"

#include "kernels/select.h"
#include "ops/dense.h"
#include "ops/tape.h"

namespace hone {

Tensor Mlp::expand(const LinearInput& in, Activations a, std::function<Tensor()>* again) {
  if (!gate.defined()) {
    HONE_ASSERT(activation == Activation::gelu_tanh);
    const Tensor half = up.forward(in, a), y = ops::gelu_tanh(half);
    if (again != nullptr && recorded({&y})) *again = [half] { return ops::gelu_tanh(half); };
    return y;
  }
  const Product products[] = {gate.product(), up.product()};
  // Mixed precision rounds both halves, also where nothing is recorded.
  if (rounds_results(a) || !gate.adapters.empty() || !up.adapters.empty() ||
      recorded(
          {&in.x(), products[0].values, products[0].bias, products[1].values, products[1].bias})) {
    Linear* const linears[] = {&gate, &up};
    std::vector<Tensor> both = forward_all(linears, in, a);
    auto pair = activation == Activation::silu ? ops::silu_mul : ops::gelu_tanh_mul;
    const Tensor y = pair(both[0], both[1]);
    if (again != nullptr && recorded({&y})) *again = [=] { return pair(both[0], both[1]); };
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
  return fmt::format("{}{}", gate.defined() ? "gated " : "",
                     activation == Activation::silu ? "SiLU" : "GELU");
}

}  // namespace hone
