// The dtype names of safetensors, shared by its reader and its writer.
#pragma once

#include <span>
#include <string_view>

#include "tensor/dtype.h"

namespace hone {

struct SafetensorsType {
  std::string_view name;
  DType dtype;
  bool alias;  ///< read as `dtype`, never written
};

/// In the order in which the reference library lays types out in a file.
std::span<const SafetensorsType> safetensors_types();
/// Null where hone has no such type.
const SafetensorsType* find_safetensors_type(std::string_view name);
/// The one written for `dtype`.
const SafetensorsType& safetensors_type_of(DType dtype);

}  // namespace hone
