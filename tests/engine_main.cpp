// The main of test programs whose code runs kernels: Google Test's, and one flag more.
//   hone_models_tests --isa avx2    runs everything on that instruction set
// A run that would show nothing, because the CPU lacks the set or takes it unasked, ends with
// status 77, which ctest counts as skipped.
#include <gtest/gtest.h>

#include <cstdio>
#include <string_view>

#include "kernels/select.h"
#include "tables.h"

#ifdef HONE_AMX_EMULATED
namespace hone::kernels::amx_emulated {
extern const KernelTable kTable;
}
#endif

namespace hone::testing {

std::vector<const kernels::KernelTable*> tested_tables() {
  auto tables = kernels::available_tables();
#ifdef HONE_AMX_EMULATED
  for (const kernels::KernelTable* t : tables)
    if (std::string_view(t->isa) == "avx512_vnni") {
      tables.push_back(&kernels::amx_emulated::kTable);
      break;
    }
#endif
  return tables;
}

}  // namespace hone::testing

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);  // takes its own flags out
  if (argc == 1) return RUN_ALL_TESTS();
  if (argc != 3 || std::string_view(argv[1]) != "--isa") {
    std::fprintf(stderr, "usage: %s [--isa NAME] [--gtest_...]\n", argv[0]);
    return 2;
  }
  const std::string_view unasked = hone::kernels::table().isa;
  if (unasked == argv[2]) {
    std::printf("%s is what this CPU runs unasked\n", argv[2]);
    return 77;
  }
  for (const hone::kernels::KernelTable* t : hone::testing::tested_tables())
    if (std::string_view(t->isa) == argv[2]) {
      hone::kernels::set_table(*t);
      return RUN_ALL_TESTS();
    }
  std::printf("this CPU cannot run %s\n", argv[2]);
  return 77;
}
