// Pages of 8-bit floats: fp8_e4m3 (E4M3FN, the largest 448) and fp8_e5m2 (57344) of the OCP.
//
// Keys and values of a page of one head have a scale each, as FP8 caches elsewhere have one for a
// tensor: the smallest power of two, from 2^-100 on, with which the largest magnitude is in range.
//  * A float's error is relative: a channel of outliers spoils no other, and a scale for each would
//    gain nothing. Only what is below 2^-13 (E5M2: 2^-28) of the largest loses bits, and what
//    becomes 0 is below 2^-17 (2^-31) of it.
//  * None saturates. Values are rounded to the nearest, ties to even.
//  * Products with powers of two are exact, and a page that is opened and closed again keeps its
//    values.
//  * Where a key of the page is not finite, all of them come out as NaN; likewise values.
#pragma once

#include "attention/kv_page.h"

namespace hone {

/// `type` is one of the two; otherwise as encode_page and decode_page.
void encode_fp8_page(KvType type, KvPageShape shape, const float* k, const float* v,
                     std::byte* k_page, std::byte* v_page);
void decode_fp8_page(KvType type, KvPageShape shape, const std::byte* k_page,
                     const std::byte* v_page, float* k, float* v);

}  // namespace hone
