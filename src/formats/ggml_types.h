// The tensor types of GGUF: number in the file, id of our encoding, and block size.
//
// A row of K elements is K/block_elements blocks of block_bytes bytes, back to back; plain scalars
// are blocks of one element. A new GGUF type is one line in ggml_types.cpp.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "tensor/dtype.h"

namespace hone {

struct GgmlType {
  uint32_t number;         ///< as stored in the file
  std::string_view id;     ///< the encoding's id, or the scalar type's name
  int64_t block_elements;  ///< 1 for scalars
  int64_t block_bytes;
  std::optional<DType> scalar;  ///< the DType of scalar types; blocks have none
};

/// All known types, ascending by number.
std::span<const GgmlType> ggml_types();
/// Null where the number or the id is not in the table.
const GgmlType* find_ggml_type(uint32_t number);
const GgmlType* find_ggml_type(std::string_view id);
/// general.file_type of a file most of whose weights are in the encoding `id`; 1024 ("guessed")
/// where llama.cpp has no number for it.
uint32_t gguf_file_type(std::string_view id);

}  // namespace hone
