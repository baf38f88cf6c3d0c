// What mixers keep of segments: where a sequence is cut, and that the count never grows past what a
// float holds.
#include "nn/segments.h"

#include "testing.h"

namespace hone {
namespace {

TEST(Segments, KeepTheirOwnTokensAndTheMemoryInFront) {
  const SegmentSizes sizes{8, 11};
  EXPECT_EQ(sizes.kept(0), 0);
  EXPECT_EQ(sizes.kept(7), 7);
  EXPECT_EQ(sizes.kept(8), 8);    // a segment begins, and all before it is memory
  EXPECT_EQ(sizes.kept(16), 11);  // no more than the memory holds
  EXPECT_EQ(sizes.kept(23), 18);
  for (int64_t n = 0; n < 100; ++n) EXPECT_LE(sizes.kept(n), sizes.capacity());
}

TEST(Segments, PiecesSeeTheSameKeysHoweverTheyAreCut) {
  const SegmentSizes sizes{4, 5};
  // First and last key that each token sees, by its number in the sequence.
  auto seen = [&](int64_t step) {
    std::vector<std::pair<int64_t, int64_t>> keys;
    std::vector<RecurrentState> states(1);
    KvCache none({});
    Tensor shared;
    for (int64_t at = 0; at < 30; at += step) {
      Batch batch;
      batch.append(std::vector<int32_t>(size_t(std::min<int64_t>(step, 30 - at)), 0), nullptr);
      MixerState state{none, 0, states, shared};
      const Segmented cut = cut_segments(sizes, batch, state, 0);
      EXPECT_EQ(cut.joined.back(), sizes.kept(cut.counts[0]) + batch.size());
      for (const AttentionSpan& s : cut.visible)
        for (int64_t i = s.q_begin; i < s.q_end; ++i) {
          const int64_t shift = at - (cut.joined.back() - batch.size());
          const int64_t last = s.k_end - (s.q_end - 1 - i) - 1;
          keys.emplace_back(s.k_begin + shift, last + shift);
          EXPECT_EQ(cut.places[size_t(i)], (at + i) % sizes.segment);
        }
    }
    return keys;
  };
  const auto whole = seen(30);
  for (int64_t i = 0; i < 30; ++i) {
    const int64_t begin = i - i % 4;
    EXPECT_EQ(whole[size_t(i)], std::make_pair(std::max<int64_t>(0, begin - 5), i));
  }
  for (int64_t step : {1, 3, 4, 7}) EXPECT_EQ(seen(step), whole) << step;
}

TEST(Segments, TheCountStaysSmall) {
  const SegmentSizes sizes{4, 5};
  std::vector<RecurrentState> states(1);
  KvCache none({});
  Tensor shared;
  for (int64_t n = 1; n < 200; ++n) {
    Batch batch;
    batch.append(std::vector<int32_t>(1, 0), nullptr);
    MixerState state{none, 0, states, shared};
    cut_segments(sizes, batch, state, 0);
    const auto count = static_cast<int64_t>(states[0][0].data<float>()[0]);
    EXPECT_LT(count, 12);
    EXPECT_EQ(count % 4, n % 4);
    EXPECT_EQ(sizes.kept(count), sizes.kept(n));
  }
}

}  // namespace
}  // namespace hone
