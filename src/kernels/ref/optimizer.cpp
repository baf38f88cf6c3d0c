#include "kernels/ref/optimizer.h"

#include <algorithm>
#include <cmath>

namespace hone::kernels::ref {

double adamw(const UpdateArgs& a, double g, Element& e) {
  e.m = a.beta1 * e.m + a.rest1 * g;
  e.v = a.beta2 * e.v + a.rest2 * g * g;
  return a.rate * e.m / (std::sqrt(e.v) * a.root_factor + a.eps);
}

double sgd(const UpdateArgs& a, double g, Element& e) {
  g += a.l2 * e.w;
  if (!a.m) return a.rate * g;
  e.m = a.beta1 * e.m + g;
  return a.rate * (a.nesterov ? g + a.beta1 * e.m : e.m);
}

double lion(const UpdateArgs& a, double g, Element& e) {
  const double c = a.beta1 * e.m + a.rest1 * g;
  e.m = a.beta2 * e.m + a.rest2 * g;
  return c > 0 ? a.rate : c < 0 ? -a.rate : 0;
}

double adafactor(const UpdateArgs& a, double g, Element& e) {
  const double change = a.rate * g * e.v;
  if (!a.m) return change;
  return e.m = a.beta1 * e.m + a.rest1 * change;
}

std::array<double, 256> dynamic_map(bool with_sign) {
  std::array<double, 256> map{};
  size_t n = 0;
  for (int decade = 0; decade < 7; ++decade) {
    const int parts = (with_sign ? 1 : 2) << decade;
    for (int i = 0; i < parts; ++i) {
      const double low = 0.1 + 0.9 * i / parts, high = 0.1 + 0.9 * (i + 1) / parts;
      const double value = std::pow(10, decade - 6) * (low + high) / 2;
      map[n++] = value;
      if (with_sign) map[n++] = -value;
    }
  }
  map[n++] = 0;
  map[n] = 1;
  std::sort(map.begin(), map.end());
  return map;
}

int nearest_code(const std::array<double, 256>& map, double x) {
  int best = 0;
  for (int i = 1; i < 256; ++i)
    if (std::abs(map[i] - x) < std::abs(map[best] - x)) best = i;
  return best;
}

}  // namespace hone::kernels::ref
