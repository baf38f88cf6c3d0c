// gqa: merges groups of key/value heads, so that a KV cache and what decode reads of it shrink: MHA
// becomes GQA or MQA, or GQA one of fewer heads (Ainslie et al. 2023, "GQA").
//
// mean: a new head is the mean of its group, as in the paper; queries and output stay. Heads that
// were trained apart have nothing in common that a mean would keep, so that this needs uptraining.
//
// joint: a new head is what reproduces its group best on the calibration text, and queries and
// output take up how each old head follows from it. With C = Σ x·xᵀ of the layer's inputs:
//   values  the group's values, g·d of them, are nearest to U·(d new ones) for U the principal
//           directions of V·C·Vᵀ; the new ones are Uᵀ·V, and each head's output block becomes
//           O_i·U_i. (Where there are biases, of the same sums of V·x + b.)
//   keys    what replaces a key must commute with its rotation, which takes the channels i and
//           i + d/2 as one complex number. For each such pair the group's g numbers are nearest to
//           u·(one new number) for u the principal direction of their Hermitian g × g matrix, and
//           queries become ū_i·q. Channels that are not rotated go as values do.
// Where heads differ by such maps alone nothing is lost. The error is that of keys and values, not
// of what attention makes of them. Limits: norms over keys (Gemma 3) stand between the projection
// and the rotation, so that only mean works; files that hold q, k and v in parts of one
// matrix (GPT-2) cannot hold the result.
#include <complex>
#include <vector>

#include "base/checked.h"
#include "base/random.h"
#include "base/threads.h"
#include "ops/dense.h"
#include "ops/linalg.h"
#include "passes/calibration_walk.h"
#include "passes/pass.h"

namespace hone {
namespace {

using Complex = std::complex<double>;

// Square or not, row by row.
struct Matrix {
  int64_t rows = 0, columns = 0;
  std::vector<double> values;
  Matrix(int64_t r, int64_t c)
      : rows(r), columns(c), values(static_cast<size_t>(checked_mul(r, c, "matrix"))) {}
  double& at(int64_t i, int64_t j) { return values[static_cast<size_t>(i * columns + j)]; }
  double at(int64_t i, int64_t j) const { return values[static_cast<size_t>(i * columns + j)]; }
};

// The `count` principal directions of a symmetric matrix [n, n]: [count, n].
Matrix principal(const Matrix& m, int64_t count, uint64_t seed) {
  Matrix u(count, m.rows);
  u.values = ops::principal_directions(m.values, m.rows, count, seed);
  return u;
}

// What a layer's inputs were: C = Σ x·xᵀ, packed, the sum of x, and how many there were.
struct Inputs {
  PackedWeight gram;
  std::vector<double> sum;
  double count = 0;
};

// A projection's rows with their biases behind them, so that one map serves both.
struct Rows {
  Tensor values;  // [N, D]
  Tensor bias;    // [N] or an empty handle
  explicit Rows(const Linear& l)
      : values(decode_weight(l.weight()).clone()),
        bias(l.bias().empty_handle() ? Tensor() : l.bias().clone()) {}
  Rows(const Rows& like, int64_t n)
      : values(Tensor::zeros({n, like.values.dim(1)}, DType::f32)),
        bias(like.bias.empty_handle() ? Tensor() : Tensor::zeros({n}, DType::f32)) {}

