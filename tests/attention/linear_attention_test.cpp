// linear_attention(): every published setting against its recurrence in double, forward and all
// gradients; goldens of other implementations; bits.
#include "attention/linear_attention.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "base/error.h"
#include "base/threads.h"
#include "gradients.h"

namespace hone {
namespace {

using namespace testing;

struct Variant {
  std::string name;
  LinearAttentionSpec spec;
  bool constant_decay = false, beta = false, bonus = false;
};

std::vector<Variant> variants(int64_t k, int64_t v) {
  LinearAttentionSpec kimi = gated_delta_net(2, 1, k, v);
  kimi.decay = Decay::channel;
  LinearAttentionSpec all = rwkv7(2, k);
  all.v_dim = v;
  all.qk_heads = 1;
  all.reads_previous = true;
  LinearAttentionSpec finch = rwkv6(2, k);
  finch.v_dim = v;
  LinearAttentionSpec goose = rwkv7(2, k);
  goose.v_dim = v;
  return {{"katharopoulos", katharopoulos(2, k, v, false)},
          {"normalised", katharopoulos(2, k, v, true)},
          {"retnet", retnet(2, k, v), true},
          {"mamba2", mamba2(4, 2, k, v), false, true},
          {"gla", gla(2, k, v)},
          {"delta_net", delta_net(2, k, v), false, true},
          {"gated_delta_net", gated_delta_net(4, 2, k, v), false, true},
          {"channel-wise gated delta", kimi, false, true},
          {"rwkv5", finch, true, false, true},
          {"rwkv6", finch, false, false, true},
          {"rwkv7", goose},
          {"everything", all, false, true, true}};
}

// Which inputs a variant has, in the order of LinearAttentionInputs.
std::vector<Tensor> random_inputs(const Variant& x, int64_t t, float decay = 0.7f) {
  const LinearAttentionSpec& s = x.spec;
  auto map = [](Tensor y, const std::function<float(float)>& f) {
    for (float& e : std::span(y.mutable_data<float>(), static_cast<size_t>(y.numel()))) e = f(e);
    return y;
  };
  const float small = 1 / std::sqrt(static_cast<float>(s.k_dim));
  const bool low_rank = s.low_rank != LowRank::none;
  std::vector<Tensor> in(8);
  in[0] = random_tensor({t, s.qk_heads * s.k_dim}, 1);
  in[1] = random_tensor({t, s.qk_heads * s.k_dim}, 2, low_rank ? small : 1);
  if (s.normalised)
    for (int i : {0, 1}) in[i] = map(in[i], [](float e) { return std::exp(e); });
  in[2] = random_tensor({t, s.heads * s.v_dim}, 3);
  if (s.decay != Decay::none)
    in[3] = map(
        random_tensor({x.constant_decay ? 1 : t, s.heads * (s.decay == Decay::head ? 1 : s.k_dim)},
                      4, decay),
        [](float e) { return -std::fabs(e) - 1e-3f; });
  if (x.beta)
    in[4] = map(random_tensor({t, s.heads}, 5), [](float e) { return 1 / (1 + std::exp(-e)); });
  if (s.low_rank == LowRank::general) {
    in[5] = random_tensor({t, s.heads * s.k_dim}, 6, small);
    in[6] = map(in[5].clone(), [](float e) { return -0.6f * e; });
  }
  if (x.bonus) in[7] = random_tensor({s.heads * s.k_dim}, 8);
  return in;
}
LinearAttentionInputs linear_inputs_of(const std::vector<Tensor>& x) {
  return {x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]};
}

// The definition, in double: o and then the states of all spans. `states` empty = zeros.
Doubles plain(const Variant& x, const std::vector<LinearSpan>& spans, int64_t rows,
              const std::vector<Doubles>& in, const std::vector<Doubles>& states) {
  const LinearAttentionSpec& p = x.spec;
  const int64_t h = p.heads, kd = p.k_dim, vd = p.v_dim, columns = p.state_columns();
  Doubles out(static_cast<size_t>(rows * h * vd));
  for (size_t n = 0; n < spans.size(); ++n) {
    Doubles s = states.empty() ? Doubles(static_cast<size_t>(h * kd * columns)) : states[n];
    for (int64_t t = spans[n].begin; t < spans[n].end; ++t)
      for (int64_t i = 0; i < h; ++i) {
        double* state = s.data() + i * kd * columns;
        const double* q = &in[0][(t * p.qk_heads + i * p.qk_heads / h) * kd];
        const double* k = &in[1][(t * p.qk_heads + i * p.qk_heads / h) * kd];
        const double* v = &in[2][(t * h + i) * vd];
        const double beta = in[4].empty() ? 1 : in[4][t * h + i];
        const int64_t g_row = x.constant_decay ? 0 : t;
        Doubles o(columns), found(columns), value(columns, 1.0), old(state, state + kd * columns);
        std::copy_n(v, vd, value.begin());
        for (int64_t c = 0; c < kd; ++c)
          for (int64_t j = 0; j < columns; ++j) {
            if (p.decay == Decay::head) state[c * columns + j] *= std::exp(in[3][g_row * h + i]);
            if (p.decay == Decay::channel)
              state[c * columns + j] *= std::exp(in[3][(g_row * h + i) * kd + c]);
          }
        for (int64_t j = 0; j < columns; ++j)
          for (int64_t c = 0; c < kd; ++c) {
            if (p.low_rank == LowRank::delta) value[j] -= k[c] * state[c * columns + j];
            if (p.low_rank == LowRank::general)
              found[j] += in[5][(t * h + i) * kd + c] * old[c * columns + j];
          }
        for (int64_t c = 0; c < kd; ++c)
          for (int64_t j = 0; j < columns; ++j) {
            double& e = state[c * columns + j];
            if (p.low_rank == LowRank::general) e += in[6][(t * h + i) * kd + c] * found[j];
            e += beta * k[c] * value[j];
            const double bonus = in[7].empty() ? 0 : in[7][i * kd + c];
            o[j] += p.scale * q[c] *
                    (p.reads_previous ? old[c * columns + j] + bonus * k[c] * beta * value[j] : e);
          }
        for (int64_t j = 0; j < vd; ++j)
          out[(t * h + i) * vd + j] = o[j] / (p.normalised ? o[vd] + double{p.eps} : 1);
      }
    out.insert(out.end(), s.begin(), s.end());
  }
  return out;
}

// One tensor of all results, which lets gradients flow back to each.
Tensor joined(const LinearAttentionResult& r) {
  std::vector<Tensor> parts{r.o};
  parts.insert(parts.end(), r.states.begin(), r.states.end());
  int64_t n = 0;
  for (const Tensor& x : parts) n += x.numel();
  Tensor y = Tensor::empty({n}, DType::f32);
  float* to = y.mutable_data<float>();
  for (const Tensor& x : parts) to = std::copy_n(x.data<float>(), x.numel(), to);
  if (Tape::current() != nullptr)
    record(y, [parts](const Tensor& dy) {
      const float* from = dy.data<float>();
      for (const Tensor& x : parts) {
        Tensor dx = Tensor::empty(x.shape(), DType::f32);
        std::copy_n(from, x.numel(), dx.mutable_data<float>());
        from += x.numel();
        add_gradient(x, dx);
      }
    });
  return y;
}

// Values and all gradients; the inputs that there are, then the states.
void expect_variant(const Variant& x, std::vector<LinearSpan> spans, int64_t rows,
                    LinearForm form) {
  SCOPED_TRACE(x.name + (form == LinearForm::chunked ? ", chunked" : ", recurrent"));
  const std::vector<Tensor> in = random_inputs(x, rows);
  std::vector<Tensor> given;
  for (const Tensor& t : in)
    if (!t.empty_handle()) given.push_back(t);
  const size_t inputs = given.size();
  for (size_t i = 0; i < spans.size(); ++i) {
    given.push_back(random_tensor(x.spec.state_shape(), 20 + uint32_t(i)));
    // A sum of keys is not negative.
    if (x.spec.normalised)
      for (float& e : std::span(given.back().mutable_data<float>(), size_t(given.back().numel())))
        e = std::fabs(e);
  }
  auto all = [&](const auto& got) {
    std::remove_cvref_t<decltype(got)> out(8);
    for (size_t i = 0, j = 0; i < 8; ++i)
      if (!in[i].empty_handle()) out[i] = got[j++];
    return out;
  };
  expect_gradients(
      [&](const std::vector<Tensor>& y) {
        std::vector<LinearSpan> own = spans;
        for (size_t i = 0; i < own.size(); ++i) own[i].state = y[inputs + i];
        return joined(linear_attention(x.spec, linear_inputs_of(all(y)), own, form));
      },
      [&](const std::vector<Doubles>& y) {
        return plain(x, spans, rows, all(y), {y.begin() + std::ptrdiff_t(inputs), y.end()});
      },
      given, 1e-5);
}

TEST(LinearAttention, GradientsOfEveryVariant) {
  for (const Variant& x : variants(5, 3))
    for (LinearForm form : {LinearForm::recurrent, LinearForm::chunked})
      expect_variant(x, {{0, 19, {}}}, 19, form);
}

TEST(LinearAttention, GradientsAcrossSegments) {
  for (const Variant& x : variants(2, 2)) expect_variant(x, {{0, 70, {}}}, 70, LinearForm::chunked);
}

// Sequences of odd lengths, one of them empty, and rows that none has.
TEST(LinearAttention, GradientsOfRaggedBatches) {
  for (const Variant& x : variants(3, 4))
    expect_variant(x, {{1, 6, {}}, {6, 6, {}}, {8, 25, {}}}, 26, LinearForm::chunked);
}

TEST(LinearAttention, StatesMayBeAbsentAndResultsUnread) {
  for (const Variant& x : variants(4, 4)) {
    std::vector<Tensor> in = random_inputs(x, 20);
    for (Tensor& t : in)
      if (!t.empty_handle()) t.require_gradient();
    std::vector<Doubles> values;
    for (const Tensor& t : in) values.push_back(t.empty_handle() ? Doubles() : doubles_of(t));
    Tape tape;
    LinearAttentionResult r =
        linear_attention(x.spec, linear_inputs_of(in), {{0, 20, {}}}, LinearForm::chunked);
    const Doubles want = plain(x, {{0, 20, {}}}, 20, values, {});
    for (int64_t i = 0; i < r.o.numel(); ++i) EXPECT_NEAR(r.o.data<float>()[i], want[i], 1e-4);
    // Only the state is read: no gradient for q.
    tape.backward(r.states[0], random_tensor(x.spec.state_shape(), 3));
    for (float g : doubles_of(in[0].gradient())) EXPECT_EQ(g, 0);
    EXPECT_GT(relative_distance(in[1].gradient().data<float>(), in[0].gradient().data<float>(),
                                in[1].numel()),
              0.1);
  }
}

std::vector<float> floats_of(const Tensor& t) {
  return {t.data<float>(), t.data<float>() + t.numel()};
}

// A token at a time, cut anywhere, beside others: the same bits in the recurrent form; in the
// chunked one where cuts are at multiples of a chunk.
TEST(LinearAttention, PrefillAndDecodeAgreeBitForBit) {
  for (const Variant& x : variants(20, 70)) {
    const int64_t rows = 100;
    const std::vector<Tensor> in = random_inputs(x, rows);
    auto part = [&](int64_t b, int64_t e) {
      LinearAttentionInputs y = linear_inputs_of(in);
      for (Tensor* t : {&y.q, &y.k, &y.v, &y.g, &y.beta, &y.a, &y.b})
        if (!t->empty_handle() && t->dim(0) == rows) *t = t->rows(b, e);
      return y;
    };
    for (LinearForm form : {LinearForm::recurrent, LinearForm::chunked}) {
      SCOPED_TRACE(x.name);
      std::vector<LinearSpan> whole{{0, rows, Tensor::zeros(x.spec.state_shape(), DType::f32)}};
      const std::vector<float> want =
          floats_of(linear_attend(x.spec, linear_inputs_of(in), whole, form));
      const int64_t first = form == LinearForm::recurrent ? 29 : 32;
      std::vector<LinearSpan> one{{0, first, Tensor::zeros(x.spec.state_shape(), DType::f32)}};
      std::vector<float> got = floats_of(linear_attend(x.spec, part(0, first), one, form));
      for (int64_t t = first, n = 0; t < rows; t += n) {
        n = form == LinearForm::recurrent ? 1 : std::min<int64_t>(48, rows - t);
        one[0].begin = 0, one[0].end = n;
        const Tensor more = linear_attend(x.spec, part(t, t + n), one, form);
        got.insert(got.end(), more.data<float>(), more.data<float>() + more.numel());
      }
      EXPECT_EQ(got, want);
      EXPECT_EQ(floats_of(one[0].state), floats_of(whole[0].state));
      // Behind another sequence in a batch.
      std::vector<LinearSpan> two;
      for (int64_t b : {0, 32})
        two.push_back({b, b == 0 ? 32 : rows, Tensor::zeros(x.spec.state_shape(), DType::f32)});
      std::vector<LinearSpan> alone{
          {0, rows - 32, Tensor::zeros(x.spec.state_shape(), DType::f32)}};
      linear_attend(x.spec, linear_inputs_of(in), two, form);
      linear_attend(x.spec, part(32, rows), alone, form);
      EXPECT_EQ(floats_of(two[1].state), floats_of(alone[0].state));
    }
  }
}

TEST(LinearAttention, ThreadsChangeNoBit) {
  for (const Variant& x : variants(16, 130)) {
    std::vector<std::vector<float>> first;
    for (int threads : {1, 2}) {
      set_threads(threads);
      std::vector<Tensor> in = random_inputs(x, 90);
      for (Tensor& t : in)
        if (!t.empty_handle()) t.require_gradient();
      std::vector<LinearSpan> own;
      for (auto [b, e] : {std::pair(0, 40), {40, 90}})
        own.push_back({b, e, Tensor::zeros(x.spec.state_shape(), DType::f32)});
      std::vector<std::vector<float>> now;
      for (LinearForm form : {LinearForm::recurrent, LinearForm::chunked})
        now.push_back(floats_of(linear_attend(x.spec, linear_inputs_of(in), own, form)));
      Tape tape;
      Tensor y = joined(linear_attention(x.spec, linear_inputs_of(in), own, LinearForm::chunked));
      tape.backward(y, random_tensor({y.numel()}, 4));
      for (const Tensor& t : in)
        if (!t.empty_handle()) now.push_back(floats_of(t.gradient()));
      if (first.empty()) first = now;
      EXPECT_EQ(now, first) << x.name;
    }
  }
  set_threads(0);
}

TEST(LinearAttention, LongSequencesAndExtremeDecays) {
  for (const Variant& x : variants(8, 8))
    for (auto [rows, decay] : {std::pair<int64_t, float>(2000, 0.01f), {100, 60}, {100, 3000}}) {
      const std::vector<Tensor> in = random_inputs(x, rows, decay);
      std::vector<Doubles> values;
      for (const Tensor& t : in) values.push_back(t.empty_handle() ? Doubles() : doubles_of(t));
      const Doubles want = plain(x, {{0, rows, {}}}, rows, values, {});
      const std::vector<float> expected(want.begin(), want.end());
      for (LinearForm form : {LinearForm::recurrent, LinearForm::chunked}) {
        LinearAttentionResult r =
            linear_attention(x.spec, linear_inputs_of(in), {{0, rows, {}}}, form);
        EXPECT_LT(relative_distance(r.o.data<float>(), expected.data(), r.o.numel()), 2e-5)
            << x.name << ", " << rows << " tokens, decay " << decay;
        EXPECT_LT(relative_distance(r.states[0].data<float>(), expected.data() + r.o.numel(),
                                    r.states[0].numel()),
                  2e-5)
            << x.name << ", " << rows << " tokens, decay " << decay;
      }
    }
}

TEST(LinearAttention, RefusesWhatDoesNotFit) {
  const Variant x{"", gated_delta_net(4, 2, 8, 8), false, true};
  const LinearAttentionInputs good = linear_inputs_of(random_inputs(x, 5));
  const std::vector<LinearSpan> span{{0, 5, {}}};
  EXPECT_NO_THROW(linear_attention(x.spec, good, span));
  auto refused = [&](const LinearAttentionSpec& s, const LinearAttentionInputs& in,
                     const std::vector<LinearSpan>& spans) {
    EXPECT_THROW(linear_attention(s, in, spans), Error);
  };
  LinearAttentionSpec odd = x.spec;
  odd.qk_heads = 3;
  refused(odd, good, span);
  odd.k_dim = int64_t{1} << 62;
  refused(odd, good, span);
  for (Tensor LinearAttentionInputs::*member :
       {&LinearAttentionInputs::q, &LinearAttentionInputs::k, &LinearAttentionInputs::v,
        &LinearAttentionInputs::g, &LinearAttentionInputs::beta}) {
    LinearAttentionInputs bad = good;
    bad.*member = random_tensor({5, 7}, 1);
    refused(x.spec, bad, span);
    bad.*member = random_tensor({4, (good.*member).dim(1)}, 1);
    refused(x.spec, bad, span);
  }
  LinearAttentionInputs bad = good;
  bad.g = {};
  refused(x.spec, bad, span);
  bad = good;
  bad.u = random_tensor({32}, 1);
  refused(x.spec, bad, span);
  bad = good;
  bad.a = random_tensor({5, 32}, 1);
  refused(x.spec, bad, span);
  refused(x.spec, good, {{0, 6, {}}});
  refused(x.spec, good, {{2, 5, {}}, {0, 2, {}}});
  refused(x.spec, good, {{0, 5, random_tensor({4, 8, 9}, 1)}});
}

}  // namespace
}  // namespace hone
