// RWKV against rwkv.cpp: its small test models, and the logits that BlinkDL's own code gave for
// them behind the prompt "\"in". The files lie beside the repository, where they were downloaded.
#include <cstring>

#include "models/export.h"
#include "models/loader.h"
#include "models/session.h"
#include "testing.h"

namespace hone {
namespace {

using testing::relative_distance;

struct RwkvCase {
  const char* model;
  const char* logits;
  double tolerance;  ///< of ‖ours − theirs‖/‖theirs‖; theirs are of the unquantised model
};

void PrintTo(const RwkvCase& c, std::ostream* out) { *out << c.model; }

class RwkvTest : public ::testing::TestWithParam<RwkvCase> {
 protected:
  static fs::path data(const char* name) {
    return testing::shared_file("models/tiny-rwkv/" + std::string(name));
  }
  void SetUp() override {
    if (!fs::exists(data(GetParam().model)))
      GTEST_SKIP() << "no " << GetParam().model << ": rwkv.cpp's test models are not here";
  }
  static constexpr int32_t kPrompt[] = {'"', 'i', 'n'};
};

std::vector<float> read_floats(const fs::path& path) {
  const std::string bytes = read_text_file(path);
  std::vector<float> out(bytes.size() / 4);
  std::memcpy(out.data(), bytes.data(), out.size() * 4);
  return out;
}

TEST_P(RwkvTest, GivesTheExpectedLogits) {
  LoadedModel m = load_model(data(GetParam().model));
  const std::vector<float> expected = read_floats(data(GetParam().logits));
  ASSERT_EQ(std::ssize(expected), m.model->vocabulary());
  Session whole(*m.model, Activations::f32), steps(*m.model, Activations::f32);
  const Tensor prefill = whole.append(kPrompt);
  EXPECT_LT(relative_distance(prefill.data<float>(), expected.data(), prefill.numel()),
            GetParam().tolerance);
  Tensor last;
  for (const int32_t& id : kPrompt) last = steps.append({&id, 1});
  EXPECT_EQ(0, std::memcmp(last.raw(), prefill.raw(), static_cast<size_t>(last.byte_size())));
}

TEST_P(RwkvTest, IsTheSameModelAsADirectory) {
  LoadOptions canonical;
  canonical.inference = false;
  LoadedModel m = load_model(data(GetParam().model), canonical);
  testing::TemporaryDirectory scratch;
  ExportOptions o;
  o.decode_to = "f32";
  export_model(m, scratch / "hf", o);
  LoadedModel back = load_model(scratch / "hf");
  EXPECT_EQ(back.family, m.family);
  EXPECT_EQ(back.tokenizer->encode("in"), m.tokenizer->encode("in"));
  Session a(*m.model, Activations::f32), b(*back.model, Activations::f32);
  const Tensor x = a.append(kPrompt), y = b.append(kPrompt);
  EXPECT_LT(relative_distance(y.data<float>(), x.data<float>(), x.numel()), 1e-5);
}

// Back to where nothing was kept, tokens run again; to the end of an input, they need not.
TEST_P(RwkvTest, GoesBackToAnyLength) {
  LoadedModel m = load_model(data(GetParam().model));
  std::vector<int32_t> text;
  for (int32_t i = 0; i < 600; ++i) text.push_back((i * 37 + i / 9) % 256);
  const std::span<const int32_t> all = text;
  Session used(*m.model, Activations::f32);
  used.append(all.first(300));
  used.append(all.subspan(300));
  for (int64_t keep : {550, 300, 299, 17, 0}) {
    used.truncate(keep);
    ASSERT_EQ(used.length(), keep);
    Session fresh(*m.model, Activations::f32);
    if (keep > 0) fresh.append(all.first(static_cast<size_t>(keep)));
    const Tensor a = used.append(all.first(3)), b = fresh.append(all.first(3));
    EXPECT_EQ(0, std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size()))) << keep;
    used.truncate(keep);
  }
}

TEST_P(RwkvTest, KeepsAStateOfOneSize) {
  LoadedModel m = load_model(data(GetParam().model));
  KvCache cache(m.model->kv_shapes());
  EXPECT_EQ(cache.page_bytes(), 0);
  KvSequence s;
  auto bytes = [&] {
    int64_t n = 0;
    for (const RecurrentState& state : s.recurrent)
      for (const Tensor& t : state) n += t.byte_size();
    return n;
  };
  for (int64_t n : {1, 700, 5}) {
    Batch batch;
    batch.append(std::vector<int32_t>(static_cast<size_t>(n), 65), &s);
    m.model->forward(batch, cache);
    EXPECT_EQ(bytes(), m.model->state_bytes());
    EXPECT_TRUE(s.pages.empty());
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, RwkvTest,
    ::testing::Values(RwkvCase{"tiny-rwkv-5v2-730K-FP32.bin", "expected-logits-5v2-730K.bin", 1e-4},
                      RwkvCase{"tiny-rwkv-6v0-3m-Q5_1.bin", "expected-logits-6v0-3m.bin", 5e-3},
                      RwkvCase{"tiny-rwkv-7v0-834K-FP32.bin", "expected-logits-7v0-834K.bin",
                               1e-4}),
    [](const auto& info) { return "v" + std::string(info.param.model).substr(10, 3); });

}  // namespace
}  // namespace hone