  /// Row `to` gets `factor` times row `from` of `other` added.
  void add(int64_t to, double factor, const Rows& other, int64_t from) {
    const int64_t d = values.dim(1);
    const auto f = static_cast<float>(factor);
    float* y = values.mutable_data<float>() + to * d;
    const float* x = other.values.data<float>() + from * d;
    for (int64_t k = 0; k < d; ++k) y[k] += f * x[k];
    if (!bias.empty_handle()) bias.mutable_data<float>()[to] += f * other.bias.data<float>()[from];
  }
  Linear linear(const Linear& l) const { return Linear(l.name(), float_weight(values), bias); }
};

// Σ y·yᵀ of what rows [first, first + n) of a projection gave, y = W·x + b: [n, n].
Matrix energy(const Rows& w, int64_t first, int64_t n, const Inputs& in) {
  const int64_t d = w.values.dim(1);
  const Tensor rows = w.values.rows(first, first + n).clone();
  const Tensor half = multiply(LinearInput(rows), in.gram, {}, Activations::f32);
  std::vector<double> sums(static_cast<size_t>(n)), biases(static_cast<size_t>(n));
  for (int64_t i = 0; i < n && !w.bias.empty_handle(); ++i) {
    const auto at = static_cast<size_t>(i);
    biases[at] = w.bias.data<float>()[first + i];
    for (int64_t k = 0; k < d; ++k)
      sums[at] += in.sum[static_cast<size_t>(k)] * rows.data<float>()[i * d + k];
  }
  Matrix m(n, n);
  parallel_for(n, 1, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i)
      for (int64_t j = 0; j < n; ++j) {
        const float *x = half.data<float>() + i * d, *y = rows.data<float>() + j * d;
        double sum = 0;
        for (int64_t k = 0; k < d; ++k) sum += double{x[k]} * y[k];
        const auto si = static_cast<size_t>(i), sj = static_cast<size_t>(j);
        m.at(i, j) = sum + sums[si] * biases[sj] + biases[si] * sums[sj] +
                     in.count * biases[si] * biases[sj];
      }
  });
  return m;
}

class Gqa final : public Pass {
 public:
  PassKind kind() const override { return PassKind::convert; }
  bool needs_calibration() const override { return method_ == "joint"; }
  void visit_options(OptionVisitor& v) override {
    v.option("kv_heads", kv_heads_, "key/value heads of each layer; 1 is multi-query attention");
    v.option("method", method_, "joint (from calibration) or mean");
  }
  void check_options() const override {
    HONE_CHECK(kv_heads_ >= 1, invalid_argument, "gqa: kv_heads {}: expected at least 1",
               kv_heads_);
    HONE_CHECK(method_ == "joint" || method_ == "mean", invalid_argument,
               "gqa: method '{}': expected joint or mean", method_);
  }
  void check_model(const Model& m) const override {
    for (const Family* f : families())
      for (const Slot& s : f->slots)
        HONE_CHECK(f->name != m.family || s.role != Role::k || s.parts == 0, unsupported,
                   "gqa: the files of {} hold queries, keys and values as parts of one matrix, so "
                   "that they cannot hold fewer key/value heads",
                   m.family);
    for (const Family* f : families())
      HONE_CHECK(f->name != m.family || !f->one_head_count, unsupported,
                 "gqa: the files of {} have as many key/value heads as heads", m.family);
    for (const Block& b : m.blocks) {
      const auto* a = dynamic_cast<const SoftmaxAttention*>(b.mixer.get());
      HONE_CHECK(a != nullptr, unsupported, "gqa: {} has layers without softmax attention",
                 m.family);
      HONE_CHECK(a->state_shapes().empty(), unsupported,
                 "gqa: linearised layers have features of the keys that they have; merge first");
      HONE_CHECK(a->spec.kv_heads % kv_heads_ == 0, invalid_argument,
                 "gqa: kv_heads {} does not divide the {} of the model", kv_heads_,
                 a->spec.kv_heads);
      HONE_CHECK(method_ == "mean" || !a->k_norm.defined(), unsupported,
                 "gqa: this {} has norms over its keys, which method joint cannot go around; use "
                 "method: mean",
                 m.family);
      HONE_CHECK(!a->k_norm.defined() || a->k_norm.weight.numel() == a->spec.k_dim, unsupported,
                 "gqa: this {} has one norm over all its keys, which fewer heads would change",
                 m.family);
    }
  }
  WeightForm form(int64_t) const override { return {"f32", {}}; }

