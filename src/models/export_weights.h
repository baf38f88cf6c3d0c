// What export does to weights on their way to a file: casts, transposes, joins.
#pragma once

#include <string>
#include <vector>

#include "tensor/weight.h"

namespace hone {

/// f32, f16 or bf16.
bool is_float(const std::string& encoding);
/// Each value stands for itself, so that a matrix can be stored as [in, out].
bool is_plain(const Weight& w);
bool same_bytes(const Tensor& a, const Tensor& b);

/// The decoded values as "f32", "f16" or "bf16"; raises invalid_argument on another type.
Weight cast_weight(const Weight& w, const std::string& type);
/// A float weight as [in, out].
Weight transposed_floats(const Weight& w);

/// Raises unsupported, naming the tensor, unless the parts of one matrix are stored in one way, row
/// by row. Of weights without planes the form alone is looked at.
void check_joinable(const std::vector<Weight>& parts, const std::string& name);
/// The rows of several weights of one kind, one below the other.
Weight concat_rows(const std::vector<Weight>& parts);

}  // namespace hone
