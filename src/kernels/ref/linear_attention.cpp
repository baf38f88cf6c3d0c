#include "kernels/ref/linear_attention.h"

#include <cmath>

namespace hone::kernels::ref {
namespace {

using Row = std::vector<double>;

// What one token brings.
struct Token {
  Row q, k, d, a, b, u, v;
  double beta;

  Token(const LinearArgs& r, int64_t t) : beta(r.beta ? r.beta[t * r.beta_ld] : 1) {
    for (int64_t i = 0; i < r.k_dim; ++i) {
      q.push_back(double{r.scale} * r.q[t * r.qk_ld + i]);
      k.push_back(r.k[t * r.qk_ld + i]);
      const double g =
          r.decay == kNoDecay ? 0 : r.g[t * r.g_ld + (r.decay == kChannelDecay ? i : 0)];
      d.push_back(std::exp(g));
      a.push_back(r.rank == kGeneralRank ? double{r.a[t * r.ab_ld + i]} : 0);
      b.push_back(r.rank == kGeneralRank ? double{r.b[t * r.ab_ld + i]} : 0);
      u.push_back(r.u ? double{r.u[i]} : 0);
    }
    v.assign(r.v + t * r.v_ld, r.v + t * r.v_ld + r.columns);
  }
  double bonus() const {
    double sum = 0;
    for (size_t i = 0; i < q.size(); ++i) sum += q[i] * u[i] * k[i];
    return sum;
  }
};

// xᵀ·S and S·y.
Row across(const Row& x, const Row& s, int64_t columns) {
  Row y(static_cast<size_t>(columns));
  for (size_t i = 0; i < x.size(); ++i)
    for (int64_t j = 0; j < columns; ++j) y[j] += x[i] * s[i * columns + j];
  return y;
}
Row along(const Row& s, const Row& y) {
  Row x(s.size() / y.size());
  for (size_t i = 0; i < x.size(); ++i)
    for (size_t j = 0; j < y.size(); ++j) x[i] += s[i * y.size() + j] * y[j];
  return x;
}
void add_outer(Row& s, const Row& x, const Row& y, double factor) {
  for (size_t i = 0; i < x.size(); ++i)
    for (size_t j = 0; j < y.size(); ++j) s[i * y.size() + j] += factor * x[i] * y[j];
}
Row decayed(const Row& s, const Row& d) {
  Row y = s;
  const size_t columns = s.size() / d.size();
  for (size_t i = 0; i < y.size(); ++i) y[i] *= d[i / columns];
  return y;
}
Row less(Row x, const Row& y) {
  for (size_t i = 0; i < x.size(); ++i) x[i] -= y[i];
  return x;
}
// The part of v that the token writes, before β.
Row written(const LinearArgs& r, const Token& t, const Row& kept) {
  return r.rank == kDeltaRank ? less(t.v, across(t.k, kept, r.columns)) : t.v;
}

}  // namespace

std::vector<std::vector<double>> linear_attention(const LinearArgs& r) {
  Row s;
  for (int64_t i = 0; i < r.k_dim; ++i)
    s.insert(s.end(), r.state + i * r.state_ld, r.state + i * r.state_ld + r.columns);
  std::vector<Row> states{s};
  for (int64_t t = 0; t < r.tokens; ++t) {
    const Token x(r, t);
    const Row before = s;
    s = decayed(before, x.d);
    const Row y = written(r, x, s);
    add_outer(s, x.b, across(x.a, before, r.columns), 1);
    add_outer(s, x.k, y, x.beta);
    const Row o = across(x.q, r.reads_previous ? before : s, r.columns);
    for (int64_t j = 0; j < r.columns; ++j)
      r.o[t * r.o_ld + j] =
          static_cast<float>(o[j] + (r.reads_previous ? x.bonus() * x.beta * y[j] : 0));
    states.push_back(s);
  }
  for (int64_t i = 0; i < r.k_dim; ++i)
    for (int64_t j = 0; j < r.columns; ++j)
      r.state[i * r.state_ld + j] = static_cast<float>(s[i * r.columns + j]);
  return states;
}

void linear_backward(const LinearGradients& g) {
  const LinearArgs& r = g.of;
  std::vector<float> o(static_cast<size_t>(r.tokens * r.o_ld)),
      end(static_cast<size_t>(r.k_dim * r.columns));
  LinearArgs again = r;
  again.o = o.data();
  for (int64_t i = 0; i < r.k_dim; ++i)
    for (int64_t j = 0; j < r.columns; ++j) end[i * r.columns + j] = r.state[i * r.state_ld + j];
  again.state = end.data();
  again.state_ld = r.columns;
  const std::vector<Row> states = linear_attention(again);
  Row ds(g.dstate, g.dstate + r.k_dim * r.columns);
  for (int64_t t = r.tokens - 1; t >= 0; --t) {
    const Token x(r, t);
    const Row &before = states[t], kept = decayed(before, x.d), y = written(r, x, kept);
    const Row d_o(g.d_o + t * r.o_ld, g.d_o + t * r.o_ld + r.columns);
    if (!r.reads_previous) add_outer(ds, x.q, d_o, 1);
    Row dq = along(r.reads_previous ? before : states[t + 1], d_o);
    Row dk = along(ds, y), dy = across(x.k, ds, r.columns);
    double dbeta = 0, bonus = 0;
    for (double& e : dk) e *= x.beta;
    if (r.reads_previous)
      for (int64_t j = 0; j < r.columns; ++j) {
        bonus += d_o[j] * x.beta * y[j];
        dy[j] += x.bonus() * d_o[j];
      }
    for (int64_t j = 0; j < r.columns; ++j) {
      dbeta += dy[j] * y[j];
      dy[j] *= x.beta;
      g.dv[t * r.v_ld + j] = static_cast<float>(dy[j]);
    }
    const Row dp = across(x.b, ds, r.columns), found = across(x.a, before, r.columns);
    const Row da = along(before, dp), db = along(ds, found);
    if (r.rank == kDeltaRank) {
      dk = less(dk, along(kept, dy));
      add_outer(ds, x.k, dy, -1);
    }
    double dg = 0;
    for (int64_t i = 0; i < r.k_dim; ++i) {
      const int64_t at = t * r.qk_ld + i;
      double dgi = 0;
      for (int64_t j = 0; j < r.columns; ++j)
        dgi += kept[i * r.columns + j] * ds[i * r.columns + j];
      dg += dgi;
      g.dq[at] += static_cast<float>(r.scale * (dq[i] + bonus * x.u[i] * x.k[i]));
      g.dk[at] += static_cast<float>(dk[i] + bonus * x.u[i] * x.q[i]);
      if (g.du) g.du[i] += static_cast<float>(bonus * x.q[i] * x.k[i]);
      if (g.da) g.da[t * r.ab_ld + i] = static_cast<float>(da[i]);
      if (g.db) g.db[t * r.ab_ld + i] = static_cast<float>(db[i]);
      if (g.dg && r.decay == kChannelDecay) g.dg[t * g.dg_ld + i] = static_cast<float>(dgi);
    }
    if (g.dg && r.decay == kHeadDecay) g.dg[t * g.dg_ld] = static_cast<float>(dg);
    if (g.dbeta) g.dbeta[t * r.beta_ld] = static_cast<float>(dbeta);
    ds = decayed(ds, x.d);
    add_outer(ds, x.a, dp, 1);
    if (r.reads_previous) add_outer(ds, x.q, d_o, 1);
  }
  for (size_t i = 0; i < ds.size(); ++i) g.dstate[i] = static_cast<float>(ds[i]);
}

}  // namespace hone::kernels::ref
