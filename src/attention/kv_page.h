// One page of a KV cache: kPageKeys = 64 positions of one kv head, in the layout that the attention
// kernel multiplies with (kernels/kernel_table.h).
//
// Float pages (f32, bf16, f16) take a position at a time. Coded pages are made from a whole f32
// page, on which their scales depend:
//  * int8, int4: keys have a scale and a minimum for each channel of the page, values for each
//    position and 32 channels (KIVI, Liu et al. 2024): a channel of outliers spoils no other.
//  * fp8_e4m3 ("fp8" for short), fp8_e5m2: one scale for the page's keys, one for its values
//    (fp8_page.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "kernels/kernel_table.h"

namespace hone {

enum class KvType { f32, bf16, f16, fp8_e4m3, fp8_e5m2, int8, int4 };

std::span<const KvType> kv_types();
std::string_view kv_type_name(KvType type);
/// Also takes "fp8". Raises invalid_argument, naming the types.
KvType kv_type_from_name(std::string_view name);
/// "f32, bf16, …": for help and errors.
std::string kv_type_list();
bool kv_is_coded(KvType type);
kernels::KvForm kv_form(KvType type);

/// Of one page: D = k_dim, Dv = v_dim.
struct KvPageShape {
  int64_t k_dim = 0, v_dim = 0;
};
int64_t k_page_bytes(KvType type, KvPageShape shape);
int64_t v_page_bytes(KvType type, KvPageShape shape);

/// One position of a float page: key [k_dim] and value [v_dim] to slot < 64.
void write_position(KvType type, KvPageShape shape, int64_t slot, const float* key,
                    const float* value, std::byte* k_page, std::byte* v_page);
/// Zeroes the values of a float page from `slot` on. A key that nobody sees still meets its value
/// with a probability of 0, and 0·NaN is not 0.
void forget_positions(KvType type, KvPageShape shape, int64_t slot, std::byte* v_page);

/// A whole f32 page as codes; and back, to the values that the codes stand for.
void encode_page(KvType type, KvPageShape shape, const float* k, const float* v, std::byte* k_page,
                 std::byte* v_page);
void decode_page(KvType type, KvPageShape shape, const std::byte* k_page, const std::byte* v_page,
                 float* k, float* v);

}  // namespace hone
