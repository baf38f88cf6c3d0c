// The main of test programs whose code runs kernels: Google Test's, and one flag more.
//   hone_models_tests --isa avx2    runs everything on that instruction set
// A run that would show nothing, because the CPU lacks the set or takes it unasked, ends with
// status 77, which ctest counts as skipped.
#include <gtest/gtest.h>

#include <cstdio>
#include <string_view>

#include "base/error.h"
#include "kernels/select.h"

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
  try {
    hone::kernels::set_isa(argv[2]);
  } catch (const hone::Error& e) {
    std::printf("%s\n", e.what());
    return 77;
  }
  return RUN_ALL_TESTS();
}
