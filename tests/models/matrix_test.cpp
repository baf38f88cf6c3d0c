// Everything loads everywhere: every family, its matrices in every encoding, through every layout.
// What is written is read back to the same logits, bit for bit, or is refused with a reason before
// anything is written. A new line in any of the three registries is covered by it.
#include "encodings/encoding.h"
#include "models/export.h"
#include "models/session.h"
#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

struct Stored {
  std::string encoding;
  WeightParams params;
};

// Those without parameters, and some of those that have any.
std::vector<Stored> stored_forms() {
  std::vector<Stored> all;
  for (const Encoding* e : encodings()) all.push_back({std::string(e->id()), {}});
  for (int bits : {2, 3, 4, 8}) {
    all.push_back({"int_group", {.bits = bits, .group = 32}});
    all.push_back({"int_group", {.bits = bits, .group = 16, .symmetric = false}});
  }
  for (const char* id : {"nf4", "fp4"}) all.push_back({id, {.block = 64, .double_quant = true}});
  return all;
}

Tensor logits_of(LoadedModel& m) {
  Session s(*m.model, Activations::f32);
  return s.logits(s.hidden(tiny_ids(12, 9)));
}

class FamilyMatrix : public ::testing::TestWithParam<TinyFixture> {
 protected:
  void SetUp() override { write_tiny(scratch_ / "model", GetParam()); }

  // With all matrices of the blocks that take the form in it; how many they are.
  int store(LoadedModel& m, const Stored& form) const {
    const Encoding& e = encoding(form.encoding);
    int stored = 0;
    for (Linear* l : m.model->linears()) {
      if (l == &m.model->head) continue;
      const int64_t n = l->out_features(), k = l->in_features();
      if (!e.encode_refusal(n, k, form.params).empty()) continue;
      const Tensor values = decode_weight(l->weight());
      EncodeOptions o;
      o.params = form.params;
      l->set_weight(e.encode(values.data<float>(), n, k, o));
      ++stored;
    }
    return stored;
  }

  TemporaryDirectory scratch_;
};

TEST_P(FamilyMatrix, WhatIsWrittenHasTheSameLogits) {
  int written = 0;
  for (const Stored& form : stored_forms()) {
    LoadedModel m = load_editable(scratch_ / "model");
    if (store(m, form) == 0) continue;
    const Tensor expected = logits_of(m);
    for (const Layout& layout : layouts()) {
      if (layout.write == nullptr) continue;
      SCOPED_TRACE(fmt::format("{} ({} bits) as {}", form.encoding, form.params.bits, layout.name));
      const fs::path out = scratch_ / (layout.name == std::string("gguf") ? "out.gguf" : "out");
      ExportOptions o;
      o.layout = layout.name;
      try {
        export_model(m, out, o);
      } catch (const Error& e) {
        EXPECT_EQ(e.kind(), ErrorKind::unsupported) << e.what();
        EXPECT_FALSE(fs::exists(out)) << e.what();
        continue;
      }
      ++written;
      LoadedModel back = load_model(out);
      const Tensor got = logits_of(back);
      ASSERT_EQ(got.shape(), expected.shape());
      EXPECT_EQ(0, std::memcmp(got.raw(), expected.raw(), size_t(got.byte_size())));
      fs::remove_all(out);
    }
  }
  // Plain floats at least, in a directory.
  EXPECT_GE(written, 3);
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyMatrix, ::testing::ValuesIn(tiny_fixtures()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace hone
