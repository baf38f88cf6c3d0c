#include "models/roofline.h"

#include <algorithm>
#include <map>

#include "attention/kv_cache.h"
#include "kernels/kernel_table.h"
#include "nn/mixture.h"

namespace hone {
namespace {

// Keys that `tokens` queries behind `depth` positions see together, at most `reach` each.
double visible_pairs(int64_t tokens, int64_t depth, int64_t reach) {
  // The first queries see less than their reach.
  int64_t growing = std::clamp<int64_t>(reach - depth, 0, tokens);
  double few = double(growing) * double(depth) + double(growing) * double(growing + 1) / 2;
  return few + double(tokens - growing) * double(reach);
}

// Seconds of `tokens` tokens behind `depth` others in each of `batch` sequences.
double least_seconds(const Work& w, const kernels::Roofs& r, int64_t tokens, int64_t depth,
                     int64_t batch) {
  const double n = double(batch), t = n * double(tokens);
  double bytes = w.weight_bytes + w.expert_bytes * std::min(1.0, w.expert_share * t),
         f32 = w.f32_operations * t + w.head_f32 * n;
  for (const Work::Attention& a : w.layers) {
    f32 += n * a.pair_operations * visible_pairs(tokens, depth, a.reach);
    int64_t first = std::max<int64_t>(0, depth - a.reach + 1);  // that the first query still sees
    bytes += n * a.kv_bytes * double(depth + tokens - first);
  }
  bytes += 2 * n * w.state_bytes;
  double operations =
      (w.int8_operations * t + w.head_int8 * n) / r.int8_per_second + f32 / r.f32_per_second;
  // Without such weights the roof may be unknown.
  if (double bf16 = w.bf16_operations * t + w.head_bf16 * n; bf16 > 0)
    operations += bf16 / r.bf16_per_second;
  return std::max(bytes / r.read_per_second(bytes), operations);
}

}  // namespace

Work work_of(Model& m, Activations a, KvType kv) {
  Work w;
  w.state_bytes = double(m.state_bytes());
  std::map<const Linear*, double> shares;  // of the experts' linears
  for (Block& b : m.blocks) {
    auto* mixture = dynamic_cast<Mixture*>(b.feed_forward.get());
    if (mixture == nullptr) continue;
    w.expert_share = double(mixture->used) / double(mixture->experts.size());
    for (const auto& linears : {mixture->inputs(), mixture->outputs()})
      for (const Linear* l : linears) shares[l] = w.expert_share;
  }
  for (Linear* l : m.linears()) {
    const bool expert = shares.contains(l);
    (expert ? w.expert_bytes : w.weight_bytes) += double(l->resident_bytes());
    double operations = 2.0 * double(l->out_features()) * double(l->in_features());
    if (expert) operations *= shares[l];
    const std::string_view type = l->activations(a);
    const bool head = l == &m.head;
    if (type == "int8")
      (head ? w.head_int8 : w.int8_operations) += operations;
    else if (type == "bf16")
      (head ? w.head_bf16 : w.bf16_operations) += operations;
    else
      (head ? w.head_f32 : w.f32_operations) += operations;
  }
  for (const Block& b : m.blocks) {
    auto* s = dynamic_cast<SoftmaxAttention*>(b.mixer.get());
    if (s == nullptr || s->kv_shape().kv_heads == 0) continue;
    double page = double(KvCache({b.mixer->kv_shape()}, kv).page_bytes());
    const Horizon h = b.mixer->kv_shape().horizon;
    w.layers.push_back({2.0 * double(s->spec.heads) * double(s->spec.k_dim + s->spec.v_dim),
                        page / kernels::kPageKeys,
                        h.reach == INT64_MAX ? INT64_MAX : h.first + h.reach});
  }
  return w;
}

double decode_limit(const Work& w, const kernels::Roofs& r, int64_t depth, int64_t batch) {
  return least_seconds(w, r, 1, depth, batch);
}

double prefill_limit(const Work& w, const kernels::Roofs& r, int64_t tokens, int64_t depth) {
  return least_seconds(w, r, tokens, depth, 1);
}

}  // namespace hone
