// The attention kernel of every table that this CPU can run, against kernels/ref: every form of
// page, odd sizes, rows that see little or nothing; and parts that are merged.
#include <algorithm>
#include <cstring>

#include "kernels/ref/ref.h"
#include "kernels/select.h"
#include "tensor/dtype.h"
#include "testing.h"

namespace hone::kernels {
namespace {

using testing::random_values;

class AttentionKernelTest : public ::testing::TestWithParam<const KernelTable*> {
 protected:
  const KernelTable& k() const { return *GetParam(); }
};

int64_t up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Tiles whose keys and values are known as plain rows too.
struct Tiles {
  int64_t tiles, d, dv;
  std::vector<float> keys, values;  // [tiles·64, d], [tiles·64, dv]
  std::vector<std::vector<uint8_t>> k_pages, v_pages;
  std::vector<KvTile> list;
};

float f16_bits(uint16_t bits) { return to_f32(f16{bits}); }

// A float page of one tile.
template <typename T, typename Narrow>
void fill_float(Tiles& t, int form, Narrow narrow) {
  for (int64_t i = 0; i < t.tiles; ++i) {
    std::vector<T> k(static_cast<size_t>(64 * t.d)), v(static_cast<size_t>(64 * up(t.dv, 32)));
    for (int64_t j = 0; j < 64; ++j) {
      float* key = &t.keys[(i * 64 + j) * t.d];
      float* value = &t.values[(i * 64 + j) * t.dv];
      for (int64_t c = 0; c < t.d; ++c) narrow(key[c], k[(j / 16 * t.d + c) * 16 + j % 16]);
      for (int64_t c = 0; c < t.dv; ++c) narrow(value[c], v[(c / 32 * 64 + j) * 32 + c % 32]);
    }
    auto bytes = [](const std::vector<T>& x) {
      auto* at = reinterpret_cast<const uint8_t*>(x.data());
      return std::vector<uint8_t>(at, at + x.size() * sizeof(T));
    };
    t.k_pages.push_back(bytes(k));
    t.v_pages.push_back(bytes(v));
  }
  for (int64_t i = 0; i < t.tiles; ++i)
    t.list.push_back({t.k_pages[i].data(), t.v_pages[i].data(), form});
}

// Random codes, scales and mins; keys and values become what they stand for.
void fill_codes(Tiles& t, int bits) {
  std::mt19937 random(5);
  const int64_t dp = up(t.d, 16), groups = up(t.dv, 32) / 32;
  auto half = [&](double low, double high) {
    return to_f16(float(low + (high - low) * (random() % 1000) / 1000)).bits;
  };
  for (int64_t i = 0; i < t.tiles; ++i) {
    std::vector<uint16_t> kg(2 * dp), vg(2 * groups * 64);
    for (int64_t c = 0; c < t.d; ++c) {
      kg[c] = half(0.1, 0.3);
      kg[dp + c] = half(-2, 0);
    }
    for (int64_t c = 0; c < groups * 64; ++c) {
      vg[c] = half(0.05, 0.1);
      vg[groups * 64 + c] = half(-1, 1);
    }
    std::vector<uint8_t> kc(64 * t.d * bits / 8), vc(64 * groups * 32 * bits / 8);
    const int levels = bits == 8 ? 20 : 16;  // small scores, so that no key takes all
    for (int64_t j = 0; j < 64; ++j) {
      for (int64_t c = 0; c < t.d; ++c) {
        auto code = static_cast<uint8_t>(random() % levels);
        int64_t panel = j / 16, lane = j % 16;
        if (bits == 8)
          kc[(panel * t.d + c) * 16 + lane] = code;
        else
          kc[(panel / 2 * t.d + c) * 16 + lane] |= static_cast<uint8_t>(code << (panel % 2 * 4));
        t.keys[(i * 64 + j) * t.d + c] = f16_bits(kg[c]) * code + f16_bits(kg[dp + c]);
      }
      for (int64_t c = 0; c < t.dv; ++c) {
        auto code = static_cast<uint8_t>(random() % levels);
        int64_t unit = c / 32 * 64 + j, at = c % 32;
        if (bits == 8)
          vc[unit * 32 + at] = code;
        else
          vc[unit * 16 + at % 16] |= static_cast<uint8_t>(code << (at / 16 * 4));
        t.values[(i * 64 + j) * t.dv + c] =
            f16_bits(vg[unit]) * code + f16_bits(vg[groups * 64 + unit]);
      }
    }
    auto page = [](const std::vector<uint16_t>& grid, const std::vector<uint8_t>& codes) {
      std::vector<uint8_t> bytes(grid.size() * 2 + codes.size());
      std::memcpy(bytes.data(), grid.data(), grid.size() * 2);
      std::copy(codes.begin(), codes.end(), bytes.begin() + grid.size() * 2);
      return bytes;
    };
    t.k_pages.push_back(page(kg, kc));
    t.v_pages.push_back(page(vg, vc));
  }
  for (int64_t i = 0; i < t.tiles; ++i)
    t.list.push_back({t.k_pages[i].data(), t.v_pages[i].data(), bits == 8 ? kKvInt8 : kKvInt4});
}

float fp8_value(int form, uint8_t code) {
  return form == kKvE4m3 ? to_f32(f8_e4m3{code}) : to_f32(f8_e5m2{code});
}

// Codes that `code(tile, key, channel, is_key)` gives, with scales that are no powers of two.
template <typename Code>
void fill_fp8(Tiles& t, int form, Code code) {
  for (int64_t i = 0; i < t.tiles; ++i) {
    const float scales[] = {0.3f + 0.1f * float(i), 0.7f - 0.1f * float(i)};
    std::vector<uint8_t> k(32 + 64 * t.d), v(32 + 64 * up(t.dv, 32));
    std::memcpy(k.data(), &scales[0], 4);
    std::memcpy(v.data(), &scales[1], 4);
    for (int64_t j = 0; j < 64; ++j) {
      for (int64_t c = 0; c < t.d; ++c) {
        const uint8_t x = k[32 + (j / 32 * t.d + c) * 32 + j % 32] = code(i, j, c, true);
        t.keys[(i * 64 + j) * t.d + c] = scales[0] * fp8_value(form, x);
      }
      for (int64_t c = 0; c < t.dv; ++c) {
        const uint8_t x = v[32 + (c / 32 * 64 + j) * 32 + c % 32] = code(i, j, c, false);
        t.values[(i * 64 + j) * t.dv + c] = scales[1] * fp8_value(form, x);
      }
    }
    t.k_pages.push_back(k);
    t.v_pages.push_back(v);
  }
  for (int64_t i = 0; i < t.tiles; ++i)
    t.list.push_back({t.k_pages[i].data(), t.v_pages[i].data(), form});
}

Tiles make_tiles(int form, int64_t tiles, int64_t d, int64_t dv) {
  Tiles t{tiles, d,  dv, random_values(tiles * 64 * d, 10, 2), random_values(tiles * 64 * dv, 11),
          {},    {}, {}};
  if (form == kKvF32)
    fill_float<float>(t, form, [](float& x, float& to) { to = x; });
  else if (form == kKvBf16)
    fill_float<uint16_t>(t, form, [](float& x, uint16_t& to) {
      to = to_bf16(x).bits;
      x = to_f32(bf16{to});
    });
  else if (form == kKvF16)
    fill_float<uint16_t>(t, form, [](float& x, uint16_t& to) {
      to = to_f16(x).bits;
      x = to_f32(f16{to});
    });
  else if (form == kKvInt8 || form == kKvInt4)
    fill_codes(t, form == kKvInt8 ? 8 : 4);
  else {
    std::mt19937 random(5);  // up to 2 of either sign
    fill_fp8(t, form, [&](auto...) { return uint8_t(random() % 65 | random() % 2 << 7); });
  }
  return t;
}

// Buffers of a call over some rows.
struct Call {
  std::vector<int64_t> q_offset, o_offset;
  std::vector<float> part, scratch;
  AttentionArgs a{};

