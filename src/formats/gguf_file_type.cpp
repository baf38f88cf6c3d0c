#include "formats/gguf_file_type.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "formats/ggml_types.h"
#include "formats/printable.h"

namespace hone {
namespace {

enum class Part { values, down, output };

// Which of a model's layers, or which models.
enum class Where {
  all,
  more,  // the first and the last eighth, and every third between
  first_two,
  first_four,
  sixteenth,          // the first ones
  eighth,             // the first ones
  eighth_weighted,    // with importances alone
  eighth_unweighted,  // without
  shared_by_four,     // models with at least four query heads to a value head
};

}  // namespace

/// These matrices get this type there; the first that fits counts.
struct GgufRaise {
  Part part;
  Where where;
  std::string_view type;
};

namespace {

constexpr GgufRaise kQ2K[] = {{Part::values, Where::shared_by_four, "q4_k"},
                              {Part::values, Where::all, "q3_k"},
                              {Part::down, Where::all, "q3_k"},
                              {Part::output, Where::all, "q3_k"}};
constexpr GgufRaise kQ2KS[] = {{Part::values, Where::shared_by_four, "q4_k"},
                               {Part::down, Where::eighth, "q4_k"}};
constexpr GgufRaise kQ3KM[] = {{Part::values, Where::first_two, "q5_k"},
                               {Part::values, Where::all, "q4_k"},
                               {Part::down, Where::sixteenth, "q5_k"},
                               {Part::down, Where::all, "q4_k"},
                               {Part::output, Where::all, "q4_k"}};
constexpr GgufRaise kQ3KL[] = {{Part::values, Where::all, "q5_k"},
                               {Part::down, Where::all, "q5_k"},
                               {Part::output, Where::all, "q5_k"}};
constexpr GgufRaise kQ4KS[] = {{Part::values, Where::first_four, "q5_k"},
                               {Part::down, Where::eighth, "q5_k"}};
constexpr GgufRaise kMedium[] = {{Part::values, Where::more, "q6_k"},
                                 {Part::down, Where::more, "q6_k"}};
constexpr GgufRaise kIq4[] = {{Part::values, Where::shared_by_four, "q5_k"},
                              {Part::down, Where::eighth_unweighted, "q5_k"}};
constexpr GgufRaise kQ4_0[] = {{Part::down, Where::eighth_weighted, "q4_1"}};
constexpr GgufRaise kQ5_0[] = {{Part::down, Where::eighth_weighted, "q5_1"}};

constexpr GgufFileType kFileTypes[] = {
    {"F32", 0, "f32", {}},           {"F16", 1, "f16", {}},         {"Q4_0", 2, "q4_0", kQ4_0},
    {"Q4_1", 3, "q4_1", {}},         {"Q8_0", 7, "q8_0", {}},       {"Q5_0", 8, "q5_0", kQ5_0},
    {"Q5_1", 9, "q5_1", {}},         {"Q2_K", 10, "q2_k", kQ2K},    {"Q3_K_S", 11, "q3_k", {}},
    {"Q3_K_M", 12, "q3_k", kQ3KM},   {"Q3_K_L", 13, "q3_k", kQ3KL}, {"Q4_K_S", 14, "q4_k", kQ4KS},
    {"Q4_K_M", 15, "q4_k", kMedium}, {"Q5_K_S", 16, "q5_k", {}},    {"Q5_K_M", 17, "q5_k", kMedium},
    {"Q6_K", 18, "q6_k", {}},        {"Q2_K_S", 21, "q2_k", kQ2KS}, {"IQ4_NL", 25, "iq4_nl", kIq4},
    {"IQ4_XS", 30, "iq4_xs", kIq4},  {"BF16", 32, "bf16", {}},      {"TQ1_0", 36, "tq1_0", {}},
    {"TQ2_0", 37, "tq2_0", {}},      {"MXFP4", 38, "mxfp4", {}},    {"NVFP4", 39, "gguf_nvfp4", {}},
    {"Q1_0", 40, "q1_0", {}},        {"Q2_0", 41, "q2_0", {}},
};

std::string upper(std::string_view s) {
  std::string out(s);
  for (char& c : out)
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  return out;
}

bool is_float_type(std::string_view encoding) {
  return encoding == "f32" || encoding == "f16" || encoding == "bf16";
}

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// The number behind "blk.", or 0.
int64_t layer_of(std::string_view tensor) {
  constexpr std::string_view kPrefix = "blk.";
  int64_t layer = 0;
  if (tensor.starts_with(kPrefix))
    std::from_chars(tensor.data() + kPrefix.size(), tensor.data() + tensor.size(), layer);
  return layer;
}

bool is_part(Part part, std::string_view tensor) {
  switch (part) {
    case Part::values:  // a fused q, k, v counts by its values
      return contains(tensor, "attn_v.weight") || contains(tensor, "attn_qkv.weight");
    case Part::down:
      return contains(tensor, "ffn_down");
    case Part::output:
      return contains(tensor, "attn_output.weight");
  }
  return false;
}

bool is_there(Where where, const GgufMixModel& m, int64_t layer) {
  const int64_t eighth = m.layers / 8;
  switch (where) {
    case Where::all:
      return true;
    case Where::more:
      return layer < eighth || layer >= 7 * m.layers / 8 || (layer - eighth) % 3 == 2;
    case Where::first_two:
      return layer < 2;
    case Where::first_four:
      return layer < 4;
    case Where::sixteenth:
      return layer < m.layers / 16;
    case Where::eighth:
      return layer < eighth;
    case Where::eighth_weighted:
      return layer < eighth && m.importances;
    case Where::eighth_unweighted:
      return layer < eighth && !m.importances;
    case Where::shared_by_four:
      return m.queries_per_value >= 4;
  }
  return false;
}

// Llama 2 and 3 of 70 billion parameters, and Qwen2's of 72: many queries share few values.
bool is_70b(const GgufMixModel& m) {
  return m.layers == 80 && m.queries_per_value > 1 &&
         (m.architecture == "llama" || m.architecture == "qwen2");
}

// llama.cpp has no mixtures of these for models without experts.
bool is_fp4(const GgufFileType& type) { return type.base == "mxfp4" || type.base == "gguf_nvfp4"; }

std::string_view head_type(const GgufFileType& type, int64_t columns) {
  const GgmlType* base = find_ggml_type(type.base);
  if (is_fp4(type) || columns % base->block_elements != 0) return "q8_0";
  return type.base == "q8_0" ? "q8_0" : "q6_k";
}

}  // namespace

std::span<const GgufFileType> gguf_file_types() { return kFileTypes; }

const GgufFileType* find_gguf_file_type(std::string_view name) {
  std::string wanted = upper(name);
  if (wanted == "Q3_K" || wanted == "Q4_K" || wanted == "Q5_K") wanted += "_M";
  for (const GgufFileType& t : kFileTypes)
    if (t.name == wanted) return &t;
  return nullptr;
}

std::string unknown_gguf_file_type(std::string_view name) {
  const std::string wanted = upper(name);
  if (wanted.starts_with("IQ1_") || wanted.starts_with("IQ2_") || wanted.starts_with("IQ3_"))
    return fmt::format(
        "{}: the codes of its blocks are indices into llama.cpp's own tables, which hone does not "
        "have",
        printable(name));
  if (wanted == "MXFP4_MOE")
    return "MXFP4_MOE (experts in MXFP4, the rest in Q8_0) is not written; MXFP4 is";
  std::string known;
  for (const GgufFileType& t : kFileTypes)
    known += fmt::format("{}{}", known.empty() ? "" : ", ", t.name);
  return fmt::format("no GGUF file type {}; known: {}", printable(name), known);
}

std::string gguf_fallback(std::string_view encoding, int64_t columns) {
  const GgmlType* type = find_ggml_type(encoding);
  HONE_ASSERT(type != nullptr);
  if (columns % type->block_elements == 0) return std::string(encoding);
  constexpr std::pair<std::string_view, std::string_view> kInstead[] = {
      {"iq4_xs", "iq4_nl"}, {"q2_k", "q4_0"}, {"q3_k", "q4_0"},       {"tq1_0", "q4_0"},
      {"tq2_0", "q4_0"},    {"q4_k", "q5_0"}, {"q5_k", "q5_1"},       {"q6_k", "q8_0"},
      {"q1_0", "q4_0"},     {"q2_0", "q4_0"}, {"gguf_nvfp4", "q4_0"},
  };
  for (const auto& [of, instead] : kInstead)
    if (of == encoding && columns % find_ggml_type(instead)->block_elements == 0)
      return std::string(instead);
  return "f16";
}

std::string gguf_tensor_type(const GgufFileType& type, const GgufMixModel& m,
                             std::string_view tensor, int64_t columns) {
  if (is_float_type(type.base)) return std::string(type.base);
  std::string_view chosen = type.base;
  const bool embedding = tensor == "token_embd.weight";
  if (tensor == "output.weight" || (embedding && m.tied_head)) {
    chosen = head_type(type, columns);
  } else if (embedding) {
    if (type.base == "tq1_0" || type.base == "tq2_0" || type.base == "q2_0") chosen = "q4_k";
    if (is_fp4(type)) chosen = "q8_0";
  } else {
    const int64_t layer = layer_of(tensor);
    for (const GgufRaise& raise : type.raises)
      if (is_part(raise.part, tensor) && is_there(raise.where, m, layer)) {
        chosen = raise.type;
        break;
      }
    if (is_70b(m) && is_part(Part::values, tensor) && (chosen == "q3_k" || chosen == "q4_k"))
      chosen = "q5_k";
  }
  return gguf_fallback(chosen, columns);
}

}  // namespace hone
