// The kernels of linear attention of every table against kernels/ref: all settings, odd sizes, rows
// that lie apart, decays that are extreme; and what must agree bit for bit.
#include <algorithm>
#include <cstring>

#include "kernels/ref/linear_attention.h"
#include "kernels/select.h"
#include "tables.h"
#include "testing.h"

namespace hone::kernels {
namespace {

using testing::random_values;

struct Setting {
  LinearDecay decay;
  LinearRank rank;
  bool previous;
};

std::vector<Setting> settings() {
  std::vector<Setting> all;
  for (LinearDecay d : {kNoDecay, kHeadDecay, kChannelDecay})
    for (LinearRank r : {kNoRank, kDeltaRank, kGeneralRank})
      for (bool previous : {false, true}) all.push_back({d, r, previous});
  return all;
}

int64_t up(int64_t n) { return (n + 15) / 16 * 16 + 16; }

// One head's inputs, of rows that lie apart, and places for results.
struct Problem {
  int64_t tokens, k, v, qk_ld, v_ld;
  std::vector<float> q, key, value, g, beta, a, b, u, d_o, dstate, state, scratch;

  Problem(int64_t tokens, int64_t k, int64_t v, float decay = 1)
      : tokens(tokens), k(k), v(v), qk_ld(k + 3), v_ld(v + 5) {
    const auto keys = static_cast<size_t>(tokens * qk_ld),
               values = static_cast<size_t>(tokens * v_ld);
    q = random_values(keys, 1);
    key = random_values(keys, 2);
    value = random_values(values, 3);
    g = random_values(keys, 4, decay);
    for (float& x : g) x = -std::fabs(x);
    beta = random_values(static_cast<size_t>(2 * tokens), 5);
    for (float& x : beta) x = 1 / (1 + std::exp(-x));
    // As RWKV-7 has them: b reads against a, so that the state stays small.
    a = random_values(keys, 6);
    for (int64_t t = 0; t < tokens; ++t) {
      double length = 0, other = 0;
      for (int64_t i = 0; i < k; ++i) {
        length += double{a[t * qk_ld + i]} * a[t * qk_ld + i];
        other += double{key[t * qk_ld + i]} * key[t * qk_ld + i];
      }
      for (int64_t i = 0; i < k; ++i) {
        a[t * qk_ld + i] /= static_cast<float>(std::sqrt(length) + 1e-6);
        key[t * qk_ld + i] /= static_cast<float>(std::sqrt(other) + 1e-6);
      }
    }
    b = a;
    for (size_t i = 0; i < b.size(); ++i) b[i] *= -beta[i % beta.size()];
    u = random_values(static_cast<size_t>(k), 7);
    d_o = random_values(values, 8);
    dstate = random_values(static_cast<size_t>(k * v), 9);
    state = random_values(static_cast<size_t>(k * v_ld), 10);
    scratch.resize(
        static_cast<size_t>(6 * up(k) * up(v) + 16 * (24 * up(k) + 12 * up(v) + 512) + 16));
  }

  LinearArgs args(const Setting& s, std::vector<float>& o, std::vector<float>& end) {
    o.assign(static_cast<size_t>(tokens * v_ld), 0.25f);
    end = state;
    LinearArgs r{};
    r.q = q.data();
    r.k = key.data();
    r.qk_ld = r.ab_ld = qk_ld;
    r.v = value.data();
    r.v_ld = r.o_ld = r.state_ld = v_ld;
    if (s.decay != kNoDecay) r.g = g.data();
    r.g_ld = qk_ld;
    r.beta = beta.data();
    r.beta_ld = 2;
    if (s.rank == kGeneralRank) r.a = a.data(), r.b = b.data();
    if (s.previous) r.u = u.data();
    r.o = o.data();
    r.state = end.data();
    r.tokens = tokens;
    r.k_dim = k;
    r.columns = v;
    r.scale = 0.7f;
    r.decay = s.decay;
    r.rank = s.rank;
    r.reads_previous = s.previous;
    const auto at = reinterpret_cast<uintptr_t>(scratch.data());
    r.scratch = scratch.data() + ((64 - at % 64) % 64) / 4;
    return r;
  }
};

std::string name(const Setting& s) {
  return fmt::format("decay {}, rank {}, previous {}", int{s.decay}, int{s.rank}, s.previous);
}

void expect_near(const std::vector<float>& got, const std::vector<float>& want, double tolerance,
                 const std::string& what) {
  EXPECT_LT(testing::relative_distance(got.data(), want.data(), std::ssize(want)), tolerance)
      << what;
}

class LinearKernelTest : public ::testing::TestWithParam<const KernelTable*> {
 protected:
  const KernelTable& k() const { return *GetParam(); }

