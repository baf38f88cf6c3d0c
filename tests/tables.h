// The kernel tables that tests run.
#pragma once

#include <vector>

#include "kernels/kernel_table.h"

namespace hone::testing {

/// Those that this CPU can run, and avx512_amx with its matrix tiles in plain loops
/// ("amx_emulated") where the CPU can run the rest of it.
std::vector<const kernels::KernelTable*> tested_tables();

}  // namespace hone::testing
