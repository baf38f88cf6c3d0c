// Infini-attention's memory against plain sums in double, and its gradients.
#include "attention/compressive_memory.h"

#include "gradients.h"

namespace hone {
namespace {

using namespace testing;

constexpr size_t kHeads = 2, kKey = 3, kValue = 4, kRows = 5;

// Positive, as feature maps give them.
Tensor features(const Shape& shape, uint32_t seed) {
  Tensor t = random_tensor(shape, seed);
  for (int64_t i = 0; i < t.numel(); ++i)
    t.mutable_data<float>()[i] = 0.1f + std::fabs(t.data<float>()[i]);
  return t;
}

TEST(CompressiveMemory, ReadsAMeanOfWhatKeysBrought) {
  expect_gradients([](const std::vector<Tensor>& x) { return read_memory(x[0], 1, 4, x[1]); },
                   [](const std::vector<Doubles>& x) {
                     Doubles y(3 * kHeads * kValue);
                     for (size_t i = 0; i < 3 * kHeads; ++i) {
                       const size_t h = i % kHeads;
                       double sum = 1e-6;
                       for (size_t c = 0; c < kKey; ++c) {
                         const double q = x[0][(kHeads + i) * kKey + c];
                         const double* m = &x[1][(h * kKey + c) * (kValue + 1)];
                         for (size_t j = 0; j < kValue; ++j) y[i * kValue + j] += q * m[j];
                         sum += q * m[kValue];
                       }
                       for (size_t j = 0; j < kValue; ++j) y[i * kValue + j] /= sum;
                     }
                     return y;
                   },
                   {features({kRows, kHeads * kKey}, 1), features({kHeads, kKey, kValue + 1}, 2)});
}

TEST(CompressiveMemory, AddsKeysTimesValues) {
  expect_gradients(
      [](const std::vector<Tensor>& x) { return write_memory(x[0], x[1], 1, 4, x[2]); },
      [](const std::vector<Doubles>& x) {
        Doubles y = x[0];
        for (size_t t = 0; t < 3; ++t)
          for (size_t h = 0; h < kHeads; ++h)
            for (size_t c = 0; c < kKey; ++c) {
              const double k = x[1][((t + 1) * kHeads + h) * kKey + c];
              double* m = &y[(h * kKey + c) * (kValue + 1)];
              for (size_t j = 0; j < kValue; ++j) m[j] += k * x[2][(t * kHeads + h) * kValue + j];
              m[kValue] += k;
            }
        return y;
      },
      {random_tensor({kHeads, kKey, kValue + 1}, 3), features({kRows, kHeads * kKey}, 1),
       random_tensor({3, kHeads * kValue}, 2)});
}

TEST(CompressiveMemory, AnswersNothingBeforeAnythingIsWritten) {
  const Tensor empty = Tensor::zeros({kHeads, kKey, kValue + 1}, DType::f32);
  const Tensor y = read_memory(features({kRows, kHeads * kKey}, 1), 0, kRows, empty);
  for (int64_t i = 0; i < y.numel(); ++i) EXPECT_EQ(y.data<float>()[i], 0);
}

}  // namespace
}  // namespace hone
