// Which kernel table runs: chosen at start from what the CPU can do, or forced.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernel_table.h"

namespace hone::kernels {

/// The table in use. Thread-safe; set_isa must come first or not at all.
const KernelTable& table();
/// The tables that this CPU can run, the newest instruction set last.
std::vector<const KernelTable*> available_tables();
/// Names of all instruction sets that there are kernels for, the oldest first.
std::vector<std::string> isa_names();
/// Forces an instruction set by name, or with "auto" the one of highest rank. Raises unsupported
/// naming those available.
void set_isa(const std::string& name);
/// Whether products of bf16 weights may round activations to bf16 (kernel_table.h, gemm_bf16_dot);
/// false at first. prefer_bf16_dots(true) does nothing where the table or the CPU has none.
bool uses_bf16_dots();
void prefer_bf16_dots(bool on);
/// Forces a table: one of those available, or one that a test brings.
void set_table(const KernelTable& t);

}  // namespace hone::kernels
