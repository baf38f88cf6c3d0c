#include "nn/model.h"

#include <fmt/ranges.h>

#include <cstring>
#include <set>

#include "base/threads.h"
#include "ops/dense.h"
#include "ops/tape.h"

namespace hone {

void Batch::append(std::span<const int32_t> more, KvSequence* sequence) {
  SequenceSpan span;
  span.begin = size();
  span.start = sequence == nullptr ? 0 : sequence->length;
  span.kv = sequence;
  for (size_t i = 0; i < more.size(); ++i) {
    tokens.push_back(more[i]);
    positions.push_back(span.start + static_cast<int64_t>(i));
  }
  span.end = size();
  spans.push_back(span);
}

Tensor SoftmaxAttention::mix(const Tensor& x, const Batch& batch, KvCache& cache, int64_t layer) {
  LinearInput in(x);
  std::vector<Linear*> linears = inputs();
  std::vector<Tensor> products = forward_all(linears, in, batch.activations);
  Tensor &qs = products[0], &ks = products[1], &vs = products[2];
  if (q_norm.defined()) qs = q_norm.forward(qs);
  if (k_norm.defined()) ks = k_norm.forward(ks);
  if (rope.defined()) {
    rope.apply(qs, spec.k_dim, batch.positions);
    rope.apply(ks, spec.k_dim, batch.positions);
  }
  if (!batch.cached()) {
    std::vector<AttentionSpan> spans;
    for (const SequenceSpan& s : batch.spans) spans.push_back({s.begin, s.end, s.begin, s.end});
    return attention(spec, qs, ks, vs, spans);
  }
  HONE_ASSERT(!recorded({&qs, &ks, &vs}));
  const float *kp = ks.data<float>(), *vp = vs.data<float>();
  for (const SequenceSpan& s : batch.spans)
    cache.write(layer, *s.kv, s.start, s.end - s.begin, kp + s.begin * ks.dim(1),
                vp + s.begin * vs.dim(1));
  return attend(spec, qs, cache, layer, batch.spans);
}

std::string SoftmaxAttention::describe() const {
  return fmt::format("{}, {}/{} heads of {}", spec.pattern.describe(), spec.heads, spec.kv_heads,
                     spec.k_dim);
}

Tensor Block::forward(const Tensor& x, const Batch& batch, KvCache& cache, int64_t layer) {
  BlockState state = enter(x);
  for (int stage = 0; stage < kStages; ++stage) advance(state, stage, batch, cache, layer);
  return state.residual;
}

BlockState Block::enter(const Tensor& x) const { return {x, mixer_norm.forward(x)}; }

void Block::advance(BlockState& s, int stage, const Batch& batch, KvCache& cache, int64_t layer) {
  switch (stage) {
    case 0:
      s.x = mixer->mix(s.x, batch, cache, layer);
      break;
    case 1: {
      Tensor y = mixer->output().forward(LinearInput(s.x), batch.activations);
      if (post_mixer_norm.defined()) y = post_mixer_norm.forward(y);
      ops::SumAndNorm both = mlp_norm.forward_sum(s.residual, y);
      s.residual = both.sum;
      s.x = both.norm;
      break;
    }
    case 2:
      s.x = mlp.expand(s.x, batch.activations);
      break;
    default: {
      HONE_ASSERT(stage == kStages - 1);
      Tensor y = mlp.down.forward(LinearInput(s.x), batch.activations);
      if (post_mlp_norm.defined()) y = post_mlp_norm.forward(y);
      s.residual = ops::add(s.residual, y);
      s.x = {};
    }
  }
}

std::vector<std::vector<Linear*>> Block::stages() {
  std::vector<Linear*> wide = {&mlp.up};
  if (mlp.gate.defined()) wide.insert(wide.begin(), &mlp.gate);
  return {mixer->inputs(), {&mixer->output()}, wide, {&mlp.down}};
}

std::vector<KvShape> Model::kv_shapes() const {
  std::vector<KvShape> shapes;
  for (const Block& b : blocks) shapes.push_back(b.mixer->kv_shape());
  return shapes;
}

std::vector<Linear*> Model::linears() {
  std::vector<Linear*> all;
  for (Block& b : blocks)
    for (auto& stage : b.stages()) all.insert(all.end(), stage.begin(), stage.end());
  all.push_back(&head);
  return all;
}

int64_t Model::parameter_count() {
  int64_t n = embedding.weight().numel() + position_table.numel();
  auto norm = [&](const Norm& x) {
    if (x.defined()) n += x.weight.numel() + (x.bias.empty_handle() ? 0 : x.bias.numel());
  };
  for (Block& b : blocks) {
    norm(b.mixer_norm);
    norm(b.post_mixer_norm);
    norm(b.mlp_norm);
    norm(b.post_mlp_norm);
    if (auto* a = dynamic_cast<SoftmaxAttention*>(b.mixer.get())) {
      norm(a->q_norm);
      norm(a->k_norm);
    }
  }
  norm(final_norm);
  for (Linear* l : linears()) {
    if (l == &head && tied_head) continue;
    n += l->out_features() * l->in_features();
    if (!l->bias().empty_handle()) n += l->bias().numel();
  }
  return n;
}

std::string Model::activations_used(Activations a) {
  std::set<std::string_view> used;
  for (Linear* l : linears()) used.insert(l->activations(a));
  return fmt::format("{}", fmt::join(used.rbegin(), used.rend(), " and "));
}

Tensor Model::embed(const Batch& batch) const {
  Tensor x = embedding.forward(batch.tokens);
  if (embedding_scale != 1) x = ops::scale(x, embedding_scale);
  if (position_table.empty_handle()) return x;
  int64_t d = x.dim(1);
  const Tensor embedded = x;
  if (recorded({&x, &position_table})) x = x.clone();
  float* out = x.mutable_data<float>();
  const float* table = position_table.data<float>();
  for (int64_t t = 0; t < batch.size(); ++t) {
    int64_t p = batch.positions[t];
    HONE_CHECK(p < position_table.dim(0), invalid_argument,
               "position {}: the model has {} learned positions", p, position_table.dim(0));
    for (int64_t i = 0; i < d; ++i) out[t * d + i] += table[p * d + i];
  }
  if (recorded({&embedded, &position_table}))
    record(x, [embedded, positions = batch.positions, table = position_table, d](const Tensor& dy) {
      if (table.requires_gradient()) {
        float* sum = gradient_of(table).mutable_data<float>();
        const float* g = dy.data<float>();
        for (size_t t = 0; t < positions.size(); ++t)
          for (int64_t i = 0; i < d; ++i) sum[positions[t] * d + i] += g[int64_t(t) * d + i];
      }
      add_gradient(embedded, dy);
    });
  return x;
}

Tensor Model::logits(const Tensor& hidden, Activations a) {
  Tensor y = head.forward(LinearInput(final_norm.forward(hidden)), a);
  if (logit_softcap > 0) ops::softcap_in_place(y, logit_softcap);
  return y;
}

Tensor Model::forward(const Batch& batch, KvCache& cache) {
  if (batch.cached())
    for (const SequenceSpan& s : batch.spans) cache.reserve(*s.kv, s.start + s.end - s.begin);
  Tensor x = embed(batch);
  for (size_t i = 0; i < blocks.size(); ++i)
    x = blocks[i].forward(x, batch, cache, static_cast<int64_t>(i));
  if (batch.cached())
    for (const SequenceSpan& s : batch.spans) cache.commit(*s.kv, s.start + s.end - s.begin);
  return x;
}

void Model::pack(bool keep) {
  std::vector<Linear*> all = linears();
  // Packing is parallel inside each Linear; one at a time keeps the peak at one layer.
  for (Linear* l : all) l->pack(keep);
}

}  // namespace hone
