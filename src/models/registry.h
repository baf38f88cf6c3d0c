// The table of model families.
#pragma once

#include <span>

namespace hone {
struct Family;
std::span<const Family* const> family_registry();
}  // namespace hone