  Call(const std::vector<float>& q, const Tiles& t, const std::vector<uint64_t>& masks,
       int64_t rows, float softcap) {
    for (int64_t r = 0; r < rows; ++r) {
      q_offset.push_back(r * t.d);
      o_offset.push_back(r * t.dv);
    }
    const int64_t dv = up(t.dv, 32), d = up(t.d, 16);
    part.assign(static_cast<size_t>(rows * (dv + 2)), NAN);
    scratch.assign(static_cast<size_t>(rows * (2 * d + 2 * 64 + 32) + 64 * (d + dv) + 32), NAN);
    a.q = q.data();
    a.q_offset = q_offset.data();
    a.tile = t.list.data();
    a.masks = masks.data();
    a.rows = rows;
    a.tiles = t.tiles;
    a.d = t.d;
    a.dv = t.dv;
    a.scale = 0.3f;
    a.softcap = softcap;
    a.part = {part.data(), part.data() + rows * dv, part.data() + rows * (dv + 1)};
    a.scratch = scratch.data();
  }
};

std::vector<uint64_t> some_masks(int64_t tiles, int64_t rows) {
  std::vector<uint64_t> masks(static_cast<size_t>(tiles * rows));
  std::mt19937_64 random(12);
  for (auto& m : masks) m = random() & random();
  for (int64_t t = 0; t < tiles; ++t) {
    masks[t * rows] = ~uint64_t{0};
    if (rows <= 3) continue;
    masks[t * rows + 2] = 0;                          // a row that sees nothing
    masks[t * rows + 3] = t == 1 ? ~uint64_t{0} : 0;  // a row with empty tiles
  }
  return masks;
}

const KvForm kForms[] = {kKvF32, kKvBf16, kKvF16, kKvInt8, kKvInt4, kKvE4m3, kKvE5m2};

TEST_P(AttentionKernelTest, EqualsReferenceOnEveryFormAndSkipsMaskedKeys) {
  for (KvForm form : kForms)
    for (int64_t d : {8, 64, 80})
      for (int64_t rows : {1, 3, 8, 21}) {
        const float softcap = d == 8 ? 20 : 0;
        const int64_t dv = d + 8, keys = 3 * 64;
        Tiles t = make_tiles(form, 3, d, dv);
        auto q = random_values(rows * d, 9, 0.5f);
        auto masks = some_masks(3, rows);
        Call call(q, t, masks, rows, softcap);
        std::vector<float> o(rows * dv, NAN), expected(dv);
        k().attention(&call.a);
        k().attention_finish(rows, dv, call.a.part, call.o_offset.data(), o.data());
        for (int64_t r = 0; r < rows; ++r) {
          std::vector<char> seen(keys);
          for (int64_t j = 0; j < keys; ++j) seen[j] = (masks[j / 64 * rows + r] >> (j % 64)) & 1;
          ref::attention_row(&q[r * d], t.keys.data(), t.values.data(),
                             reinterpret_cast<bool*>(seen.data()), keys, d, dv, 0.3f, softcap,
                             expected.data());
          for (int64_t c = 0; c < dv; ++c)
            ASSERT_NEAR(o[r * dv + c], expected[c], 2e-5)
                << "form " << form << ", d " << d << ", row " << r << " of " << rows;
        }
      }
}

// Each code alone: a query that sees one key gives its value, and one channel of keys its score.
// Few rows read the codes, many an expansion of them.
TEST_P(AttentionKernelTest, EveryFiniteFp8CodeIsReadExactly) {
  for (int form : {kKvE4m3, kKvE5m2})
    for (int64_t rows : {1, 64}) {
      const int64_t d = 16, dv = 64;
      Tiles t{1, d, dv, std::vector<float>(64 * d), std::vector<float>(64 * dv), {}, {}, {}};
      auto finite = [&](int64_t code) {
        return std::isfinite(fp8_value(form, uint8_t(code))) ? uint8_t(code) : uint8_t{0};
      };
      // Channel c of key j has code 16j + c, keys 16 … 63 those of key j % 16; values likewise.
      fill_fp8(t, form, [&](int64_t, int64_t j, int64_t c, bool is_key) {
        return is_key ? finite((16 * j + c) % 256) : finite((64 * j + c) % 256);
      });
      for (int64_t first = 0; first < 64; first += rows) {
        std::vector<float> q(rows * d), o(rows * dv);
        std::vector<uint64_t> masks(rows);
        for (int64_t r = 0; r < rows; ++r) {
          q[r * d + (first + r) % d] = 1;
          masks[r] = uint64_t{1} << (first + r);
        }
        Call call(q, t, masks, rows, 0);
        k().attention(&call.a);
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t j = first + r;
          // Scores are in base 2; the kernel folds scale and log2 e into the query.
          const float score = 0.3f * 1.44269504088896341f * t.keys[j * d + j % d];
          ASSERT_NEAR(call.a.part.top[r], score, 3e-7 * std::fabs(score)) << form << " key " << j;
        }
        k().attention_finish(rows, dv, call.a.part, call.o_offset.data(), o.data());
        for (int64_t i = 0; i < rows * dv; ++i)
          ASSERT_EQ(o[i], t.values[first * dv + i]) << "form " << form << ", value " << i;
      }
    }
}

// Few rows read a page as it is, many an expanded one; both in blocks of different sizes.
TEST_P(AttentionKernelTest, NeighboursChangeNoBitOfARow) {
  for (KvForm form : kForms) {
    const int64_t d = 40, dv = 36, rows = 23;
    Tiles t = make_tiles(form, 3, d, dv);
    auto q = random_values(rows * d, 9, 0.5f);
    auto masks = some_masks(3, rows);
    Call all(q, t, masks, rows, 0);
    std::vector<float> o(rows * dv), one(dv);
    k().attention(&all.a);
    k().attention_finish(rows, dv, all.a.part, all.o_offset.data(), o.data());
    for (int64_t r = 0; r < rows; ++r) {
      std::vector<float> alone(q.begin() + r * d, q.begin() + (r + 1) * d);
      std::vector<uint64_t> mask;
      for (int64_t i = 0; i < 3; ++i) mask.push_back(masks[i * rows + r]);
      Call call(alone, t, mask, 1, 0);
      k().attention(&call.a);
      k().attention_finish(1, dv, call.a.part, call.o_offset.data(), one.data());
      ASSERT_EQ(0, std::memcmp(one.data(), &o[r * dv], dv * 4)) << "form " << form << " row " << r;
    }
  }
}

// ALiBi in every order and sign, a bias that ends inside the last tile, dropout.
TEST_P(AttentionKernelTest, TermsEqualReference) {
  const int64_t d = 24, dv = 40, rows = 11, keys = 2 * 64 + 37;
  Tiles t = make_tiles(kKvF32, 3, d, dv);
  auto q = random_values(rows * d, 9, 0.5f), bias = random_values(rows * keys, 13);
  auto slope = random_values(rows, 14, 0.1f);
  auto masks = some_masks(3, rows), keep = masks;
  std::mt19937_64 random(15);
  for (auto& bits : keep) bits = random() | random();
  for (int64_t r = 0; r < rows; ++r) masks[2 * rows + r] &= (uint64_t{1} << 37) - 1;
  std::vector<int64_t> query, bias_offset, tile_key{0, 64, 128};
  for (int64_t r = 0; r < rows; ++r) {
    query.push_back(60 + 7 * r);
    bias_offset.push_back(r * keys);
  }
  for (int flags = 0; flags < 32; ++flags) {
    Call call(q, t, masks, rows, flags & 1 ? 4.0f : 0.0f);
    ScoreTerms& x = call.a.terms;
    if (flags & 2) x.slope = slope.data();
    x.query = query.data();
    x.alibi_signed = flags & 4 ? 1 : 0;
    x.alibi_first = flags & 8 ? 1 : 0;
    if (flags & 16) {
      x.bias = bias.data();
      x.bias_offset = bias_offset.data();
      call.a.keep = keep.data();
      x.keep_factor = 4 / 3.0f;
    }
    x.keys = keys;
    call.a.tile_key = tile_key.data();
    std::vector<float> o(rows * dv, NAN), expected(dv);
    k().attention(&call.a);
    k().attention_finish(rows, dv, call.a.part, call.o_offset.data(), o.data());
    for (int64_t r = 0; r < rows; ++r) {
      std::vector<char> seen(3 * 64);
      std::vector<float> before(3 * 64), behind(3 * 64), factor(3 * 64, 1);
      for (int64_t j = 0; j < keys; ++j) {
        seen[j] = (masks[j / 64 * rows + r] >> (j % 64)) & 1;
        const auto far = static_cast<float>(j - query[r]);
        const float alibi = x.slope ? slope[r] * (x.alibi_signed ? far : -std::fabs(far)) : 0;
        (x.alibi_first ? before : behind)[j] = alibi;
        if (x.bias) behind[j] += bias[r * keys + j];
        if (call.a.keep) factor[j] = keep[j / 64 * rows + r] >> (j % 64) & 1 ? x.keep_factor : 0;
      }
      ref::attention_row(&q[r * d], t.keys.data(), t.values.data(),
                         reinterpret_cast<bool*>(seen.data()), 3 * 64, d, dv, 0.3f, call.a.softcap,
                         expected.data(), {before.data(), behind.data(), factor.data()});
      for (int64_t c = 0; c < dv; ++c)
        ASSERT_NEAR(o[r * dv + c], expected[c], 3e-5) << "flags " << flags << ", row " << r;
    }
  }
}

TEST_P(AttentionKernelTest, MergedPartsEqualTheWhole) {
  const int64_t d = 24, dv = 40, rows = 5;
  Tiles t = make_tiles(kKvF32, 4, d, dv);
  auto q = random_values(rows * d, 9, 3);
  auto masks = some_masks(4, rows);
  Call whole(q, t, masks, rows, 0);
  std::vector<float> expected(rows * dv), o(rows * dv);
  k().attention(&whole.a);
  k().attention_finish(rows, dv, whole.a.part, whole.o_offset.data(), expected.data());
  // One tile each; the first has none.
  Call total(q, t, masks, rows, 0);
  total.a.tiles = 0;
  k().attention(&total.a);
  for (int64_t i = 0; i < 4; ++i) {
    Call part(q, t, masks, rows, 0);
    part.a.tile += i;
    part.a.masks += i * rows;
    part.a.tiles = 1;
    k().attention(&part.a);
    k().attention_merge(rows, dv, total.a.part, part.a.part);
  }
  k().attention_finish(rows, dv, total.a.part, total.o_offset.data(), o.data());
  for (size_t i = 0; i < o.size(); ++i) ASSERT_NEAR(o[i], expected[i], 2e-6) << i;
}

// Some tiles at a time, with other memory fetched meanwhile.
TEST_P(AttentionKernelTest, CallsThatGoOnAndFetchChangeNoBit) {
  // More lines than all calls fetch.
  constexpr int64_t kLines = 6000;
  const std::vector<float> other(16 * (kLines + 40));
  for (KvForm form : kForms)
    for (int64_t rows : {1, 21})
      for (FetchPace pace : {kFetchOften, kFetchSeldom}) {
        const int64_t d = 24, dv = 40;
        Tiles t = make_tiles(form, 3, d, dv);
        auto q = random_values(rows * d, 9, 0.5f);
        auto masks = some_masks(3, rows);
        Call whole(q, t, masks, rows, 0), parts(q, t, masks, rows, 0);
        k().attention(&whole.a);
        const LineRun runs[] = {{other.data(), 3}, {other.data() + 16 * 7, kLines}};
        FetchQueue queue{runs, 2, 0, pace};
        int64_t before = 0;
        for (int64_t i = 0; i < 3; ++i) {
          parts.a.first = i;
          parts.a.tiles = i + 1;
          parts.a.more = 2 - i;
          parts.a.fetch = &queue;
          k().attention(&parts.a);
          const int64_t fetched = queue.runs == 2   ? queue.done
                                  : queue.runs == 1 ? 3 + queue.done
                                                    : 3 + kLines;
          EXPECT_GT(fetched, before);
          // Of both pairs of panels and both groups, for each block of rows.
          EXPECT_LE(fetched - before, rows * (2 * (d / pace) + 2 * (64 / pace)));
          before = fetched;
        }
        EXPECT_EQ(whole.part, parts.part) << "form " << form << ", " << rows << " rows";
      }
}

TEST_P(AttentionKernelTest, ANanComesOutAsOne) {
  for (auto [in_key, softcap] : {std::pair(true, 0.0f), {true, 20.0f}, {false, 0.0f}}) {
    Tiles t = make_tiles(kKvF32, 1, 16, 32);
    (in_key ? t.keys : t.values)[7] = NAN;
    t.k_pages.clear();
    t.v_pages.clear();
    t.list.clear();
    fill_float<float>(t, kKvF32, [](float& x, float& to) { to = x; });
    auto q = random_values(16, 9, 1);
    std::vector<uint64_t> all{~uint64_t{0}};
    Call call(q, t, all, 1, softcap);
    std::vector<float> o(32);
    k().attention(&call.a);
    k().attention_finish(1, 32, call.a.part, call.o_offset.data(), o.data());
    EXPECT_TRUE(std::isnan(o[7])) << in_key << " " << softcap;
  }
}

INSTANTIATE_TEST_SUITE_P(AllIsas, AttentionKernelTest, ::testing::ValuesIn(available_tables()),
                         [](const auto& p) { return std::string(p.param->isa); });

}  // namespace
}  // namespace hone::kernels
