#include "nn/model.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <set>
#include <utility>

#include "base/threads.h"
#include "ops/dense.h"
#include "ops/elementwise.h"
#include "ops/experts.h"
#include "ops/heads.h"
#include "ops/tape.h"

namespace hone {

namespace {

// rows [S, W] with first [p, W] in front of each sequence of the batch: [S + p·sequences, W].
Tensor with_prefix(const Tensor& rows, const Tensor& first,
                   const std::vector<SequenceSpan>& spans) {
  const int64_t p = first.dim(0), width = rows.dim(1);
  HONE_ASSERT(first.dim(1) == width);
  Tensor y = Tensor::empty({rows.dim(0) + p * std::ssize(spans), width}, DType::f32);
  float* out = y.mutable_data<float>();
  for (const SequenceSpan& s : spans) {
    out = std::copy_n(first.data<float>(), p * width, out);
    out = std::copy_n(rows.data<float>() + s.begin * width, (s.end - s.begin) * width, out);
  }
  if (recorded({&rows, &first}))
    record(y, [rows = rows.hollow(), first = first.hollow(), spans, p, width](const Tensor& dy) {
      const float* in = dy.data<float>();
      Tensor dx = Tensor::empty({rows.dim(0), width}, DType::f32);
      Tensor sum = Tensor::zeros({p, width}, DType::f32);
      for (const SequenceSpan& s : spans) {
        for (int64_t i = 0; i < p * width; ++i) sum.mutable_data<float>()[i] += in[i];
        in += p * width;
        std::copy_n(in, (s.end - s.begin) * width, dx.mutable_data<float>() + s.begin * width);
        in += (s.end - s.begin) * width;
      }
      add_gradient(rows, dx);
      add_gradient(first, sum);
    });
  return y;
}

}  // namespace

Mixed SoftmaxAttention::mix(const LinearInput& in, const Batch& batch, MixerState& state) {
  std::vector<Linear*> linears = inputs();
  std::vector<Tensor> products = forward_all(linears, in, batch.activations);
  Tensor y = attended(products[0], products[1], products[2], batch, state);
  if (!gate.defined()) return y;
  return ops::mul(y, ops::apply(ops::Nonlinearity::sigmoid, products[3]));
}

void SoftmaxAttention::normalise(Tensor& qs, Tensor& ks) const {
  if (q_norm.defined()) qs = q_norm.forward(qs);
  if (k_norm.defined()) ks = k_norm.forward(ks);
}

void SoftmaxAttention::rotate(Tensor& qs, Tensor& ks, const Batch& batch) const {
  if (!rope.defined()) return;
  rope.apply(qs, spec.k_dim, batch.positions);
  rope.apply(ks, spec.k_dim, batch.positions);
}

Tensor SoftmaxAttention::attended(Tensor& qs, Tensor& ks, Tensor& vs, const Batch& batch,
                                  MixerState& state) {
  KvCache& cache = state.cache;
  const int64_t layer = state.layer;
  normalise(qs, ks);
  const Tensor sink_qs = streaming ? streaming->sink_queries(qs, batch.positions) : Tensor();
  rotate(qs, ks, batch);
  if (!batch.cached()) {
    HONE_ASSERT(streaming == nullptr);
    std::vector<AttentionSpan> spans;
    const int64_t p = prefix == nullptr ? 0 : prefix->length();
    if (p > 0) {
      ks = with_prefix(ks, prefix->keys(layer), batch.spans);
      vs = with_prefix(vs, prefix->values(layer), batch.spans);
    }
    int64_t before = 0;
    for (const SequenceSpan& s : batch.spans) {
      spans.push_back({s.begin, s.end, s.begin + before, s.end + before + p});
      before += p;
    }
    return attention(spec, qs, ks, vs, spans);
  }
  HONE_ASSERT(!recorded({&qs, &ks, &vs}));
  const float *kp = ks.data<float>(), *vp = vs.data<float>();
  for (const SequenceSpan& s : batch.spans)
    cache.write(layer, *s.kv, s.start, s.end - s.begin, kp + s.begin * ks.dim(1),
                vp + s.begin * vs.dim(1));
  if (streaming) return streaming->attend(qs, sink_qs, cache, layer, batch.spans);
  return attend(spec, qs, cache, layer, batch.spans);
}

std::string SoftmaxAttention::describe() const {
  return fmt::format("{}, {}/{} heads of {}", spec.pattern.describe(), spec.heads, spec.kv_heads,
                     spec.k_dim);
}

void Block::forward(BlockState& s, const Batch& batch, KvCache& cache, int64_t layer) {
  enter(s, batch.checkpointing);
  for (int stage = 0; stage < kStages; ++stage) advance(s, stage, batch, cache, layer);
}

namespace {

std::vector<int64_t> range(const std::vector<int64_t>& first, size_t i) {
  std::vector<int64_t> all(static_cast<size_t>(first[i + 1] - first[i]));
  std::iota(all.begin(), all.end(), first[i]);
  return all;
}

// With cheap checkpointing a norm's result is made anew where the backward needs it.
void keep_cheaply(const Norm& norm, BlockState& s, Checkpointing checkpointing) {
  if (checkpointing == Checkpointing::cheap && recorded({&s.x}))
    s.again = [norm, x = s.residual] { return norm.forward(x); };
}

// What a half's output projections make of x, those of several one below the other.
Tensor projected(Mixer& half, const LinearInput& x, const std::vector<int64_t>& rows,
                 Activations a) {
  if (rows.empty()) return half.output().forward(x, a);
  const std::vector<Linear*> outputs = half.outputs();
  std::vector<Tensor> parts(outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i)
    if (rows[i] < rows[i + 1])
      parts[i] = outputs[i]->forward(LinearInput(ops::take_rows(x.x(), range(rows, i))), a);
  return ops::join_rows(parts);
}

}  // namespace

void Block::enter(BlockState& s, Checkpointing checkpointing) const {
  s.again = nullptr;
  s.x = mixer_norm.defined() ? mixer_norm.forward(s.residual) : s.residual;
  if (mixer_norm.defined()) keep_cheaply(mixer_norm, s, checkpointing);
  s.entered = adapters.empty() ? Tensor() : s.x;
}

void Block::advance(BlockState& s, int stage, const Batch& batch, KvCache& cache, int64_t layer) {
  HONE_ASSERT(stage < kStages);
  if (stage >= 2 && feed_forward == nullptr) return;
  Mixer& half = stage < 2 ? *mixer : *feed_forward;
  const LinearInput in(s.x, std::exchange(s.again, nullptr));
  if (stage % 2 == 0) {
    MixerState state{cache, layer, s.recurrent[static_cast<size_t>(stage / 2)], s.shared};
    Mixed mixed = half.mix(in, batch, state);
    s.x = mixed.x;
    s.again = std::move(mixed.again);
    s.rows = std::move(mixed.rows);
    s.combine = std::move(mixed.combine);
    return;
  }
  Tensor y = projected(half, in, s.rows, batch.activations);
  if (const auto combine = std::exchange(s.combine, nullptr)) y = combine(y);
  for (const auto& adapter : adapters)
    y = stage == 1 ? adapter->mixer_output(s.entered, y, batch.activations)
                   : adapter->mlp_output(s.entered, y, batch.activations);
  const Norm& post = stage == 1 ? post_mixer_norm : post_mlp_norm;
  if (post.defined()) y = post.forward(y);
  if (residual_scale != 1) y = ops::scale(y, residual_scale);
  if (stage == 1 && feed_forward != nullptr) {
    // The stage in front of the feed-forward still has the block's input, which a parallel one
    // reads: a second norm of it costs less than to hold what the first half read.
    const Norm& norm = feed_forward_norm();
    if (parallel) {
      const Tensor sum = ops::add(s.residual, y);
      s.x = norm.forward(s.residual);
      keep_cheaply(norm, s, batch.checkpointing);
      s.residual = sum;
    } else if (norm.defined()) {
      ops::SumAndNorm both = norm.forward_sum(s.residual, y);
      s.residual = both.sum;
      s.x = both.norm;
      keep_cheaply(norm, s, batch.checkpointing);
    } else {
      s.residual = s.x = ops::add(s.residual, y);
    }
    s.entered = adapters.empty() ? Tensor() : s.x;
    return;
  }
  s.residual = ops::add(s.residual, y);
  s.x = s.entered = {};
}

std::vector<Mixer*> Block::mixers() const {
  if (feed_forward == nullptr) return {mixer.get()};
  return {mixer.get(), feed_forward.get()};
}

bool Block::shares_input(int stage) const {
  if (mixers().size() <= static_cast<size_t>(stage / 2)) return true;
  Mixer& half = *mixers()[static_cast<size_t>(stage / 2)];
  return stage % 2 == 1 ? half.outputs().size() == 1 : half.shares_input();
}

Tensor Block::input_of(int stage, size_t i, BlockState& s, const Batch& batch) {
  if (shares_input(stage)) return s.x;
  if (stage % 2 == 1) return ops::take_rows(s.x, range(s.rows, i));
  KvCache none({});
  MixerState state{none, 0, s.recurrent[static_cast<size_t>(stage / 2)], s.shared};
  return mixers()[static_cast<size_t>(stage / 2)]->input_of(i, s.x, batch, state);
}

std::vector<std::vector<Linear*>> Block::stages() {
  std::vector<std::vector<Linear*>> all;
  for (Mixer* half : mixers()) {
    all.push_back(half->inputs());
    all.push_back(half->outputs());
  }
  all.resize(kStages);
  return all;
}

std::vector<Norm*> Block::norms() {
  std::vector<Norm*> all = {&mixer_norm, &post_mixer_norm, &mlp_norm, &post_mlp_norm};
  for (Mixer* half : mixers())
    for (Norm* n : half->norms()) all.push_back(n);
  std::erase_if(all, [](Norm* n) { return !n->defined(); });
  return all;
}

std::vector<KvShape> Model::kv_shapes() const {
  std::vector<KvShape> shapes;
  for (const Block& b : blocks) shapes.push_back(b.mixer->kv_shape());
  return shapes;
}

int64_t Model::state_bytes() const {
  int64_t bytes = 0;
  for (const Block& b : blocks)
    for (const Mixer* half : b.mixers()) bytes += hone::state_bytes(*half);
  return bytes + memory.state_bytes();
}

std::vector<Linear*> Model::linears() {
  std::vector<Linear*> all;
  for (Block& b : blocks)
    for (auto& stage : b.stages()) all.insert(all.end(), stage.begin(), stage.end());
  all.push_back(&head);
  return all;
}

std::vector<Linear*> Model::side_linears() {
  std::vector<Linear*> all;
  for (Block& b : blocks)
    for (Mixer* half : b.mixers())
      for (Linear* l : half->sides()) all.push_back(l);
  return all;
}

int64_t Model::parameter_count() {
  int64_t n = embedding.weight().numel() + position_table.numel() + memory.initial.numel();
  auto norm = [&](const Norm& x) { n += x.weight.numel() + x.bias.numel(); };
  for (Block& b : blocks)
    for (Norm* x : b.norms()) norm(*x);
  norm(final_norm);
  norm(embedding_norm);
  for (Block& b : blocks)
    for (Mixer* half : b.mixers())
      for (const MixerParameter& p : half->parameters())
        if (p.vector != nullptr) n += p.vector->values.numel();
  std::vector<Linear*> all = linears();
  for (Linear* l : side_linears()) all.push_back(l);
  for (Linear* l : all) {
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
  std::vector<int32_t> ids = batch.tokens;
  // Tokens below 0 are rows of the prompt, and get those once the others are there.
  const bool prompted = !prompt.empty_handle();
  if (prompted)
    for (int32_t& id : ids) id = std::max(id, 0);
  Tensor x = embedding.forward(ids);
  if (embedding_norm.defined()) x = embedding_norm.forward(x);
  if (embedding_scale != 1) x = ops::scale(x, embedding_scale);
  if (prompted) x = put_prompt(x, batch.tokens);
  if (position_table.empty_handle()) return x;
  int64_t d = x.dim(1);
  const Tensor embedded = x;
  if (recorded({&x, &position_table})) x = x.clone();
  float* out = x.mutable_data<float>();
  const float* table = position_table.data<float>();
  for (int64_t t = 0; t < batch.size(); ++t) {
    int64_t p = batch.positions[t] + position_offset;
    HONE_CHECK(p < position_table.dim(0), invalid_argument,
               "position {}: the model has {} learned positions", batch.positions[t],
               position_table.dim(0) - position_offset);
    for (int64_t i = 0; i < d; ++i) out[t * d + i] += table[p * d + i];
  }
  if (recorded({&embedded, &position_table}))
    record(x, [embedded = embedded.hollow(), positions = batch.positions, first = position_offset,
               table = position_table.hollow(), d](const Tensor& dy) {
      if (table.requires_gradient()) {
        float* sum = gradient_of(table).mutable_data<float>();
        const float* g = dy.data<float>();
        for (size_t t = 0; t < positions.size(); ++t)
          for (int64_t i = 0; i < d; ++i)
            sum[(first + positions[t]) * d + i] += g[int64_t(t) * d + i];
      }
      add_gradient(embedded, dy);
    });
  return x;
}

// Rows of negative tokens become those of the prompt.
Tensor Model::put_prompt(const Tensor& x, const std::vector<int32_t>& tokens) const {
  const int64_t d = x.dim(1);
  Tensor y = x.clone();
  auto row = [d](int32_t token) { return (-1 - int64_t{token}) * d; };
  for (size_t t = 0; t < tokens.size(); ++t) {
    if (tokens[t] >= 0) continue;
    HONE_ASSERT(-1 - int64_t{tokens[t]} < prompt.dim(0));
    std::copy_n(prompt.data<float>() + row(tokens[t]), d, y.mutable_data<float>() + int64_t(t) * d);
  }
  if (recorded({&x, &prompt}))
    record(y, [x = x.hollow(), prompt = prompt.hollow(), tokens, d, row](const Tensor& grad) {
      Tensor dy = grad.clone();
      float* g = dy.mutable_data<float>();
      for (size_t t = 0; t < tokens.size(); ++t, g += d) {
        if (tokens[t] >= 0) continue;
        if (prompt.requires_gradient()) {
          float* sum = gradient_of(prompt).mutable_data<float>() + row(tokens[t]);
          for (int64_t i = 0; i < d; ++i) sum[i] += g[i];
        }
        std::fill_n(g, d, 0.0f);
      }
      add_gradient(x, dy);
    });
  return y;
}

Tensor Model::head_input(const Tensor& hidden) const {
  const Tensor x = final_norm.forward(hidden);
  return logit_scale == 1 ? x : ops::scale(x, logit_scale);
}

Tensor Model::logits(const Tensor& hidden, Activations a) {
  Tensor y = head.forward(LinearInput(head_input(hidden)), a);
  if (logit_softcap > 0) ops::softcap_in_place(y, logit_softcap);
  return y;
}

LinearLoss Model::loss(const Tensor& hidden, LogitLoss& loss, float gradient, Activations a) {
  // With adapters a head is more than one product.
  if (!head.adapters.empty())
    return loss_of_logits(logits(hidden, a), loss, gradient, logit_softcap > 0);
  return linear_loss(head_input(hidden), head.product(), logit_softcap, loss, gradient, a);
}

void Model::set_prefix(std::shared_ptr<Prefix> p) {
  prefix = std::move(p);
  for (Block& b : blocks)
    if (auto* attention = dynamic_cast<SoftmaxAttention*>(b.mixer.get()))
      attention->prefix = prefix;
}

void Model::set_reach(int64_t tokens) {
  for (Block& b : blocks)
    if (auto* a = dynamic_cast<SoftmaxAttention*>(b.mixer.get())) a->rope.set_reach(tokens);
}

int64_t Model::virtual_tokens() const {
  const int64_t prompted = prompt.empty_handle() ? 0 : prompt.dim(0);
  return prompted + (prefix == nullptr ? 0 : prefix->length());
}

void Model::begin(KvCache& cache, KvSequence& sequence, Activations a) {
  HONE_ASSERT(sequence.length == 0);
  if (prefix != nullptr) {
    const int64_t p = prefix->length();
    cache.reserve(sequence, p);
    for (int64_t layer = 0; layer < std::ssize(blocks); ++layer) {
      const Tensor keys = prefix->keys(layer), values = prefix->values(layer);
      cache.write(layer, sequence, 0, p, keys.data<float>(), values.data<float>());
    }
    cache.commit(sequence, p);
  }
  if (prompt.empty_handle()) return;
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < prompt.dim(0); ++i) ids.push_back(static_cast<int32_t>(-1 - i));
  Batch batch;
  batch.activations = a;
  batch.append(ids, &sequence);
  forward(batch, cache);
}

namespace {

// What the spans' sequences keep of one layer goes into its block, and back to them.
void lend(const Batch& batch, size_t layer, size_t layers, BlockState& s) {
  for (std::vector<RecurrentState>& half : s.recurrent) half.assign(batch.spans.size(), {});
  for (size_t i = 0; i < batch.spans.size(); ++i) {
    std::vector<RecurrentState>* kept = batch.spans[i].recurrent;
    if (kept == nullptr || kept->empty()) continue;
    HONE_ASSERT(kept->size() >= 2 * layers);
    for (size_t half : {0, 1}) s.recurrent[half][i] = (*kept)[2 * layer + half];
  }
}

void give_back(const Batch& batch, size_t layer, size_t layers, const BlockState& s) {
  for (size_t i = 0; i < batch.spans.size(); ++i) {
    std::vector<RecurrentState>* kept = batch.spans[i].recurrent;
    if (kept == nullptr) continue;
    kept->resize(std::max(kept->size(), 2 * layers));
    for (size_t half : {0, 1}) (*kept)[2 * layer + half] = s.recurrent[half][i];
  }
}

}  // namespace

void cut_states(std::vector<RecurrentState>& states) {
  for (RecurrentState& state : states)
    for (Tensor& t : state) t = t.detached();
}

Tensor Model::forward(const Batch& batch, KvCache& cache) {
  if (batch.cached())
    for (const SequenceSpan& s : batch.spans) cache.reserve(*s.kv, s.start + s.end - s.begin);
  if (prefix != nullptr) prefix->begin();
  Tensor x = embed(batch);
  if (memory.defined())
    x = run_with_memory(
        memory, batch, x, 2 * blocks.size(),
        [&](const Tensor& rows, const Batch& part) { return stack(rows, part, cache); },
        final_norm);
  else
    x = stack(x, batch, cache);
  if (batch.cached())
    for (const SequenceSpan& span : batch.spans)
      cache.commit(*span.kv, span.start + span.end - span.begin);
  return x;
}

Tensor Model::stack(const Tensor& x, const Batch& batch, KvCache& cache) {
  const bool recurrent = state_bytes() > 0;
  BlockState s;
  s.residual = x;
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (recurrent) lend(batch, i, blocks.size(), s);
    blocks[i].forward(s, batch, cache, static_cast<int64_t>(i));
    if (recurrent) give_back(batch, i, blocks.size(), s);
  }
  return s.residual;
}

