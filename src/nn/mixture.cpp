#include "nn/mixture.h"

#include "ops/experts.h"

namespace hone {
namespace {

std::vector<int64_t> rows_of(const ops::Routes& r, size_t expert) {
  return {r.tokens.begin() + r.first[expert], r.tokens.begin() + r.first[expert + 1]};
}

}  // namespace

Mixed Mixture::mix(const LinearInput& in, const Batch& batch, MixerState&) {
  const ops::Routes routes = ops::route(router.forward(in, Activations::f32), used, normalised);
  std::vector<Tensor> hidden(experts.size());
  for (size_t e = 0; e < experts.size(); ++e) {
    std::vector<int64_t> rows = rows_of(routes, e);
    if (rows.empty()) continue;
    const LinearInput own(ops::take_rows(in.x(), std::move(rows)));
    hidden[e] = experts[e].expand(own, batch.activations);
  }
  Mixed out = ops::join_rows(hidden);
  out.rows = routes.first;
  out.combine = [routes, tokens = in.x().dim(0)](const Tensor& y) {
    return ops::add_rows(y, routes.weights, routes.tokens, tokens);
  };
  return out;
}

std::vector<Linear*> Mixture::inputs() {
  std::vector<Linear*> all;
  for (Mlp& e : experts)
    for (Linear* l : e.inputs()) all.push_back(l);
  return all;
}

std::vector<Linear*> Mixture::outputs() {
  std::vector<Linear*> all;
  for (Mlp& e : experts) all.push_back(&e.down);
  return all;
}

Tensor Mixture::input_of(size_t i, const Tensor& x, const Batch&, const MixerState&) {
  const size_t each = experts[0].inputs().size();
  const ops::Routes routes =
      ops::route(router.forward(LinearInput(x), Activations::f32), used, normalised);
  return ops::take_rows(x, rows_of(routes, i / each));
}

std::string Mixture::describe() const {
  return fmt::format("{} of {} experts, {}", used, experts.size(), experts[0].describe());
}

}  // namespace hone
