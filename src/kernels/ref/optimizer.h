// Optimizers on one element, in double: the oracle of kernels/cpu/optimizer.cpp.
#pragma once

#include <array>

#include "kernels/kernel_table.h"

namespace hone::kernels::ref {

/// w, m and v of one element; the functions are named after the slots of the kernel table. They
/// read the coefficients of `a`, and return what is subtracted from keep·w.
struct Element {
  double w, m, v;
};
double adamw(const UpdateArgs& a, double g, Element& e);
double sgd(const UpdateArgs& a, double g, Element& e);
double lion(const UpdateArgs& a, double g, Element& e);
double adafactor(const UpdateArgs& a, double g, Element& e);

/// The 256 ascending values of the dynamic map, from its description: decade by decade the middles
/// of equal parts; and the code of the value that is nearest to x.
std::array<double, 256> dynamic_map(bool with_sign);
int nearest_code(const std::array<double, 256>& map, double x);

}  // namespace hone::kernels::ref