  void run(PassContext& c) override {
    Model& m = *c.model.model;
    check_model(m);  // steps before this one may have changed it
    std::optional<CalibrationWalk> walk;
    if (needs_calibration()) walk.emplace(m, *c.calibration);
    const auto blocks = static_cast<int64_t>(m.blocks.size());
    for (int64_t i = 0; i < blocks; ++i) {
      auto& a = dynamic_cast<SoftmaxAttention&>(*m.blocks[i].mixer);
      if (a.spec.kv_heads != kv_heads_) {
        if (walk)
          join(a, inputs_of(*walk, m.width()), mix64(c.seed) + static_cast<uint64_t>(i));
        else
          average(a);
        a.spec.kv_heads = kv_heads_;
      }
      // As form() says.
      for (const auto& stage : m.blocks[i].stages())
        for (Linear* l : stage) l->set_weight(float_weight(decode_weight(l->weight())));
      if (walk && !walk->in_last_block()) walk->finish_block();
      if (c.progress) c.progress(i + 1, blocks, "");
    }
    c.model.config.kv_heads = kv_heads_;
  }

 private:
  static Inputs inputs_of(CalibrationWalk& walk, int64_t d) {
    Tensor gram = Tensor::zeros({d, d}, DType::f32);
    Inputs in;
    in.sum.resize(static_cast<size_t>(d));
    walk.visit_inputs(0, [&](const Tensor& x) {
      ops::accumulate_gram(x, gram);
      in.count += double(x.dim(0));
      for (int64_t r = 0; r < x.dim(0); ++r)
        for (int64_t k = 0; k < d; ++k)
          in.sum[static_cast<size_t>(k)] += x.data<float>()[r * d + k];
    });
    // Its upper triangle is complete.
    float* g = gram.mutable_data<float>();
    for (int64_t i = 0; i < d; ++i)
      for (int64_t j = 0; j < i; ++j) g[i * d + j] = g[j * d + i];
    in.gram = pack_weight(float_weight(gram));
    return in;
  }

  void average(SoftmaxAttention& a) const {
    const int64_t group = a.spec.kv_heads / kv_heads_;
    auto mean = [&](Linear& l, int64_t dim) {
      const Rows old(l);
      Rows made(old, kv_heads_ * dim);
      for (int64_t h = 0; h < a.spec.kv_heads; ++h)
        for (int64_t r = 0; r < dim; ++r)
          made.add(h / group * dim + r, 1.0 / double(group), old, h * dim + r);
      l = made.linear(l);
    };
    mean(a.k, a.spec.k_dim);
    mean(a.v, a.spec.v_dim);
  }

  void join(SoftmaxAttention& a, const Inputs& in, uint64_t seed) const {
    const Rows q(a.q), k(a.k), v(a.v);
    Rows new_q(q, q.values.dim(0)), new_k(k, kv_heads_ * a.spec.k_dim),
        new_v(v, kv_heads_ * a.spec.v_dim);
    Tensor o = decode_weight(a.o.weight()).clone();
    for (int64_t h = 0; h < kv_heads_; ++h) {
      join_values(a.spec, h, v, energy_of(v, h, a.spec.kv_heads, in), seed, new_v, o);
      join_keys(a.spec, static_cast<int64_t>(a.rope.frequencies().size()), h, k, q,
                energy_of(k, h, a.spec.kv_heads, in), seed, new_k, new_q);
    }
    a.q = new_q.linear(a.q);
    a.k = new_k.linear(a.k);
    a.v = new_v.linear(a.v);
    a.o = Linear(a.o.name(), float_weight(o), a.o.bias());
  }

  Matrix energy_of(const Rows& r, int64_t head, int64_t kv_heads, const Inputs& in) const {
    const int64_t n = r.values.dim(0) / kv_heads * (kv_heads / kv_heads_);
    return energy(r, head * n, n, in);
  }