  void expect_forward(Problem p, double tolerance) const {
    for (const Setting& s : settings()) {
      std::vector<float> o, end, want_o, want_end;
      LinearArgs a = p.args(s, want_o, want_end);
      ref::linear_attention(a);
      for (bool chunked : {false, true}) {
        a = p.args(s, o, end);
        chunked ? k().linear_chunked(&a) : k().linear_recurrent(&a);
        const std::string what =
            fmt::format("{}, chunked {}, {} tokens, {} x {}", name(s), chunked, p.tokens, p.k, p.v);
        expect_near(o, want_o, tolerance, what);
        expect_near(end, want_end, tolerance, what + ", state");
      }
    }
  }
};

TEST_P(LinearKernelTest, ForwardOfOddSizes) {
  for (auto [tokens, keys, values] : {std::tuple(1, 1, 1),
                                      {1, 64, 64},
                                      {5, 7, 3},
                                      {16, 16, 16},
                                      {17, 33, 20},
                                      {40, 24, 65},
                                      {50, 64, 80},
                                      {33, 128, 130}})
    expect_forward(Problem(tokens, keys, values), 2e-6);
}

TEST_P(LinearKernelTest, ExtremeDecays) {
  for (float decay : {1e-6f, 20.0f, 1000.0f}) expect_forward(Problem(40, 20, 18, decay), 3e-6);
}

struct Gradients {
  std::vector<float> q, k, v, g, beta, a, b, u, state;
  LinearGradients of(Problem& p, const Setting& s, const LinearArgs& args) {
    q = random_values(p.q.size(), 11);
    k = random_values(p.q.size(), 12);
    u = random_values(p.u.size(), 13);
    v.assign(p.value.size(), 0);
    g.assign(static_cast<size_t>(p.tokens * p.k), 0);
    beta.assign(p.beta.size(), 0);
    a.assign(p.a.size(), 0);
    b = a;
    state = p.dstate;
    LinearGradients r{};
    r.of = args;
    r.d_o = p.d_o.data();
    r.dstate = state.data();
    r.dq = q.data();
    r.dk = k.data();
    r.dv = v.data();
    r.dbeta = beta.data();
    r.dg = s.decay == kNoDecay ? nullptr : g.data();
    r.dg_ld = s.decay == kChannelDecay ? p.k : 1;
    if (s.rank == kGeneralRank) r.da = a.data(), r.db = b.data();
    if (s.previous) r.du = u.data();
    return r;
  }
};

TEST_P(LinearKernelTest, Backward) {
  for (auto [tokens, keys, values, decay] : {std::tuple(1, 1, 1, 1.0f),
                                             {5, 7, 3, 1.0f},
                                             {64, 16, 16, 0.1f},
                                             {50, 33, 20, 1.0f},
                                             {40, 20, 40, 0.01f},
                                             {37, 18, 17, 1000.0f}})
    for (const Setting& s : settings()) {
      Problem p(tokens, keys, values, decay);
      std::vector<float> o, end;
      const LinearArgs args = p.args(s, o, end);
      Gradients want, got;
      LinearGradients g = want.of(p, s, args);
      ref::linear_backward(g);
      g = got.of(p, s, args);
      k().linear_backward(&g);
      const std::string what = fmt::format("{}, {} tokens, {} x {}", name(s), tokens, keys, values);
      expect_near(got.q, want.q, 3e-6, "dq, " + what);
      expect_near(got.k, want.k, 3e-6, "dk, " + what);
      expect_near(got.v, want.v, 3e-6, "dv, " + what);
      // Where nothing is left behind a token, dg is the rest of sums that cancel.
      expect_near(got.g, want.g, decay > 100 ? 1e-3 : 1e-5, "dg, " + what);
      expect_near(got.beta, want.beta, 3e-6, "dbeta, " + what);
      expect_near(got.a, want.a, 3e-6, "da, " + what);
      expect_near(got.b, want.b, 3e-6, "db, " + what);
      expect_near(got.u, want.u, 3e-6, "du, " + what);
      expect_near(got.state, want.state, 3e-6, "dstate, " + what);
    }
}

// Tokens one by one, in runs and at once; columns together and in parts.
TEST_P(LinearKernelTest, RecurrentBitsDoNotDependOnCuts) {
  for (const Setting& s : settings()) {
    Problem p(37, 20, 85);
    std::vector<float> whole_o, whole_end, o, end;
    LinearArgs a = p.args(s, whole_o, whole_end);
    k().linear_recurrent(&a);
    const LinearArgs all = p.args(s, o, end);
    for (int64_t first : {0, 64})
      for (int64_t t = 0, n = 1; t < 37; t += n, n = t < 20 ? 1 : 17) {
        a = all;
        a.q += t * a.qk_ld, a.k += t * a.qk_ld, a.v += t * a.v_ld + first, a.beta += t * a.beta_ld;
        if (a.g) a.g += t * a.g_ld;
        if (a.a) a.a += t * a.ab_ld, a.b += t * a.ab_ld;
        a.o += t * a.o_ld + first;
        a.state += first;
        a.columns = first == 0 ? 64 : 21;
        a.tokens = std::min<int64_t>(n, 37 - t);
        k().linear_recurrent(&a);
      }
    EXPECT_EQ(o, whole_o) << name(s);
    EXPECT_EQ(end, whole_end) << name(s);
  }
}

TEST_P(LinearKernelTest, ShortConvolutionRow) {
  for (int64_t n : {1, 16, 37})
    for (int64_t taps : {1, 2, 4})
      for (bool silu : {false, true}) {
        std::vector<float> w = random_values(static_cast<size_t>(n * taps), 1),
                           bias = random_values(n, 2);
        std::vector<float> x = random_values(static_cast<size_t>(n * taps), 3), y(n), want(n);
        std::vector<const float*> rows;
        for (int64_t j = 0; j < taps; ++j) rows.push_back(x.data() + j * n);
        k().short_conv_row(rows.data(), w.data(), bias.data(), taps, n, silu, y.data());
        for (int64_t i = 0; i < n; ++i) {
          double z = bias[i];
          for (int64_t j = 0; j < taps; ++j) z += double{w[j * n + i]} * x[j * n + i];
          want[i] = static_cast<float>(silu ? z / (1 + std::exp(-z)) : z);
        }
        expect_near(y, want, 1e-6, fmt::format("{} channels, {} taps", n, taps));
      }
}

INSTANTIATE_TEST_SUITE_P(AllTables, LinearKernelTest, ::testing::ValuesIn(testing::tested_tables()),
                         [](const auto& info) { return std::string(info.param->isa); });

}  // namespace
}  // namespace hone::kernels