namespace {

// A forward without a cache, for as long as a tape may run parts of it again.
struct Run {
  Batch batch;
  KvCache none{{}};
  Tensor shared;
  // What each block starts from, the second time as the first.
  std::vector<std::optional<BlockState>> entered;
};

Tensor run_block(Model& m, Run& run, size_t i, const Tensor& x) {
  const bool first = !run.entered[i].has_value();
  if (first) lend(run.batch, i, m.blocks.size(), run.entered[i].emplace());
  BlockState s = *run.entered[i];
  s.residual = x;
  s.shared = run.shared;
  m.blocks[i].forward(s, run.batch, run.none, static_cast<int64_t>(i));
  if (first) give_back(run.batch, i, m.blocks.size(), s);
  if (first) run.shared = s.shared;
  return s.residual;
}

}  // namespace

Tensor Model::forward(const Batch& batch) {
  HONE_ASSERT(!batch.cached());
  if (prefix != nullptr) prefix->begin();
  const Tensor x = embed(batch);
  if (!memory.defined()) return stack(x, batch);
  return run_with_memory(
      memory, batch, x, 2 * blocks.size(),
      [&](const Tensor& rows, const Batch& part) { return stack(rows, part); }, final_norm);
}

Tensor Model::stack(const Tensor& embedded, const Batch& batch) {
  auto held = std::make_shared<Run>();
  held->batch = batch;
  held->entered.resize(blocks.size());
  const bool each =
      batch.checkpointing == Checkpointing::block || batch.checkpointing == Checkpointing::root;
  auto run = [this, held, each](Tensor x, size_t first, size_t last) {
    for (size_t i = first; i < last; ++i) {
      auto block = [this, held, i](const Tensor& in) { return run_block(*this, *held, i, in); };
      x = each ? checkpoint(block, x) : block(x);
    }
    return x;
  };
  Tensor x = embedded;
  // What all layers share has a gradient where it is made outside their checkpoints.
  size_t done = 0;
  if (blocks[0].mixer->gives_shared()) x = run_block(*this, *held, done++, x);
  if (batch.checkpointing != Checkpointing::root) return run(x, done, blocks.size());
  const auto group = static_cast<size_t>(std::ceil(std::sqrt(static_cast<double>(blocks.size()))));
  for (size_t i = done; i < blocks.size(); i += group) {
    const size_t last = std::min(blocks.size(), i + group);
    x = checkpoint([run, i, last](const Tensor& in) { return run(in, i, last); }, x);
  }
  return x;
}