  void join_values(const AttentionSpec& s, int64_t head, const Rows& v, const Matrix& m,
                   uint64_t seed, Rows& made, Tensor& o) const {
    const int64_t group = s.kv_heads / kv_heads_, d = s.v_dim, per_kv = s.heads / s.kv_heads;
    const Matrix u = principal(m, d, seed);
    for (int64_t c = 0; c < d; ++c)
      for (int64_t r = 0; r < group * d; ++r)
        made.add(head * d + c, u.at(c, r), v, head * group * d + r);
    // Each old head's columns of the output projection: O_i·U_i.
    const int64_t width = o.dim(1);
    float* out = o.mutable_data<float>();
    parallel_for(o.dim(0), 16, [&](int64_t b, int64_t e) {
      std::vector<float> row(static_cast<size_t>(d));
      for (int64_t r = b; r < e; ++r)
        for (int64_t i = 0; i < group * per_kv; ++i) {
          float* at = out + r * width + (head * group * per_kv + i) * d;
          std::copy_n(at, d, row.begin());
          for (int64_t c = 0; c < d; ++c) {
            double sum = 0;
            for (int64_t j = 0; j < d; ++j)
              sum += row[static_cast<size_t>(j)] * u.at(c, i / per_kv * d + j);
            at[c] = static_cast<float>(sum);
          }
        }
    });
  }

  void join_keys(const AttentionSpec& s, int64_t pairs, int64_t head, const Rows& k, const Rows& q,
                 const Matrix& m, uint64_t seed, Rows& new_k, Rows& new_q) const {
    const int64_t group = s.kv_heads / kv_heads_, d = s.k_dim, per_kv = s.heads / s.kv_heads;
    auto old_row = [&](int64_t i) { return (head * group + i) * d; };
    for (int64_t p = 0; p < pairs; ++p) {
      const auto g = static_cast<size_t>(group);
      std::vector<Complex> h(g * g);
      for (int64_t i = 0; i < group; ++i)
        for (int64_t j = 0; j < group; ++j) {
          const int64_t ri = i * d + p, rj = j * d + p, si = ri + pairs, sj = rj + pairs;
          h[size_t(i) * g + size_t(j)] = {m.at(ri, rj) + m.at(si, sj), m.at(si, rj) - m.at(ri, sj)};
        }
      const std::vector<Complex> u = ops::principal_direction(h, group);
      for (int64_t i = 0; i < group; ++i) {
        const double re = u[size_t(i)].real(), im = u[size_t(i)].imag();
        auto turn = [&](Rows& to, int64_t to_row, const Rows& from, int64_t from_row) {
          to.add(to_row + p, re, from, from_row + p);
          to.add(to_row + p, im, from, from_row + pairs + p);
          to.add(to_row + pairs + p, re, from, from_row + pairs + p);
          to.add(to_row + pairs + p, -im, from, from_row + p);
        };
        turn(new_k, head * d, k, old_row(i));
        for (int64_t j = 0; j < per_kv; ++j) {
          const int64_t row = ((head * group + i) * per_kv + j) * d;
          turn(new_q, row, q, row);
        }
      }
    }
    const int64_t fixed = d - 2 * pairs;
    if (fixed == 0) return;
    Matrix part(group * fixed, group * fixed);
    auto place = [&](int64_t i) { return i / fixed * d + 2 * pairs + i % fixed; };
    for (int64_t i = 0; i < group * fixed; ++i)
      for (int64_t j = 0; j < group * fixed; ++j) part.at(i, j) = m.at(place(i), place(j));
    const Matrix u = principal(part, fixed, seed + 1);
    for (int64_t c = 0; c < fixed; ++c)
      for (int64_t r = 0; r < group * fixed; ++r) {
        const int64_t i = r / fixed, channel = 2 * pairs + r % fixed;
        new_k.add(head * d + 2 * pairs + c, u.at(c, r), k, old_row(i) + channel);
        for (int64_t j = 0; j < per_kv; ++j) {
          const int64_t row = ((head * group + i) * per_kv + j) * d;
          new_q.add(row + 2 * pairs + c, u.at(c, r), q, row + channel);
        }
      }
  }

  int64_t kv_heads_ = 1;
  std::string method_ = "joint";
};

}  // namespace

std::unique_ptr<Pass> make_gqa_pass() { return std::make_unique<Gqa>(); }

}  // namespace hone
