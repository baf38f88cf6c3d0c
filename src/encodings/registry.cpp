// The table of encodings: one line each. X(name) is the function encoding_entry::name(), defined in
// the encoding's file.
#include "encodings/encoding.h"

// clang-format off
#define HONE_ENCODINGS(X) \
  X(f32)                  \
  X(f64)                  \
  X(f16)                  \
  X(bf16)                 \
  X(f8_e4m3)              \
  X(f8_e5m2)              \
  X(q4_0)                 \
  X(q4_1)                 \
  X(q5_0)                 \
  X(q5_1)                 \
  X(q8_0)                 \
  X(q2_k)                 \
  X(q3_k)                 \
  X(q4_k)                 \
  X(q5_k)                 \
  X(q6_k)                 \
  X(iq4_nl)               \
  X(iq4_xs)               \
  X(mxfp4)                \
  X(gguf_nvfp4)           \
  X(tq1_0)                \
  X(tq2_0)                \
  X(q2_0)                 \
  X(q1_0)                 \
  X(int8_row)             \
  X(int_group)            \
  X(nvfp4_ct)             \
  X(nvfp4_modelopt)       \
  X(hqq)                  \
  X(nf4)                  \
  X(fp4)
// clang-format on

namespace hone {
namespace encoding_entry {
#define HONE_DECLARE(name) const Encoding& name();
HONE_ENCODINGS(HONE_DECLARE)
#undef HONE_DECLARE
}  // namespace encoding_entry

std::span<const Encoding* const> encodings() {
#define HONE_ENTRY(name) &encoding_entry::name(),
  static const Encoding* const kAll[] = {HONE_ENCODINGS(HONE_ENTRY)};
#undef HONE_ENTRY
  return kAll;
}

}  // namespace hone
