// Which kernel table runs: chosen at start from what the CPU can do, or forced.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernel_table.h"

namespace hone::kernels {

/// The table in use. Thread-safe; set_isa must come first or not at all.
const KernelTable& table();
/// The tables that this CPU can run, best last.
std::vector<const KernelTable*> available_tables();
/// Forces an instruction set by name ("baseline", "avx2", "avx512", "avx512_vnni"; "auto" = best).
/// Raises unsupported naming those available.
void set_isa(const std::string& name);

}  // namespace hone::kernels
