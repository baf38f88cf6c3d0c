// Batches of prefill chunks and decodes: whatever the order in which they are worked off, each
// sequence gets the bits that it gets alone.
#include <cstring>
#include <memory>
#include <numeric>

#include "attention/units.h"
#include "base/threads.h"
#include "plain_attention.h"
#include "testing.h"

namespace hone {
namespace {

using testing::attention_spec;
using testing::random_tensor;

// The last `queries` of `keys` positions.
struct Span {
  int64_t queries, keys;
};

class Hybrid {
 public:
  Hybrid(const AttentionSpec& spec, KvType type, const std::vector<Span>& lengths)
      : spec_(spec), cache_({{spec.kv_heads, spec.k_dim, spec.v_dim}}, type) {
    int64_t row = 0;
    for (const Span& x : lengths) {
      KvSequence& s = *sequences_.emplace_back(std::make_unique<KvSequence>());
      const auto seed = static_cast<uint32_t>(3 * sequences_.size());
      const Tensor k = random_tensor({x.keys, spec.kv_heads * spec.k_dim}, seed);
      const Tensor v = random_tensor({x.keys, spec.kv_heads * spec.v_dim}, seed + 1);
      const int64_t start = x.keys - x.queries;
      for (auto [from, to] : {std::pair(int64_t{0}, start), {start, x.keys}}) {
        cache_.reserve(s, to);
        cache_.write(0, s, from, to - from, k.data<float>() + from * k.dim(1),
                     v.data<float>() + from * v.dim(1));
        if (to == start) cache_.commit(s, to);
      }
      spans_.push_back({row, row + x.queries, start, &s});
      row += x.queries;
    }
    q_ = random_tensor({row, spec.heads * spec.k_dim}, 1);
  }

  Tensor run(HybridOrder order, Tensor* log_sum = nullptr) {
    return attend(spec_, q_, cache_, 0, spans_, log_sum, {}, nullptr, {order});
  }
  // Each in a call of its own.
  std::vector<float> alone() {
    std::vector<float> all;
    for (const SequenceSpan& s : spans_) {
      const SequenceSpan one{0, s.end - s.begin, s.start, s.kv};
      const Tensor o = attend(spec_, q_.rows(s.begin, s.end).clone(), cache_, 0, {one});
      all.insert(all.end(), o.data<float>(), o.data<float>() + o.numel());
    }
    return all;
  }

 private:
  AttentionSpec spec_;
  KvCache cache_;
  std::vector<std::unique_ptr<KvSequence>> sequences_;
  std::vector<SequenceSpan> spans_;
  Tensor q_;
};

constexpr HybridOrder kOrders[] = {HybridOrder::sequential, HybridOrder::one_list,
                                   HybridOrder::interleaved};

std::vector<std::vector<Span>> batches() {
  std::vector<Span> many_decodes{{9, 9}};
  for (int64_t i = 0; i < 40; ++i) many_decodes.push_back({1, 100 + 7 * i});
  return {{{100, 700}, {1, 1300}, {1, 64}, {1, 1}, {3, 900}},
          {{100, 100}, {70, 300}},
          {{1, 5}, {1, 1200}},
          many_decodes,
          {{300, 1400}, {1, 3}},
          {{1, 4000}, {9, 9}}};
}

TEST(HybridAttention, OrdersAndThreadsChangeNoBit) {
  for (auto [heads, kv_heads, pattern] :
       {std::tuple(4, 2, "causal"), {3, 3, "causal & (window(300) | sinks(4))"}, {8, 1, "all"}})
    for (const std::vector<Span>& lengths : batches()) {
      const AttentionSpec spec = attention_spec(heads, kv_heads, 16, 20, Pattern::parse(pattern));
      Hybrid batch(spec, KvType::f32, lengths);
      set_threads(1);
      const std::vector<float> expected = batch.alone();
      for (int threads : {1, 2, 3, 4}) {
        set_threads(threads);
        for (HybridOrder order : kOrders) {
          const Tensor o = batch.run(order);
          ASSERT_EQ(o.numel(), std::ssize(expected));
          EXPECT_EQ(0, std::memcmp(o.raw(), expected.data(), expected.size() * 4))
              << pattern << ", batch of " << lengths.size() << ", " << threads << " threads, order "
              << static_cast<int>(order);
        }
      }
      set_threads(0);
    }
}

TEST(HybridAttention, EveryKindOfCacheGivesTheSameBits) {
  for (KvType type : kv_types()) {
    Hybrid batch(attention_spec(4, 2, 24, 40), type, {{90, 500}, {1, 700}, {2, 130}, {1, 1}});
    const std::vector<float> expected = batch.alone();
    for (HybridOrder order : kOrders)
      EXPECT_EQ(0, std::memcmp(batch.run(order).raw(), expected.data(), expected.size() * 4))
          << kv_type_name(type) << ", order " << static_cast<int>(order);
  }
}

TEST(HybridAttention, LogSumsAreTheSameBits) {
  Hybrid batch(attention_spec(4, 2, 16, 16), KvType::f32, {{90, 500}, {1, 700}});
  Tensor a, b;
  batch.run(HybridOrder::sequential, &a);
  batch.run(HybridOrder::interleaved, &b);
  EXPECT_EQ(0, std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size())));
}

