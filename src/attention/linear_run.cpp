// The work items of linear attention.
//
// Forward, an item is one head of one sequence, or some columns of its state where there are fewer
// heads than threads: columns do not meet. A tape keeps the inputs and the states in front of every
// 64th token, one row of state for k_dim·v_dim/64 floats a token; backward makes a segment's chunks
// anew from there (kernels/cpu/linear_backward.cpp). There an item is a head of q and k with all
// heads that read it, so that their gradients are summed in order. What all tokens share, a
// constant decay or the bonus, is summed for each sequence and then over them.
#include "attention/linear_run.h"

#include <algorithm>
#include <memory>

#include "base/checked.h"
#include "base/threads.h"
#include "kernels/linear_attention.h"
#include "kernels/select.h"
#include "ops/tape.h"

namespace hone {
namespace {

using kernels::kLinearSegment;
using kernels::LinearArgs;
using kernels::table;

static_assert(kLinearChunk == kernels::kLinearTokens);

const float* at(const Tensor& x, int64_t offset) {
  return x.empty_handle() ? nullptr : x.data<float>() + offset;
}

class Run {
 public:
  Run(const LinearAttentionSpec& spec, const LinearAttentionInputs& in)
      : spec(spec),
        in(in),
        columns(spec.state_columns()),
        group(spec.heads / spec.qk_heads),
        gates(spec.decay == Decay::head ? 1 : spec.k_dim),
        one_row(!in.g.empty_handle() && in.g.dim(0) == 1 && in.q.dim(0) != 1) {}

  int64_t state_size() const { return spec.k_dim * columns; }

  /// Rows [t0, t0 + tokens) of one head; `state` is the head's.
  LinearArgs args(int64_t head, int64_t t0, int64_t tokens, float* state) const {
    LinearArgs a{};
    const int64_t qk = spec.qk_heads * spec.k_dim, qk_at = t0 * qk + head / group * spec.k_dim;
    const int64_t channels = spec.heads * spec.k_dim;
    a.q = at(in.q, qk_at);
    a.k = at(in.k, qk_at);
    a.qk_ld = qk;
    a.v_ld = a.o_ld = spec.heads * columns;
    a.v = at(in.v, t0 * a.v_ld + head * columns);
    a.g_ld = one_row ? 0 : spec.heads * gates;
    a.g = at(in.g, t0 * a.g_ld + head * gates);
    a.beta_ld = spec.heads;
    a.beta = at(in.beta, t0 * spec.heads + head);
    a.ab_ld = channels;
    a.a = at(in.a, t0 * channels + head * spec.k_dim);
    a.b = at(in.b, t0 * channels + head * spec.k_dim);
    a.u = at(in.u, head * spec.k_dim);
    a.state = state;
    a.state_ld = columns;
    a.tokens = tokens;
    a.k_dim = spec.k_dim;
    a.columns = columns;
    a.scale = spec.scale;
    a.decay = spec.decay == Decay::none   ? kernels::kNoDecay
              : spec.decay == Decay::head ? kernels::kHeadDecay
                                          : kernels::kChannelDecay;
    a.rank = spec.low_rank == LowRank::none    ? kernels::kNoRank
             : spec.low_rank == LowRank::delta ? kernels::kDeltaRank
                                               : kernels::kGeneralRank;
    a.reads_previous = spec.reads_previous;
    return a;
  }

