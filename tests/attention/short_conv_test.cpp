// Short convolutions against the definition in double: values, states, all gradients, bits.
#include "attention/short_conv.h"

#include <algorithm>

#include "base/error.h"
#include "gradients.h"

namespace hone {
namespace {

using namespace testing;

std::vector<float> values_of(const Tensor& t) {
  return {t.data<float>(), t.data<float>() + t.numel()};
}

// y, and then every new state; states hold W−1 rows each.
Doubles plain(const Doubles& x, const Doubles& w, const Doubles& bias, bool silu,
              const std::vector<ConvSpan>& spans, const std::vector<Doubles>& states, int64_t rows,
              int64_t c) {
  const int64_t taps = std::ssize(w) / c;
  Doubles y(static_cast<size_t>(rows * c));
  for (size_t n = 0; n < spans.size(); ++n) {
    Doubles all = states[n];
    all.insert(all.end(), x.begin() + spans[n].begin * c, x.begin() + spans[n].end * c);
    for (int64_t t = spans[n].begin; t < spans[n].end; ++t)
      for (int64_t i = 0; i < c; ++i) {
        double z = bias.empty() ? 0 : bias[i];
        for (int64_t j = 0; j < taps; ++j)
          z += w[i * taps + j] * all[(t - spans[n].begin + j) * c + i];
        y[t * c + i] = silu ? z / (1 + std::exp(-z)) : z;
      }
    y.insert(y.end(), all.end() - (taps - 1) * c, all.end());
  }
  return y;
}

Tensor joined(const ConvResult& r) {
  std::vector<Tensor> parts{r.y};
  parts.insert(parts.end(), r.states.begin(), r.states.end());
  std::vector<float> values;
  for (const Tensor& x : parts)
    values.insert(values.end(), x.data<float>(), x.data<float>() + x.numel());
  Tensor y = Tensor::from(values);
  record(y, [parts](const Tensor& dy) {
    const float* from = dy.data<float>();
    for (const Tensor& x : parts) {
      add_gradient(x, Tensor::from(std::vector<float>(from, from + x.numel()), x.shape()));
      from += x.numel();
    }
  });
  return y;
}

TEST(ShortConv, Gradients) {
  const int64_t c = 5, rows = 14;
  const std::vector<ConvSpan> spans{{0, 2, {}}, {2, 2, {}}, {3, 12, {}}};
  for (int64_t taps : {2, 4})
    for (bool silu : {false, true})
      expect_gradients(
          [&](const std::vector<Tensor>& x) {
            std::vector<ConvSpan> own = spans;
            for (size_t i = 0; i < own.size(); ++i) own[i].state = x[3 + i];
            return joined(short_conv(x[0], x[1], x[2], silu, own));
          },
          [&](const std::vector<Doubles>& x) {
            return plain(x[0], x[1], x[2], silu, spans, {x.begin() + 3, x.end()}, rows, c);
          },
          {random_tensor({rows, c}, 1), random_tensor({c, taps}, 2), random_tensor({c}, 3),
           random_tensor({taps - 1, c}, 4), random_tensor({taps - 1, c}, 5),
           random_tensor({taps - 1, c}, 6)});
}

TEST(ShortConv, StepsAndCutsGiveTheSameBits) {
  const int64_t c = 70, rows = 21;
  Tensor x = random_tensor({rows, c}, 1), w = random_tensor({c, 4}, 2),
         bias = random_tensor({c}, 3);
  const ConvResult whole = short_conv(x, w, bias, true, {{0, rows, {}}});
  std::vector<float> got;
  std::vector<ConvSpan> one{{0, 0, Tensor::zeros({3, c}, DType::f32)}};
  for (int64_t t = 0, n = 1; t < rows; t += n, n = t < 8 ? 1 : 5) {
    n = std::min(n, rows - t);
    one[0].end = n;
    const Tensor y = short_conv_step(x.rows(t, t + n), w, bias, true, one);
    got.insert(got.end(), y.data<float>(), y.data<float>() + y.numel());
  }
  EXPECT_EQ(got, values_of(whole.y));
  EXPECT_EQ(values_of(one[0].state), values_of(whole.states[0]));
}

TEST(ShortConv, TokenShift) {
  Tensor x = random_tensor({6, 3}, 1);
  const Tensor before = random_tensor({1, 3}, 2);
  const ConvResult r = token_shift(x, {{0, 2, {}}, {2, 6, before}});
  std::vector<float> want(3), rest = values_of(x);
  want.insert(want.end(), rest.begin(), rest.begin() + 3);
  want.insert(want.end(), before.data<float>(), before.data<float>() + 3);
  want.insert(want.end(), rest.begin() + 6, rest.begin() + 15);
  EXPECT_EQ(values_of(r.y), want);
  EXPECT_EQ(values_of(r.states[1]), std::vector<float>(rest.end() - 3, rest.end()));
}

TEST(ShortConv, RefusesWhatDoesNotFit) {
  Tensor x = random_tensor({6, 3}, 1), w = random_tensor({3, 4}, 2);
  EXPECT_NO_THROW(short_conv(x, w, {}, false, {{0, 6, {}}}));
  EXPECT_THROW(short_conv(x, random_tensor({4, 4}, 2), {}, false, {{0, 6, {}}}), Error);
  EXPECT_THROW(short_conv(x, w, random_tensor({4}, 2), false, {{0, 6, {}}}), Error);
  EXPECT_THROW(short_conv(x, w, {}, false, {{0, 7, {}}}), Error);
  EXPECT_THROW(short_conv(x, w, {}, false, {{0, 6, random_tensor({4, 3}, 1)}}), Error);
}

}  // namespace
}  // namespace hone
