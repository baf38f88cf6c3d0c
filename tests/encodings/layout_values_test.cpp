// Quantised directories that reference libraries packed decode to exactly what the libraries make
// of them, once rounded to the type in which the library computes; but a zero may have another
// sign. Goldens: tools/golden/make_quantised_layouts.py.
#include "encodings/encodings_testing.h"
#include "formats/checkpoint.h"

namespace hone {
namespace {

const fs::path kLayouts = fs::path(HONE_SOURCE_DIR) / "tests" / "golden" / "layouts";

class LayoutValues : public ::testing::TestWithParam<const char*> {};

TEST_P(LayoutValues, AreThoseOfTheReferenceLibrary) {
  const fs::path directory = kLayouts / GetParam();
  const auto checkpoint = open_checkpoint(directory);
  const SafetensorsFile values = SafetensorsFile::open(directory / "values.safetensors");
  ASSERT_FALSE(values.entries().empty());
  // The modules and one norm: parts show nowhere.
  EXPECT_EQ(checkpoint->names().size(), values.entries().size() + 1);
  for (const SafetensorsEntry& e : values.entries()) {
    SCOPED_TRACE(e.name);
    ASSERT_TRUE(checkpoint->has(e.name));
    const Weight w = checkpoint->weight(e.name);
    ASSERT_EQ(w.shape, e.shape);
    const Tensor expected = values.tensor(e.name).to(DType::f32);
    const Tensor got = decode_weight(w).to(e.dtype).to(DType::f32);
    for (int64_t i = 0; i < got.numel(); ++i)
      ASSERT_EQ(expected.data<float>()[i], got.data<float>()[i]) << "element " << i;
    checkpoint->release(e.name);
  }
}

INSTANTIATE_TEST_SUITE_P(Goldens, LayoutValues,
                         ::testing::Values("awq_gemm", "awq_gemm_row", "awq_gemv", "ct_packed",
                                           "ct_int", "ct_float", "ct_nvfp4", "ct_mxfp4", "ct_mxfp8",
                                           "ctold_packed", "ctold_sparse24", "ctold_sparse",
                                           "fp8_block", "modelopt", "hqq", "hqq_axis0"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace hone
