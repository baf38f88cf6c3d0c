// Transformers with recurrent memory: what reaches how far, in a state of one size, and configs
// that cannot be. That the numbers are the right ones is families_test.cpp's part.
#include <cstring>

#include "models/session.h"
#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

class MemoryTransformer : public ::testing::TestWithParam<const char*> {
 protected:
  LoadedModel load(const Json& changes = Json::object()) {
    Json config = parse_json(tiny_fixture(GetParam()).config, "config");
    config.update(changes);
    const std::string text = config.dump();
    TinyFixture fixture = tiny_fixture(GetParam());
    fixture.config = text.c_str();
    std::filesystem::remove_all(scratch_ / "model");
    write_tiny(scratch_ / "model", fixture);
    return load_model(scratch_ / "model");
  }
  // How far the logits behind `length` tokens move when the first token is another.
  static double reach(LoadedModel& m, int64_t length) {
    std::vector<int32_t> ids = tiny_ids(length, 7);
    Session a(*m.model, Activations::f32), b(*m.model, Activations::f32);
    const Tensor x = a.append(ids);
    ids[0] = ids[0] == 50 ? 51 : 50;
    const Tensor y = b.append(ids);
    return relative_distance(y.data<float>(), x.data<float>(), x.numel());
  }
  TemporaryDirectory scratch_;
};

TEST_P(MemoryTransformer, RemembersWhatAPlainModelOfTheSameSegmentsForgets) {
  LoadedModel m = load();
  const int64_t segment = m.config.segment, far = 3 * segment - 1;
  EXPECT_GT(reach(m, far), 1e-6);
  // Without what it carries, nothing of the first token is left in the next segment.
  LoadedModel plain = load({{"mixer", "segment"}, {"memory_tokens", 0}});
  EXPECT_GT(reach(plain, segment), 1e-6);
  EXPECT_EQ(reach(plain, segment + 1), 0);
}

TEST_P(MemoryTransformer, KeepsAStateOfOneSize) {
  LoadedModel m = load();
  KvCache cache(m.model->kv_shapes());
  EXPECT_EQ(cache.page_bytes(), 0);
  KvSequence s;
  for (int64_t n : {1, 100, 5}) {
    Batch batch;
    batch.append(std::vector<int32_t>(static_cast<size_t>(n), 65), &s);
    m.model->forward(batch, cache);
    int64_t bytes = 0;
    for (const RecurrentState& state : s.recurrent)
      for (const Tensor& t : state) bytes += t.byte_size();
    EXPECT_EQ(bytes, m.model->state_bytes());
    EXPECT_TRUE(s.pages.empty());
  }
  EXPECT_EQ(s.length, 106);
}

TEST_P(MemoryTransformer, GoesBackToAnyLength) {
  LoadedModel m = load();
  const std::vector<int32_t> all = tiny_ids(60, 9);
  Session used(*m.model, Activations::f32);
  used.append(std::span(all).first(30));
  used.append(std::span(all).subspan(30));
  for (size_t keep : {55, 30, 17, 0}) {
    used.truncate(static_cast<int64_t>(keep));
    Session fresh(*m.model, Activations::f32);
    if (keep > 0) fresh.append(std::span(all).first(keep));
    const std::span<const int32_t> next = std::span(all).first(3);
    const Tensor a = used.append(next), b = fresh.append(next);
    EXPECT_EQ(0, std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size()))) << keep;
    used.truncate(static_cast<int64_t>(keep));
  }
}

TEST_P(MemoryTransformer, RefusesConfigsThatCannotBe) {
  auto refused = [&](const Json& changes, const char* named) {
    try {
      load(changes);
      ADD_FAILURE() << changes.dump();
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(named), std::string::npos) << e.what();
    }
  };
  refused({{"segment", 0}}, "segment is 0");
  refused({{"segment", int64_t{1} << 40}}, "segment is");
  refused({{"mixer", "eagle"}}, "mixer 'eagle'");
  refused({{"memory_tokens", -1}}, "memory_tokens is -1");
  refused({{"mixer", "transformer_xl"}, {"memory", -1}}, "memory is -1");
  refused({{"num_key_value_heads", 2}}, "num_key_value_heads 2");
  refused({{"head_dim", 5}}, "head_dim 5");
  refused({{"rope_theta", 0.0}}, "rope_theta is 0");
}

INSTANTIATE_TEST_SUITE_P(Models, MemoryTransformer,
                         ::testing::Values("transformer_xl", "recurrent_memory", "infini"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace hone