  const LinearAttentionSpec& spec;
  const LinearAttentionInputs& in;
  const int64_t columns, group, gates;
  const bool one_row;
};

// At least n floats of this thread's, from a cache line on.
float* scratch(int64_t n) {
  static thread_local Tensor buffer;
  if (buffer.empty_handle() || buffer.numel() < n) {
    buffer = {};
    buffer = Tensor::empty({n}, DType::f32);
  }
  return buffer.mutable_data<float>();
}
// As kernels/linear_attention.h asks.
int64_t scratch_floats(int64_t k_dim, int64_t columns, bool backward) {
  auto padded = [](int64_t n) { return round_up(n, kernels::kPanel) + kernels::kPanel; };
  const int64_t k = padded(k_dim), v = padded(columns);
  return (backward ? 6 : 1) * checked_mul(k, v, "linear attention") + 16 * (24 * k + 12 * v + 512);
}

void forward(const Run& run, const LinearRun& r, int64_t head, int64_t first, int64_t columns,
             LinearForm form, float* o) {
  const int64_t segment = r.saved == nullptr ? r.end - r.begin : int64_t{kLinearSegment};
  float* state = r.state + head * run.state_size();
  for (int64_t t = r.begin, i = 0; t < r.end; t += segment, ++i) {
    LinearArgs a = run.args(head, t, std::min(segment, r.end - t), state + first);
    a.v += first;
    a.o = o + t * a.o_ld + head * run.columns + first;
    a.columns = columns;
    a.scratch = scratch(scratch_floats(run.spec.k_dim, columns, false));
    if (r.saved != nullptr)
      std::copy_n(state, run.state_size(),
                  r.saved + (i * run.spec.heads + head) * run.state_size());
    form == LinearForm::chunked ? table().linear_chunked(&a) : table().linear_recurrent(&a);
  }
}

}  // namespace

Tensor run_linear(const LinearAttentionSpec& spec, const LinearAttentionInputs& in,
                  const std::vector<LinearRun>& runs, LinearForm form) {
  const Run run(spec, in);
  constexpr int64_t kColumns = 64;  // of one item, where a head is shared
  const int64_t items = std::ssize(runs) * spec.heads;
  const bool share = items < 2 * thread_count() && (runs.empty() || runs[0].saved == nullptr);
  const int64_t width = share ? kColumns : run.columns, parts = ceil_div(run.columns, width);
  const int64_t rows = in.q.dim(0), row = spec.heads * run.columns;
  Tensor o = Tensor::empty({rows, row}, DType::f32);
  float* out = o.mutable_data<float>();
  int64_t behind = 0;
  for (const LinearRun& r : runs) {
    std::fill(out + behind * row, out + r.begin * row, 0.0f);
    behind = r.end;
  }
  std::fill(out + behind * row, out + rows * row, 0.0f);
  parallel_for(items * parts, 1, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) {
      const int64_t first = i % parts * width, head = i / parts % spec.heads;
      forward(run, runs[i / parts / spec.heads], head, first, std::min(width, run.columns - first),
              form, out);
    }
  });
  return o;
}

namespace {

class LinearBackward {
 public:
  LinearBackward(const Run& run, const std::vector<LinearSpan>& spans,
                 const std::vector<Tensor>& saved, const std::vector<Tensor>& grad)
      : run_(run), spans_(spans), saved_(saved), grad_(grad), in_(run.in) {
    auto like = [](const Tensor& x) {
      return x.empty_handle() ? Tensor() : Tensor::zeros(x.shape(), DType::f32);
    };
    dq_ = like(in_.q);
    dk_ = like(in_.k);
    dv_ = like(in_.v);
    dbeta_ = like(in_.beta);
    da_ = like(in_.a);
    db_ = like(in_.b);
    const Shape shared{std::ssize(spans), run.spec.heads * run.gates};
    if (!in_.g.empty_handle() && in_.g.requires_gradient())
      dg_ = Tensor::zeros(run.one_row ? shared : in_.g.shape(), DType::f32);
    if (!in_.u.empty_handle() && in_.u.requires_gradient())
      du_ = Tensor::zeros({std::ssize(spans), in_.u.numel()}, DType::f32);
    if (grad_[0].empty_handle())
      grad_o_ = Tensor::zeros({in_.q.dim(0), run.spec.heads * run.columns}, DType::f32);
    else
      grad_o_ = grad_[0];
    for (size_t i = 0; i < spans.size(); ++i)
      dstates_.push_back(grad_[i + 1].empty_handle()
                             ? Tensor::zeros(run.spec.state_shape(), DType::f32)
                             : grad_[i + 1].clone());
  }

  /// All heads that read head `qk` of one sequence.
  void item(int64_t span, int64_t qk) {
    for (int64_t h = qk * run_.group; h < (qk + 1) * run_.group; ++h) {
      const LinearSpan& s = spans_[span];
      for (int64_t i = ceil_div(s.end - s.begin, int64_t{kLinearSegment}) - 1; i >= 0; --i)
        segment(span, h, i);
    }
  }

  void finish() {
    add_gradient(in_.q, dq_);
    add_gradient(in_.k, dk_);
    add_gradient(in_.v, dv_);
    for (auto [x, dx] : {std::pair(&in_.beta, &dbeta_), {&in_.a, &da_}, {&in_.b, &db_}})
      if (!x->empty_handle()) add_gradient(*x, *dx);
    if (!dg_.empty_handle()) run_.one_row ? add_rows(in_.g, dg_) : add_gradient(in_.g, dg_);
    if (!du_.empty_handle()) add_rows(in_.u, du_);
    for (size_t i = 0; i < spans_.size(); ++i)
      if (!spans_[i].state.empty_handle()) add_gradient(spans_[i].state, dstates_[i]);
  }

