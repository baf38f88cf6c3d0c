// llama.cpp's file types: names for mixtures of block types ("Q4_K_M"), with its rules about which
// tensor gets which.
//
// A file type has one type for most matrices. Those that cost most where they are coarse (values,
// MLP outputs, attention outputs, in some layers) get a finer one, the output head (or the
// embedding that is the head) q6_k or q8_0. A row that a type's blocks do not divide falls back to
// a type with blocks of 32, and where these do not divide it either to f16. Not here: mixtures of
// experts, and file types whose blocks hone does not write (IQ1, IQ2, IQ3).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "tensor/tensor.h"

namespace hone {

struct GgufRaise;

struct GgufFileType {
  std::string_view name;  ///< as llama.cpp spells it
  uint32_t number;        ///< general.file_type
  std::string_view base;  ///< the encoding of most matrices
  std::span<const GgufRaise> raises;
};

/// All that can be written, ascending by number.
std::span<const GgufFileType> gguf_file_types();
/// By its name in any case, or by llama.cpp's short ones (Q3_K, Q4_K and Q5_K for …_M); null where
/// there is none.
const GgufFileType* find_gguf_file_type(std::string_view name);
/// What to say where there is none.
std::string unknown_gguf_file_type(std::string_view name);

/// What the rules ask of a model.
struct GgufMixModel {
  std::string_view architecture;
  int64_t layers = 0;
  int64_t queries_per_value = 1;  ///< query heads that share a key/value head
  bool tied_head = false;
  bool importances = false;  ///< columns are weighed while encoding
};

/// The encoding of the matrix `tensor` ("blk.3.ffn_down.weight") with rows of `columns`.
std::string gguf_tensor_type(const GgufFileType& type, const GgufMixModel& model,
                             std::string_view tensor, int64_t columns);
/// The encoding that stands in for `encoding` where its blocks do not divide the rows.
std::string gguf_fallback(std::string_view encoding, int64_t columns);

}  // namespace hone
