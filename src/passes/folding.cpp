#include "passes/folding.h"

#include <algorithm>

#include "base/threads.h"
#include "nn/mixture.h"

namespace hone {
namespace {

bool plain(const std::vector<Linear*>& linears) {
  return std::ranges::all_of(linears, [](const Linear* l) { return l->adapters.empty(); });
}

// The Linears that read what stands in front of a half, where no other part of it does.
std::vector<Linear*> sole_readers(Mixer* half) {
  const bool known =
      dynamic_cast<SoftmaxAttention*>(half) != nullptr || dynamic_cast<Mlp*>(half) != nullptr;
  if (!known || !half->shares_input() || !half->sides().empty()) return {};
  return half->inputs();
}

// up and down with f between: f(up)·x or f(gate)·up.
bool keeps_scale(const Mlp& mlp) {
  return mlp.gate.defined() || mlp.activation == Mlp::Activation::relu;
}

void add_inner(Block& block, std::vector<Coupling>& out) {
  auto add = [&](Linear& previous, Linear& reader, int stage, size_t place) {
    Coupling c;
    c.readers = {&reader};
    c.previous = &previous;
    c.stage = stage;
    c.place = place;
    out.push_back(std::move(c));
  };
  // A learned prefix has values of its own, which no scale reaches.
  if (auto* a = dynamic_cast<SoftmaxAttention*>(block.mixer.get());
      a != nullptr && a->prefix == nullptr && a->v.out_features() == a->o.in_features())
    add(a->v, a->o, 1, 0);
  if (Mlp* mlp = block.mlp(); mlp != nullptr && keeps_scale(*mlp)) add(mlp->up, mlp->down, 3, 0);
  if (auto* mixture = dynamic_cast<Mixture*>(block.feed_forward.get()))
    for (size_t i = 0; i < mixture->experts.size(); ++i)
      if (Mlp& e = mixture->experts[i]; keeps_scale(e)) add(e.up, e.down, 3, i);
}

}  // namespace

std::vector<Coupling> couplings_of(Block& block) {
  std::vector<Coupling> all;
  if (!block.adapters.empty()) return all;
  add_inner(block, all);
  std::vector<Linear*> first = sole_readers(block.mixer.get());
  std::vector<Linear*> second;
  if (block.feed_forward != nullptr) second = sole_readers(block.feed_forward.get());
  const bool shared = block.parallel && !block.mlp_norm.defined() && block.feed_forward != nullptr;
  if (shared) {
    if (second.empty()) first.clear();
    if (!first.empty()) first.insert(first.end(), second.begin(), second.end());
    second.clear();
  }
  auto add = [&](Norm& norm, std::vector<Linear*> readers, int stage) {
    if (!norm.defined() || readers.empty()) return;
    Coupling c;
    c.readers = std::move(readers);
    c.norm = &norm;
    c.stage = stage;
    all.push_back(std::move(c));
  };
  add(block.mixer_norm, first, 0);
  add(block.mlp_norm, second, 2);
  std::erase_if(all, [](const Coupling& c) {
    return !plain(c.readers) || (c.previous != nullptr && !c.previous->adapters.empty());
  });
  return all;
}

void divide_norm(Norm& norm, std::span<const float> s) {
  Tensor weight = norm.weight.clone();
  float* w = weight.mutable_data<float>();
  HONE_ASSERT(std::ssize(s) == weight.numel());
  for (size_t i = 0; i < s.size(); ++i) w[i] = (w[i] + norm.offset) / s[i] - norm.offset;
  norm.weight = weight;
  if (norm.bias.empty_handle()) return;
  Tensor bias = norm.bias.clone();
  for (size_t i = 0; i < s.size(); ++i) bias.mutable_data<float>()[i] /= s[i];
  norm.bias = bias;
}

void divide_bias(Linear& linear, std::span<const float> s) {
  if (linear.bias().empty_handle()) return;
  Tensor bias = linear.bias().clone();
  HONE_ASSERT(std::ssize(s) == bias.numel());
  for (size_t i = 0; i < s.size(); ++i) bias.mutable_data<float>()[i] /= s[i];
  linear.set_bias(bias);
}

Tensor scaled_weight(const Tensor& values, std::span<const float> columns,
                     std::span<const float> rows) {
  const int64_t n = values.dim(0), k = values.dim(1);
  HONE_ASSERT(std::ssize(columns) == k && std::ssize(rows) == n);
  Tensor out = Tensor::empty({n, k}, DType::f32);
  const float* x = values.data<float>();
  float* y = out.mutable_data<float>();
  parallel_for(n, 16, [&](int64_t r0, int64_t r1) {
    for (int64_t r = r0; r < r1; ++r)
      for (int64_t i = 0; i < k; ++i) y[r * k + i] = x[r * k + i] * columns[i] / rows[r];
  });
  return out;
}

}  // namespace hone