void Model::set_precision(Activations a) {
  for (Linear* l : linears()) l->set_precision(a);
}

std::vector<NamedTensor> Model::train(const std::function<bool(const std::string& name)>& select,
                                      DType type) {
  std::vector<NamedTensor> all;
  auto take = [&](const std::string& name, auto make) {
    if (select(name)) all.push_back({name, make()});
  };
  auto vector = [&](const std::string& name, Tensor& t) {
    if (t.empty_handle()) return;
    take(name, [&] {
      t.require_gradient();
      return t;
    });
  };
  auto norm = [&](Norm& n) {
    vector(n.name + ".weight", n.weight);
    vector(n.name + ".bias", n.bias);
  };
  auto linear = [&](Linear& l) {
    take(l.name() + ".weight", [&] { return l.train_weight(nullptr, type); });
    if (!l.bias().empty_handle()) take(l.name() + ".bias", [&] { return l.train_bias(); });
  };
  take(embedding.name() + ".weight", [&] {
    Tensor& values = embedding.train(type);
    if (tied_head) head.train_weight(&values);
    return values;
  });
  norm(embedding_norm);
  vector(position_name + ".weight", position_table);
  vector(memory.name + ".weight", memory.initial);
  for (Block& b : blocks) {
    for (Norm* n : b.norms()) norm(*n);
    for (auto& stage : b.stages())
      for (Linear* l : stage) linear(*l);
    for (Mixer* half : b.mixers())
      for (const MixerParameter& p : half->parameters())
        if (p.vector != nullptr) vector(p.vector->path, p.vector->values);
  }
  for (Linear* l : side_linears()) linear(*l);
  norm(final_norm);
  if (!tied_head) linear(head);
  return all;
}

void Model::values_changed() {
  for (Linear* l : linears()) l->repack();
  for (Linear* l : side_linears()) l->repack();
}

void Model::pack(bool keep) {
  std::vector<Linear*> all = linears();
  for (Linear* l : side_linears()) all.push_back(l);
  // Packing is parallel inside each Linear; one at a time keeps the peak at one layer.
  for (Linear* l : all) l->pack(keep);
}

}  // namespace hone
