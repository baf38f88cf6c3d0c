#include "attention/kv_page.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string>

#include "attention/fp8_page.h"
#include "base/checked.h"
#include "tensor/dtype.h"

namespace hone {
namespace {

using kernels::kPageKeys;
using kernels::kPanel;
using kernels::kValueGroup;

struct TypeInfo {
  KvType type;
  std::string_view name;
  int bits;
  kernels::KvForm form;
};
constexpr TypeInfo kTypes[] = {{KvType::f32, "f32", 32, kernels::kKvF32},
                               {KvType::bf16, "bf16", 16, kernels::kKvBf16},
                               {KvType::f16, "f16", 16, kernels::kKvF16},
                               {KvType::fp8_e4m3, "fp8_e4m3", 8, kernels::kKvE4m3},
                               {KvType::fp8_e5m2, "fp8_e5m2", 8, kernels::kKvE5m2},
                               {KvType::int8, "int8", 8, kernels::kKvInt8},
                               {KvType::int4, "int4", 4, kernels::kKvInt4}};

const TypeInfo& info(KvType type) { return kTypes[static_cast<int>(type)]; }

bool is_fp8(KvType type) { return type == KvType::fp8_e4m3 || type == KvType::fp8_e5m2; }

int64_t groups_of(KvPageShape s) { return ceil_div(s.v_dim, kValueGroup); }

// Calls body with a value of the storage type of a float page.
template <typename F>
void visit_float(KvType type, F body) {
  if (type == KvType::f32)
    body(float{});
  else if (type == KvType::bf16)
    body(bf16{});
  else
    body(f16{});
}
void narrow(float x, float* to) { *to = x; }
void narrow(float x, bf16* to) { *to = to_bf16(x); }
void narrow(float x, f16* to) { *to = to_f16(x); }

// Where position `slot` and channel c stand in the f32 page's K, and in its V.
int64_t key_at(KvPageShape s, int64_t slot, int64_t c) {
  return (slot / kPanel * s.k_dim + c) * kPanel + slot % kPanel;
}
int64_t value_at(int64_t slot, int64_t c) {
  return (c / kValueGroup * kPageKeys + slot) * kValueGroup + c % kValueGroup;
}

// The nearest f16 that is not above x; finite x only.
f16 f16_below(float x) {
  f16 near = to_f16(x);
  if (to_f32(near) <= x) return near;
  if ((near.bits & 0x7fff) == 0) return {0x8001};
  near.bits = static_cast<uint16_t>(near.bits & 0x8000 ? near.bits + 1 : near.bits - 1);
  return near;
}
f16 negated(f16 x) { return {static_cast<uint16_t>(x.bits ^ 0x8000)}; }

// value = scale·code + min over codes 0 … levels, with both as f16: the minimum rounded down and
// the scale up, so that both ends are within half a step.
struct Grid {
  f16 scale_bits, min_bits;
  float scale = 0, min = 0, inverse = 0, levels = 0;

