// What must not change a result: repeated key heads instead of shared ones, a window longer than
// the sequence, keys in parts, the order of pages, chunks, neighbours and threads; under all that a
// spec can add to the scores.
#include <cstring>

#include "base/threads.h"
#include "gradients.h"
#include "plain_attention.h"

namespace hone {
namespace {

using namespace testing;

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.numel() == b.numel() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size())) == 0;
}

// All terms at once over one sequence.
AttentionSpec rich(Pattern pattern = Pattern::causal()) {
  AttentionSpec s = attention_spec(6, 2, 16, 20, std::move(pattern));
  s.softcap = 4;
  s.alibi.slopes = alibi_slopes(6);
  return s;
}
AttentionTerms rich_terms(int64_t rows, int64_t keys) {
  return {random_tensor({6, rows, keys}, 7), random_tensor({6}, 8), 0.2f, 11};
}
struct Inputs {
  Tensor q, k, v;
  explicit Inputs(int64_t n)
      : q(random_tensor({n, 96}, 1)), k(random_tensor({n, 32}, 2)), v(random_tensor({n, 40}, 3)) {}
};

TEST(AttentionMetamorphic, SharedKeyHeadsEqualRepeatedOnes) {
  const int64_t n = 150;
  AttentionSpec shared = rich(), repeated = shared;
  repeated.kv_heads = 6;
  Inputs x(n);
  auto repeat = [&](const Tensor& t, int64_t width) {
    std::vector<float> out;
    for (int64_t r = 0; r < n; ++r)
      for (int64_t h = 0; h < 6; ++h) {
        const float* from = t.data<float>() + (r * 2 + h / 3) * width;
        out.insert(out.end(), from, from + width);
      }
    return Tensor::from(out, {n, 6 * width});
  };
  Tensor k6 = repeat(x.k, 16), v6 = repeat(x.v, 20);
  for (Tensor* t : {&x.q, &x.k, &x.v, &k6, &v6}) t->require_gradient();
  const AttentionTerms terms = rich_terms(n, n);
  const Tensor grad = random_tensor({n, 120}, 4);
  Tape tape;
  Tensor a = attention(shared, x.q, x.k, x.v, {{0, n, 0, n}}, terms);
  tape.backward(a, grad.clone());
  const Tensor dq = x.q.gradient().clone();
  x.q.require_gradient();
  Tensor b = attention(repeated, x.q, k6, v6, {{0, n, 0, n}}, terms);
  tape.backward(b, grad.clone());
  EXPECT_TRUE(same_bits(a, b));
  EXPECT_TRUE(same_bits(dq, x.q.gradient()));
  for (auto [one, six, width] : {std::tuple(&x.k, &k6, int64_t{16}), {&x.v, &v6, int64_t{20}}}) {
    std::vector<float> sums(one->numel());
    for (int64_t i = 0; i < six->numel(); ++i)
      sums[(i / width / 6 * 2 + i / width % 6 / 3) * width + i % width] +=
          six->gradient().data<float>()[i];
    EXPECT_LT(relative_distance(one->gradient().data<float>(), sums.data(), one->numel()), 2e-6);
  }
}

TEST(AttentionMetamorphic, WindowsAsLongAsTheSequenceAreCausal) {
  const int64_t n = 150;
  Inputs x(n);
  const AttentionTerms terms = rich_terms(n, n);
  Tensor causal = attention(rich(), x.q, x.k, x.v, {{0, n, 0, n}}, terms);
  for (const char* text :
       {"causal & window(150)", "band(149, 0)", "causal & band(-1, 7)", "causal & documents(150)",
        "causal & block(256)", "!(!causal | !window(150))", "causal & (window(9) | !window(9))"})
    EXPECT_TRUE(same_bits(
        causal, attention(rich(Pattern::parse(text)), x.q, x.k, x.v, {{0, n, 0, n}}, terms)))
        << text;
  EXPECT_FALSE(same_bits(causal, attention(rich(Pattern::parse("causal & window(149)")), x.q, x.k,
                                           x.v, {{0, n, 0, n}}, terms)));
}

// Packed documents are sequences of their own.
TEST(AttentionMetamorphic, DocumentsEqualSequences) {
  AttentionSpec s = attention_spec(6, 2, 16, 20);
  Inputs x(150);
  Tensor apart =
      attention(s, x.q, x.k, x.v, {{0, 40, 0, 40}, {40, 41, 40, 41}, {41, 150, 41, 150}});
  s.pattern = Pattern::causal() & Pattern::documents({0, 40, 41, 150});
  Tensor packed = attention(s, x.q, x.k, x.v, {{0, 150, 0, 150}});
  EXPECT_LT(relative_distance(packed.data<float>(), apart.data<float>(), apart.numel()), 2e-6);
}

