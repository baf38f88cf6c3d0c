// Pruning: masks and weights against the papers' formulas (tools/golden/make_pruning.py), patterns
// that hold everywhere, and zeros that outlive what comes behind.
#include "passes/pruning.h"

#include <cmath>
#include <cstring>

#include "base/threads.h"
#include "encodings/encoding.h"
#include "formats/safetensors.h"
#include "passes/optimize.h"
#include "passes/sparsegpt_solver.h"
#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

Tensor pruning_golden(const std::string& name) {
  static const SafetensorsFile file =
      SafetensorsFile::open(fs::path(HONE_SOURCE_DIR) / "tests/golden/pruning.safetensors");
  return file.tensor(name).clone();
}

struct PruningForm {
  const char* name;
  double sparsity;
  const char* pattern;
  PruneOptions options() const {
    PruneOptions o;
    o.sparsity = sparsity;
    o.pattern = pattern;
    return o;
  }
};
void PrintTo(const PruningForm& f, std::ostream* out) { *out << f.name; }

class PruningGolden : public ::testing::TestWithParam<PruningForm> {};

TEST_P(PruningGolden, WandaKeepsTheSameWeights) {
  Tensor values = pruning_golden("w");
  prune_rows(values, wanda_scores(values, pruning_golden("hessian")), GetParam().options());
  const Tensor expected = pruning_golden(std::string("wanda_") + GetParam().name);
  EXPECT_EQ(0, std::memcmp(values.raw(), expected.raw(), static_cast<size_t>(values.byte_size())));
}

TEST_P(PruningGolden, SparseGptSolvesTheSame) {
  Tensor values = pruning_golden("w");
  sparsegpt_solve(values, gptq_factor(pruning_golden("hessian"), {}), GetParam().options());
  const Tensor expected = pruning_golden(std::string("sparsegpt_") + GetParam().name);
  for (int64_t i = 0; i < values.numel(); ++i) {
    EXPECT_EQ(values.data<float>()[i] == 0, expected.data<float>()[i] == 0) << i;
    EXPECT_NEAR(values.data<float>()[i], expected.data<float>()[i], 2e-3) << i;
  }
}

TEST_P(PruningGolden, ThreadsChangeNothing) {
  Tensor one = pruning_golden("w"), four = one.clone();
  const GptqFactor factor = gptq_factor(pruning_golden("hessian"), {});
  set_threads(1);
  sparsegpt_solve(one, factor, GetParam().options());
  set_threads(4);
  sparsegpt_solve(four, factor, GetParam().options());
  set_threads(0);
  EXPECT_EQ(0, std::memcmp(one.raw(), four.raw(), static_cast<size_t>(one.byte_size())));
}

INSTANTIATE_TEST_SUITE_P(Forms, PruningGolden,
                         ::testing::Values(PruningForm{"50", 0.5, ""}, PruningForm{"30", 0.3, ""},
                                           PruningForm{"2_4", 0.5, "2:4"},
                                           PruningForm{"4_8", 0.5, "4:8"}),
                         [](const auto& info) { return "share_" + std::string(info.param.name); });

/// Zeros of each m neighbours of each block's matrices; −1 where they differ.
int64_t zeros_of_each(LoadedModel& m, int64_t of) {
  int64_t found = -2;
  for (Linear* l : m.model->linears()) {
    if (l == &m.model->head) continue;
    const Tensor w = decode_weight(l->weight());
    for (int64_t at = 0; at < w.numel(); at += of) {
      const int64_t zeros = std::count(w.data<float>() + at, w.data<float>() + at + of, 0.0f);
      if (found == -2) found = zeros;
      if (zeros != found) return -1;
    }
  }
  return found;
}

class Pruning : public ::testing::Test {
 protected:
  LoadedModel optimized(const std::string& steps) {
    write_tiny(scratch_ / "tiny", tiny_fixture("llama"));
    std::string text;
    for (int i = 0; i < 400; ++i) text += "abc de x abcd "[i * 5 % 14];
    put_file(scratch_ / "text.txt", text);
    OptimizeOptions o;
    o.model = (scratch_ / "tiny").string();
    o.recipe = parse_recipe("calibration: {samples: 6, length: 48}\nsteps:\n" + steps, "r");
    o.calibration = scratch_ / "text.txt";
    o.out = scratch_ / "out";
    optimize(o);
    return load_editable(o.out);
  }
  TemporaryDirectory scratch_;
};

TEST_F(Pruning, APatternHoldsEverywhere) {
  for (const char* method : {"magnitude", "wanda", "sparsegpt"}) {
    LoadedModel m = optimized(fmt::format("  - {{pass: {}, pattern: '2:4'}}\n", method));
    EXPECT_EQ(zeros_of_each(m, 4), 2) << method;
    fs::remove_all(scratch_ / "out");
    fs::remove_all(scratch_ / "tiny");
  }
}

TEST_F(Pruning, ZerosOutliveSymmetricRounding) {
  LoadedModel m =
      optimized("  - {pass: wanda, pattern: '2:4'}\n  - {pass: rtn, bits: 8, group: 32}\n");
  int64_t most = 0;
  for (Linear* l : m.model->linears()) {
    if (l == &m.model->head) continue;
    EXPECT_EQ(l->weight().encoding, "int_group");
    const Tensor w = decode_weight(l->weight());
    for (int64_t at = 0; at < w.numel(); at += 4) {
      const int64_t zeros = std::count(w.data<float>() + at, w.data<float>() + at + 4, 0.0f);
      ASSERT_GE(zeros, 2) << l->name() << " " << at;
      most += zeros == 2;
    }
  }
  EXPECT_GT(most, 0);
}

TEST_F(Pruning, RefusesOptionsAndOrdersThatMakeNoSense) {
  auto refusal = [](const std::string& steps) {
    try {
      parse_recipe("steps:\n" + steps, "r");
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  for (const char* pattern : {"4:2", "2:2", "0:4", "2", "a:4", "2:4x", "1:1000"})
    EXPECT_NE(refusal(fmt::format("  - {{pass: wanda, pattern: '{}'}}\n", pattern)), "") << pattern;
  EXPECT_NE(refusal("  - {pass: wanda, pattern: '2:4', sparsity: 0.3}\n"), "");
  EXPECT_NE(refusal("  - {pass: magnitude, sparsity: 1}\n"), "");
  EXPECT_NE(refusal("  - {pass: magnitude, scope: column}\n"), "");
  EXPECT_NE(refusal("  - {pass: magnitude, scope: layer, pattern: '2:4'}\n"), "");
  EXPECT_THROW(optimized("  - {pass: rtn, bits: 8, group: 32}\n  - {pass: magnitude}\n"), Error);
  EXPECT_FALSE(fs::exists(scratch_ / "out"));
}

}  // namespace
}  // namespace hone