  Grid(float low, float high, int levels_) : levels(static_cast<float>(levels_)) {
    constexpr float kMost = 65504;
    // Not finite: every value of the group comes out as NaN.
    const bool finite = std::isfinite(high - low);
    min_bits = finite ? f16_below(std::clamp(low, -kMost, kMost)) : to_f16(NAN);
    min = to_f32(min_bits);
    const float step = std::clamp((high - min) / levels, 0.0f, kMost);
    scale_bits = finite ? negated(f16_below(-step)) : to_f16(NAN);
    scale = to_f32(scale_bits);
    inverse = finite && scale > 0 ? 1 / scale : 0;
  }
  uint8_t code(float x) const {
    float c = (x - min) * inverse;
    return c > 0 ? static_cast<uint8_t>(std::min(c, levels) + 0.5f) : uint8_t{0};
  }
};

// Finds the grid of 64 or 32 values; a NaN among them makes the range one.
template <typename At>
Grid fit(int n, int levels, At at) {
  float low = at(0), high = low, sum = 0;
  for (int i = 0; i < n; ++i) {
    float x = at(i);
    low = std::min(low, x);
    high = std::max(high, x);
    sum += x * 0;
  }
  return Grid(low + sum, high, levels);
}

// The parts of a coded page.
template <typename Byte>
struct Coded {
  Byte *scales, *mins, *codes;
  Coded(Byte* page, int64_t groups)
      : scales(page), mins(page + 2 * groups), codes(page + 4 * groups) {}
};

void put_f16(std::byte* plane, int64_t i, f16 x) { std::memcpy(plane + 2 * i, &x.bits, 2); }
float get_f16(const std::byte* plane, int64_t i) {
  f16 x;
  std::memcpy(&x.bits, plane + 2 * i, 2);
  return to_f32(x);
}

// The byte of code `i` of unit `unit` (16 codes, or 32 as two halves) and its shift.
struct CodePlace {
  int64_t byte;
  int shift;
};
// Codes of 16 keys of one channel: panels of their own with 8 bits, pairs of panels with 4.
CodePlace key_code(int bits, KvPageShape s, int64_t slot, int64_t c) {
  int64_t panel = slot / kPanel, lane = slot % kPanel;
  if (bits == 8) return {(panel * s.k_dim + c) * kPanel + lane, 0};
  return {(panel / 2 * s.k_dim + c) * kPanel + lane, static_cast<int>(panel % 2) * 4};
}
CodePlace value_code(int bits, int64_t slot, int64_t c) {
  int64_t unit = c / kValueGroup * kPageKeys + slot, i = c % kValueGroup;
  if (bits == 8) return {unit * kValueGroup + i, 0};
  return {unit * kPanel + i % kPanel, static_cast<int>(i / kPanel) * 4};
}
void put_code(std::byte* codes, CodePlace p, uint8_t code) {
  codes[p.byte] |= static_cast<std::byte>(code << p.shift);
}
float get_code(const std::byte* codes, CodePlace p, int bits) {
  return static_cast<float>(static_cast<int>(codes[p.byte]) >> p.shift & ((1 << bits) - 1));
}

}  // namespace

std::span<const KvType> kv_types() {
  static constexpr std::array kAll{KvType::f32,      KvType::bf16, KvType::f16, KvType::fp8_e4m3,
                                   KvType::fp8_e5m2, KvType::int8, KvType::int4};
  return kAll;
}

std::string_view kv_type_name(KvType type) { return info(type).name; }

KvType kv_type_from_name(std::string_view name) {
  if (name == "fp8") return KvType::fp8_e4m3;
  for (const TypeInfo& t : kTypes)
    if (t.name == name) return t.type;
  fail(ErrorKind::invalid_argument, "KV cache type '{}': expected {} or fp8 (fp8_e4m3)", name,
       kv_type_list());
}

std::string kv_type_list() {
  std::string list;
  for (const TypeInfo& t : kTypes) list += (list.empty() ? "" : ", ") + std::string(t.name);
  return list;
}

bool kv_is_coded(KvType type) { return info(type).bits <= 8; }
kernels::KvForm kv_form(KvType type) { return info(type).form; }

int64_t k_page_bytes(KvType type, KvPageShape s) {
  int64_t grids = kv_is_coded(type) ? 4 * round_up(s.k_dim, kPanel) : 0;
  if (is_fp8(type)) grids = kernels::kScaleBytes;
  return grids + kPageKeys * s.k_dim * info(type).bits / 8;
}

int64_t v_page_bytes(KvType type, KvPageShape s) {
  int64_t grids = kv_is_coded(type) ? 4 * groups_of(s) * kPageKeys : 0;
  if (is_fp8(type)) grids = kernels::kScaleBytes;
  return grids + kPageKeys * groups_of(s) * kValueGroup * info(type).bits / 8;
}

void write_position(KvType type, KvPageShape s, int64_t slot, const float* key, const float* value,
                    std::byte* k_page, std::byte* v_page) {
  visit_float(type, [&](auto t) {
    using T = decltype(t);
    auto* k = reinterpret_cast<T*>(k_page) + key_at(s, slot, 0);
    for (int64_t c = 0; c < s.k_dim; ++c) narrow(key[c], k + c * kPanel);
    for (int64_t c = 0; c < s.v_dim; c += kValueGroup) {
      auto* v = reinterpret_cast<T*>(v_page) + value_at(slot, c);
      for (int64_t i = 0; i < std::min<int64_t>(kValueGroup, s.v_dim - c); ++i)
        narrow(value[c + i], v + i);
    }
  });
}

void forget_positions(KvType type, KvPageShape s, int64_t slot, std::byte* v_page) {
  const int64_t item = info(type).bits / 8;
  for (int64_t g = 0; g < groups_of(s); ++g)
    std::memset(v_page + value_at(slot, g * kValueGroup) * item, 0,
                static_cast<size_t>((kPageKeys - slot) * kValueGroup * item));
}

void encode_page(KvType type, KvPageShape s, const float* k, const float* v, std::byte* k_page,
                 std::byte* v_page) {
  const int bits = info(type).bits, levels = (1 << bits) - 1;
  std::memset(k_page, 0, static_cast<size_t>(k_page_bytes(type, s)));
  std::memset(v_page, 0, static_cast<size_t>(v_page_bytes(type, s)));
  if (is_fp8(type)) return encode_fp8_page(type, s, k, v, k_page, v_page);
  Coded keys(k_page, round_up(s.k_dim, kPanel)), values(v_page, groups_of(s) * kPageKeys);
  for (int64_t c = 0; c < s.k_dim; ++c) {
    auto at = [&](int64_t slot) { return k[key_at(s, slot, c)]; };
    Grid grid = fit(kPageKeys, levels, at);
    put_f16(keys.scales, c, grid.scale_bits);
    put_f16(keys.mins, c, grid.min_bits);
    for (int64_t slot = 0; slot < kPageKeys; ++slot)
      put_code(keys.codes, key_code(bits, s, slot, c), grid.code(at(slot)));
  }
  for (int64_t c = 0; c < s.v_dim; c += kValueGroup) {
    const auto n = static_cast<int>(std::min<int64_t>(kValueGroup, s.v_dim - c));
    for (int64_t slot = 0; slot < kPageKeys; ++slot) {
      auto at = [&](int64_t i) { return v[value_at(slot, c + i)]; };
      Grid grid = fit(n, levels, at);
      put_f16(values.scales, c / kValueGroup * kPageKeys + slot, grid.scale_bits);
      put_f16(values.mins, c / kValueGroup * kPageKeys + slot, grid.min_bits);
      for (int64_t i = 0; i < n; ++i)
        put_code(values.codes, value_code(bits, slot, c + i), grid.code(at(i)));
    }
  }
}

void decode_page(KvType type, KvPageShape s, const std::byte* k_page, const std::byte* v_page,
                 float* k, float* v) {
  if (is_fp8(type)) return decode_fp8_page(type, s, k_page, v_page, k, v);
  const int bits = info(type).bits;
  Coded keys(k_page, round_up(s.k_dim, kPanel)), values(v_page, groups_of(s) * kPageKeys);
  for (int64_t slot = 0; slot < kPageKeys; ++slot) {
    for (int64_t c = 0; c < s.k_dim; ++c)
      k[key_at(s, slot, c)] =
          get_f16(keys.scales, c) * get_code(keys.codes, key_code(bits, s, slot, c), bits) +
          get_f16(keys.mins, c);
    for (int64_t c = 0; c < s.v_dim; ++c) {
      int64_t g = c / kValueGroup * kPageKeys + slot;
      v[value_at(slot, c)] =
          get_f16(values.scales, g) * get_code(values.codes, value_code(bits, slot, c), bits) +
          get_f16(values.mins, g);
    }
  }
}

}  // namespace hone