// Keys in three parts, one of them empty for some rows; the sink in one of them.
TEST(AttentionMetamorphic, MergedPartsEqualTheWhole) {
  const int64_t n = 150;
  Inputs x(n);
  AttentionTerms with_sinks, none;
  with_sinks.sinks = random_tensor({6}, 8);
  Tensor sums, whole = attention(rich(), x.q, x.k, x.v, {{0, n, 0, n}}, with_sinks, &sums);
  Tensor o, l;
  for (const char* part :
       {"causal & prefix(30)", "causal & !prefix(30) & prefix(100)", "causal & !prefix(100)"}) {
    const bool first = o.empty_handle();
    Tensor more_l, more = attention(rich(Pattern::parse(part)), x.q, x.k, x.v, {{0, n, 0, n}},
                                    first ? with_sinks : none, &more_l);
    if (first) {
      o = more;
      l = more_l;
    } else {
      merge_attention(o, l, more, more_l);
    }
  }
  EXPECT_LT(relative_distance(o.data<float>(), whole.data<float>(), o.numel()), 2e-6);
  EXPECT_LT(relative_distance(l.data<float>(), sums.data<float>(), l.numel()), 2e-6);
  // Nothing into nothing stays nothing.
  Tensor zero = Tensor::zeros({1, 20}, DType::f32),
         minus = Tensor::from(std::vector<float>{-INFINITY}, {1, 1});
  Tensor zero2 = zero.clone(), minus2 = minus.clone();
  merge_attention(zero, minus, zero2, minus2);
  EXPECT_EQ(minus.data<float>()[0], -INFINITY);
  EXPECT_EQ(zero.data<float>()[0], 0);
  EXPECT_THROW(merge_attention(zero, minus, whole, sums), Error);
}

// attend() in chunks over pages in any order, beside neighbours, with 1 and 2 threads.
TEST(AttentionMetamorphic, ChunksPagesNeighboursAndThreadsChangeNoBit) {
  const int64_t n = 700;
  const AttentionSpec s = rich(Pattern::parse("causal & (window(300) | prefix(5))"));
  Inputs x(n);
  const AttentionTerms terms = rich_terms(n, n);
  auto rows_of = [&](int64_t begin, int64_t end) {
    AttentionTerms part = terms;
    std::vector<float> bias;
    for (int64_t h = 0; h < 6; ++h) {
      const float* from = terms.bias.data<float>() + (h * n + begin) * n;
      bias.insert(bias.end(), from, from + (end - begin) * n);
    }
    part.bias = Tensor::from(bias, {6, end - begin, n});
    return part;
  };
  auto write = [&](KvCache& cache, KvSequence& kv, bool backwards) {
    cache.reserve(kv, n);
    if (backwards) std::ranges::reverse(kv.pages[0]);
    cache.write(0, kv, 0, n, x.k.data<float>(), x.v.data<float>());
  };
  Tensor whole_sums, whole = attention(s, x.q, x.k, x.v, {{0, n, 0, n}}, terms, &whole_sums);
  for (int threads : {1, 2}) {
    set_threads(threads);
    KvCache cache({{2, 16, 20}});
    KvSequence kv;
    write(cache, kv, true);
    for (auto [begin, end] : {std::pair(0, 700), {0, 130}, {130, 640}, {640, 699}, {699, 700}}) {
      Tensor sums, o = attend(s, x.q.rows(begin, end), cache, 0, {{0, end - begin, begin, &kv}},
                              &sums, rows_of(begin, end));
      EXPECT_TRUE(same_bits(o, whole.rows(begin, end))) << begin << ", " << threads << " threads";
      EXPECT_TRUE(same_bits(sums, whole_sums.rows(begin, end))) << begin;
    }
  }
  set_threads(0);
  // A neighbour behind it: dropout goes by the span's index.
  KvCache cache({{2, 16, 20}});
  KvSequence kv, other;
  write(cache, kv, false);
  write(cache, other, true);
  Tensor o = attend(s, x.q, cache, 0, {{0, 400, 0, &kv}, {400, 700, 400, &other}}, nullptr, terms);
  EXPECT_TRUE(same_bits(o.rows(0, 400), whole.rows(0, 400)));
  EXPECT_FALSE(same_bits(o.rows(400, 700), whole.rows(400, 700)));
}

}  // namespace
}  // namespace hone
