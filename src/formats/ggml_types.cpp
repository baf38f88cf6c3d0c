#include "formats/ggml_types.h"

namespace hone {
namespace {

constexpr GgmlType scalar(uint32_t number, std::string_view id, int64_t bytes, DType dtype) {
  return {number, id, 1, bytes, dtype};
}
constexpr GgmlType block(uint32_t number, std::string_view id, int64_t elements, int64_t bytes) {
  return {number, id, elements, bytes, std::nullopt};
}

constexpr GgmlType kTypes[] = {
    scalar(0, "f32", 4, DType::f32),    scalar(1, "f16", 2, DType::f16),
    block(2, "q4_0", 32, 18),           block(3, "q4_1", 32, 20),
    block(6, "q5_0", 32, 22),           block(7, "q5_1", 32, 24),
    block(8, "q8_0", 32, 34),           block(9, "q8_1", 32, 36),
    block(10, "q2_k", 256, 84),         block(11, "q3_k", 256, 110),
    block(12, "q4_k", 256, 144),        block(13, "q5_k", 256, 176),
    block(14, "q6_k", 256, 210),        block(15, "q8_k", 256, 292),
    block(16, "iq2_xxs", 256, 66),      block(17, "iq2_xs", 256, 74),
    block(18, "iq3_xxs", 256, 98),      block(19, "iq1_s", 256, 50),
    block(20, "iq4_nl", 32, 18),        block(21, "iq3_s", 256, 110),
    block(22, "iq2_s", 256, 82),        block(23, "iq4_xs", 256, 136),
    scalar(24, "i8", 1, DType::i8),     scalar(25, "i16", 2, DType::i16),
    scalar(26, "i32", 4, DType::i32),   scalar(27, "i64", 8, DType::i64),
    scalar(28, "f64", 8, DType::f64),   block(29, "iq1_m", 256, 56),
    scalar(30, "bf16", 2, DType::bf16), block(34, "tq1_0", 256, 54),
    block(35, "tq2_0", 256, 66),        block(39, "mxfp4", 32, 17),
    block(40, "gguf_nvfp4", 64, 36),    block(41, "q1_0", 128, 18),
    block(42, "q2_0", 64, 18),
};

// llama.cpp's llama_ftype: numbers of their own.
struct FileType {
  std::string_view id;
  uint32_t number;
};
constexpr FileType kEncodingFileTypes[] = {
    {"f32", 0},         {"f16", 1},     {"q4_0", 2},  {"q4_1", 3},   {"q8_0", 7},   {"q5_0", 8},
    {"q5_1", 9},        {"q2_k", 10},   {"q3_k", 12}, {"q4_k", 14},  {"q5_k", 16},  {"q6_k", 18},
    {"iq4_nl", 25},     {"iq4_xs", 30}, {"bf16", 32}, {"tq1_0", 36}, {"tq2_0", 37}, {"mxfp4", 38},
    {"gguf_nvfp4", 39}, {"q1_0", 40},   {"q2_0", 41}};
constexpr uint32_t kGuessed = 1024;

}  // namespace

std::span<const GgmlType> ggml_types() { return kTypes; }

const GgmlType* find_ggml_type(uint32_t number) {
  for (const GgmlType& t : kTypes)
    if (t.number == number) return &t;
  return nullptr;
}

const GgmlType* find_ggml_type(std::string_view id) {
  for (const GgmlType& t : kTypes)
    if (t.id == id) return &t;
  return nullptr;
}

uint32_t gguf_file_type(std::string_view id) {
  for (const FileType& t : kEncodingFileTypes)
    if (t.id == id) return t.number;
  return kGuessed;
}

}  // namespace hone