 private:
  static float* to(Tensor& x, int64_t offset) {
    return x.empty_handle() ? nullptr : x.mutable_data<float>() + offset;
  }
  static void add_rows(const Tensor& x, const Tensor& rows) {
    float* sum = gradient_of(x).mutable_data<float>();
    for (int64_t r = 0; r < rows.dim(0); ++r)
      for (int64_t i = 0; i < x.numel(); ++i) sum[i] += rows.data<float>()[r * x.numel() + i];
  }

  void segment(int64_t span, int64_t head, int64_t index) {
    const LinearAttentionSpec& spec = run_.spec;
    const LinearSpan& s = spans_[span];
    const int64_t t0 = s.begin + index * kLinearSegment, gates = run_.gates;
    const int64_t tokens = std::min<int64_t>(kLinearSegment, s.end - t0);
    kernels::LinearGradients g{};
    // The kernel reads the state only.
    g.of = run_.args(head, t0, tokens,
                     const_cast<float*>(saved_[span].data<float>()) +
                         (index * spec.heads + head) * run_.state_size());
    g.of.scratch = scratch(scratch_floats(spec.k_dim, run_.columns, true));
    const int64_t qk = t0 * g.of.qk_ld + head / run_.group * spec.k_dim;
    const int64_t channels = t0 * g.of.ab_ld + head * spec.k_dim;
    const int64_t values = t0 * g.of.v_ld + head * run_.columns;
    g.d_o = grad_o_.data<float>() + values;
    g.dstate = dstates_[span].mutable_data<float>() + head * run_.state_size();
    g.dq = to(dq_, qk);
    g.dk = to(dk_, qk);
    g.dv = to(dv_, values);
    g.dbeta = to(dbeta_, t0 * spec.heads + head);
    g.da = to(da_, channels);
    g.db = to(db_, channels);
    g.du = to(du_, span * spec.heads * spec.k_dim + head * spec.k_dim);
    std::vector<float> rows;
    if (run_.one_row && !dg_.empty_handle()) rows.resize(static_cast<size_t>(tokens * gates));
    g.dg_ld = run_.one_row ? gates : spec.heads * gates;
    g.dg = run_.one_row ? (rows.empty() ? nullptr : rows.data())
                        : to(dg_, t0 * g.dg_ld + head * gates);
    table().linear_backward(&g);
    if (rows.empty()) return;
    float* sum = to(dg_, (span * spec.heads + head) * gates);
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t i = 0; i < gates; ++i) sum[i] += rows[t * gates + i];
  }

  const Run& run_;
  const std::vector<LinearSpan>& spans_;
  const std::vector<Tensor>& saved_;
  const std::vector<Tensor>& grad_;  // of the result and the states
  const LinearAttentionInputs& in_;
  Tensor grad_o_, dq_, dk_, dv_, dbeta_, da_, db_, dg_, du_;
  std::vector<Tensor> dstates_;
};

}  // namespace

LinearAttentionResult undivided_attention(const LinearAttentionSpec& spec,
                                          const LinearAttentionInputs& in,
                                          const std::vector<LinearSpan>& spans, LinearForm form) {
  bool keep = recorded({&in.q, &in.k, &in.v, &in.g, &in.beta, &in.a, &in.b, &in.u});
  for (const LinearSpan& s : spans) keep = keep || recorded({&s.state});
  const int64_t columns = spec.state_columns();
  LinearAttentionResult result;
  std::vector<LinearRun> runs;
  std::vector<Tensor> saved;
  for (const LinearSpan& s : spans) {
    result.states.push_back(s.state.empty_handle() ? Tensor::zeros(spec.state_shape(), DType::f32)
                                                   : s.state.clone());
    if (keep)
      saved.push_back(Tensor::empty(
          {ceil_div(s.end - s.begin, int64_t{kLinearSegment}), spec.heads, spec.k_dim, columns},
          DType::f32));
    runs.push_back({s.begin, s.end, result.states.back().mutable_data<float>(),
                    keep ? saved.back().mutable_data<float>() : nullptr});
  }
  result.o = run_linear(spec, in, runs, form);
  if (!keep) return result;
  std::vector<Tensor*> results{&result.o};
  for (Tensor& s : result.states) results.push_back(&s);
  record_all(results, [=, saved = std::move(saved)](const std::vector<Tensor>& grad) {
    const Run run(spec, in);
    LinearBackward back(run, spans, saved, grad);
    parallel_for(std::ssize(spans) * spec.qk_heads, 1, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) back.item(i / spec.qk_heads, i % spec.qk_heads);
    });
    back.finish();
  });
  return result;
}

}  // namespace hone
