// Session: what it remembers, forgets and refuses.
#include "models/session.h"

#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

class SessionTest : public ::testing::Test {
 protected:
  SessionTest() {
    Json config = parse_json(tiny_fixture("llama_untied").config, "config");
    config["max_position_embeddings"] = 700;
    write_tiny(scratch_ / "model", config, tiny_tensors(tiny_fixture("llama_untied")));
    m_ = load_model(scratch_ / "model");
  }
  Session session() { return Session(*m_.model, Activations::f32); }
  static void expect_same(const Tensor& a, const Tensor& b) {
    ASSERT_EQ(a.shape(), b.shape());
    EXPECT_EQ(0, std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size())));
  }

  TemporaryDirectory scratch_;
  LoadedModel m_;
};

TEST_F(SessionTest, TruncateAndContinueEqualsFresh) {
  std::vector<int32_t> ids = tiny_ids(150, 1), other = tiny_ids(40, 2);
  for (int64_t keep : {0, 1, 63, 64, 65, 100, 149}) {
    Session used = session(), fresh = session();
    used.append(ids);
    used.truncate(keep);
    EXPECT_EQ(used.length(), keep);
    if (keep > 0) fresh.append(std::span(ids).first(static_cast<size_t>(keep)));
    expect_same(used.append(other), fresh.append(other));
    EXPECT_EQ(used.length(), keep + 40);
  }
}

TEST_F(SessionTest, TruncatingBeyondTheEndChangesNothing) {
  std::vector<int32_t> ids = tiny_ids(10, 1), more = tiny_ids(1, 2);
  Session a = session(), b = session();
  a.append(ids);
  b.append(ids);
  a.truncate(11);
  EXPECT_EQ(a.length(), 10);
  expect_same(a.append(more), b.append(more));
}

// Beyond the chunk in which long inputs run.
TEST_F(SessionTest, LongInputsRunInChunksToTheSameBits) {
  std::vector<int32_t> ids = tiny_ids(600, 3);
  Session whole = session(), parts = session(), hidden = session();
  Tensor expected = whole.append(ids);
  parts.append(std::span(ids).first(300));
  expect_same(parts.append(std::span(ids).subspan(300)), expected);
  Tensor h = hidden.hidden(ids);
  ASSERT_EQ(h.shape(), (Shape{600, 64}));
  expect_same(hidden.logits(h.rows(599, 600)).reshape({272}), expected);
}

TEST_F(SessionTest, EveryKindOfCacheGivesTheSameBitsInChunks) {
  std::vector<int32_t> ids = tiny_ids(600, 3);
  Session exact = session();
  Tensor reference = exact.append(ids);
  for (KvType type : kv_types()) {
    Session whole(*m_.model, Activations::f32, type), parts(*m_.model, Activations::f32, type);
    Tensor expected = whole.append(ids);
    parts.append(std::span(ids).first(130));
    parts.append(std::span(ids).subspan(130, 1));
    expect_same(parts.append(std::span(ids).subspan(131)), expected);
    const bool fp8 = type == KvType::fp8_e4m3 || type == KvType::fp8_e5m2;
    const double tolerance = type == KvType::int4 ? 0.2 : fp8 ? 0.1 : 0.02;
    EXPECT_LT(relative_distance(expected.data<float>(), reference.data<float>(), expected.numel()),
              tolerance)
        << kv_type_name(type);
    EXPECT_EQ(type == KvType::f32,
              std::memcmp(expected.raw(), reference.raw(), expected.byte_size()) == 0)
        << kv_type_name(type);
  }
}

TEST_F(SessionTest, RefusesPastTheContextBeforeAnythingRuns) {
  std::vector<int32_t> ids = tiny_ids(695, 4), six = tiny_ids(6, 5), one = {7};
  Session s = session(), fresh = session();
  s.append(ids);
  try {
    s.append(six);
    FAIL() << "701 tokens in a context of 700";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::invalid_argument);
    for (const char* part : {"6 tokens", "695", "700"})
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
  EXPECT_THROW(s.hidden(six), Error);
  EXPECT_EQ(s.length(), 695);
  fresh.append(ids);
  expect_same(s.append(one), fresh.append(one));
  s.append(std::span(six).first(4));
  EXPECT_EQ(s.length(), 700);
  EXPECT_THROW(s.append(one), Error);
}

TEST_F(SessionTest, RefusesNothingAndUnknownTokens) {
  Session s = session();
  EXPECT_THROW(s.append({}), Error);
  for (int32_t bad : {-1, 272}) {
    std::vector<int32_t> ids = {5, bad};
    EXPECT_THROW(s.append(ids), Error) << bad;
  }
  // The refused tokens have left nothing behind.
  EXPECT_EQ(s.length(), 0);
  std::vector<int32_t> ids = {5, 6};
  Session fresh = session();
  expect_same(s.append(ids), fresh.append(ids));
}

}  // namespace
}  // namespace hone