TEST(HybridAttention, RepeatedRunsGiveTheSameBits) {
  Hybrid batch(attention_spec(4, 2, 16, 16), KvType::f32, {{1, 600}, {40, 200}, {1, 700}});
  set_threads(0);
  const Tensor first = batch.run(HybridOrder::interleaved);
  for (int i = 0; i < 250; ++i)
    ASSERT_EQ(0, std::memcmp(first.raw(), batch.run(HybridOrder::interleaved).raw(),
                             static_cast<size_t>(first.byte_size())))
        << "run " << i;
}

// Each split of each unit once, in its kind's list; parts that do not overlap.
TEST(HybridAttention, WorkHoldsEveryUnitOnce) {
  const AttentionSpec spec = attention_spec(4, 2, 16, 20);
  const std::vector<SequenceSpan> spans{{0, 200, 800, nullptr}, {200, 201, 2000, nullptr}};
  const std::vector<AttentionRows> rows = plan_rows(spec, spans);
  const std::vector<AttentionUnit> units = plan_units(spec, rows);
  for (int threads : {1, 2}) {
    set_threads(threads);
    const WorkList work = plan_work(spec, units, 32);
    std::vector<int64_t> count(units.size()), floats(static_cast<size_t>(work.part_floats));
    for (bool stream : {false, true})
      for (const WorkItem& item : stream ? work.streaming : work.computing) {
        const AttentionUnit& u = units[item.unit];
        EXPECT_EQ(stream, unit_rows(spec, u) == 2);
        count[item.unit] += item.split < 0 ? std::ssize(u.rows->splits) : 1;
        if (item.split < 0) continue;
        for (int64_t i = 0; i < part_floats(unit_rows(spec, u), 20); ++i)
          EXPECT_EQ(++floats[item.at + i], 1);
      }
    for (size_t i = 0; i < units.size(); ++i)
      EXPECT_EQ(count[i], std::ssize(units[i].rows->splits)) << i;
    // 2 units of 32 tiles of 32 lines; steps of 8 units behind 13 to 16 tiles.
    EXPECT_EQ(work.pace, kernels::kFetchSeldom);
    EXPECT_EQ(plan_work(spec, units, 32 * 64).pace, kernels::kFetchOften);
  }
  set_threads(0);
  // 16 blocks of 8 rows; 2 pairs of panels times 16, and 64 keys for the one group of values.
  EXPECT_EQ(product_steps(spec, 128), 16 * (2 * 16 + 64));
}

}  // namespace
}  // namespace hone
