// Doctor: sick checkpoints made on purpose, what is found in them, and what mending gives back.
#include "models/doctor.h"

#include <limits>

#include "encodings/encoding.h"
#include "models/export.h"
#include "models/session.h"
#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

class Doctor : public ::testing::Test {
 protected:
  static std::vector<Finding> look(const fs::path& path) { return examine(path, nullptr); }

  static std::vector<Finding> of(const std::vector<Finding>& all, const std::string& check) {
    std::vector<Finding> some;
    for (const Finding& f : all)
      if (f.check == check) some.push_back(f);
    return some;
  }

  static Tensor logits(const fs::path& path) {
    LoadedModel m = load_editable(path);
    Session s(*m.model, Activations::f32);
    return s.logits(s.hidden(tiny_ids(20, 9)));
  }

  // The tiny model in asymmetric 4-bit groups, in the old layout of GPTQ.
  fs::path quantised(const std::string& name) {
    write_tiny(scratch_ / "floats", tiny_fixture("llama"));
    LoadedModel m = load_editable(scratch_ / "floats");
    for (Linear* l : m.model->linears()) {
      if (l == &m.model->head) continue;
      const Tensor values = decode_weight(l->weight());
      EncodeOptions o;
      o.params = {.bits = 4, .group = 32, .symmetric = false};
      l->set_weight(
          encoding("int_group").encode(values.data<float>(), values.dim(0), values.dim(1), o));
    }
    ExportOptions o;
    o.layout = name;
    export_model(m, scratch_ / name, o);
    return scratch_ / name;
  }

  static void replace_text(const fs::path& file, const std::string& from, const std::string& to) {
    std::string text = read_text_file(file);
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from << " in " << text;
    put_file(file, text.replace(at, from.size(), to));
  }

  static void write_mended(const fs::path& from, const fs::path& to) {
    LoadedModel m = load_editable(from);
    EXPECT_FALSE(mend(m).empty());
    ExportOptions o;
    o.layout = m.layout;
    export_model(m, to, o);
  }

  TemporaryDirectory scratch_;
};

TEST_F(Doctor, FindsNothingInHealthyModels) {
  for (const char* name : {"gptq", "gptq_v2"}) {
    const std::vector<Finding> found = look(quantised(name));
    EXPECT_TRUE(found.empty()) << found[0].module << ": " << found[0].text;
    fs::remove_all(scratch_ / "floats");
  }
}

TEST_F(Doctor, MendsZeroPointsUnderTheWrongVersion) {
  for (const auto& [is, says] : {std::pair{"gptq", "gptq_v2"}, {"gptq_v2", "gptq"}}) {
    const fs::path path = quantised(is);
    fs::remove_all(scratch_ / "floats");
    const Tensor right = logits(path);
    replace_text(path / "config.json", fmt::format("\"checkpoint_format\": \"{}\"", is),
                 fmt::format("\"checkpoint_format\": \"{}\"", says));
    const std::vector<Finding> found = of(look(path), "zero points");
    EXPECT_EQ(found.size(), 14u);  // seven matrices of two blocks
    for (const Finding& f : found) EXPECT_TRUE(f.mendable && f.level == Finding::Level::fault);
    const Tensor wrong = logits(path);
    EXPECT_GT(relative_distance(wrong.data<float>(), right.data<float>(), right.numel()), 0.1);
    write_mended(path, scratch_ / "mended");
    EXPECT_TRUE(look(scratch_ / "mended").empty());
    EXPECT_EQ(open_checkpoint(scratch_ / "mended")->layout, says);
    const Tensor mended = logits(scratch_ / "mended");
    EXPECT_EQ(0, std::memcmp(mended.raw(), right.raw(), static_cast<size_t>(right.byte_size())));
    fs::remove_all(scratch_ / "mended");
  }
}

TEST_F(Doctor, NamesTensorsWithNumbersThatAreNone) {
  auto tensors = tiny_tensors(tiny_fixture("llama"), 1);
  const std::string up = "model.layers.1.mlp.up_proj.weight", norm = "model.norm.weight";
  tensors.at(up).mutable_data<float>()[7] = std::numeric_limits<float>::quiet_NaN();
  tensors.at(up).mutable_data<float>()[9] = -std::numeric_limits<float>::infinity();
  tensors.at(norm).mutable_data<float>()[0] = std::numeric_limits<float>::quiet_NaN();
  write_tiny(scratch_ / "nan", parse_json(tiny_fixture("llama").config, "llama"), tensors);
  const std::vector<Finding> found = of(look(scratch_ / "nan"), "finite");
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].module, up);
  EXPECT_TRUE(found[0].text.starts_with("2 of ")) << found[0].text;
  EXPECT_TRUE(found[0].mendable);
  EXPECT_EQ(found[1].module, norm);
  EXPECT_FALSE(found[1].mendable);  // no number is the right one
  write_mended(scratch_ / "nan", scratch_ / "mended");
  EXPECT_EQ(of(look(scratch_ / "mended"), "finite").size(), 1u);
}

TEST_F(Doctor, ScalesInsideBlocksAreSaidToBeOutOfReach) {
  write_tiny(scratch_ / "floats", tiny_fixture("llama"));
  LoadedModel m = load_editable(scratch_ / "floats");
  Linear* up = m.model->linears()[5];
  Tensor values = decode_weight(up->weight());
  Weight w = encoding("q8_0").encode(values.data<float>(), values.dim(0), values.dim(1), {});
  Tensor& blocks = w.planes.begin()->second;
  blocks = blocks.clone();
  blocks.mutable_data<uint8_t>()[0] = 0x00, blocks.mutable_data<uint8_t>()[1] = 0x7e;  // a NaN
  up->set_weight(w);
  ExportOptions o;
  o.layout = "gguf";
  export_model(m, scratch_ / "nan.gguf", o);
  const std::vector<Finding> found = of(look(scratch_ / "nan.gguf"), "finite");
  ASSERT_EQ(found.size(), 1u);
  EXPECT_TRUE(found[0].text.starts_with("32 of ")) << found[0].text;
  EXPECT_FALSE(found[0].mendable);
}

TEST_F(Doctor, MendsLearnedPositions) {
  auto tensors = tiny_tensors(tiny_fixture("gpt2"), 1);
  tensors.at("transformer.wpe.weight").mutable_data<float>()[3] =
      std::numeric_limits<float>::infinity();
  write_tiny(scratch_ / "inf", parse_json(tiny_fixture("gpt2").config, "gpt2"), tensors);
  EXPECT_EQ(of(look(scratch_ / "inf"), "finite").size(), 1u);
  write_mended(scratch_ / "inf", scratch_ / "mended");
  EXPECT_TRUE(of(look(scratch_ / "mended"), "finite").empty());
}

TEST_F(Doctor, TiesAHeadThatRepeatsTheEmbedding) {
  const TinyFixture& untied = tiny_fixture("llama_untied");
  auto tensors = tiny_tensors(untied, 1);
  tensors.at("lm_head.weight") = tensors.at("model.embed_tokens.weight").clone();
  write_tiny(scratch_ / "twice", parse_json(untied.config, "llama"), tensors);
  const std::vector<Finding> found = look(scratch_ / "twice");
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].check, "tied");
  EXPECT_EQ(found[0].level, Finding::Level::remark);
  write_mended(scratch_ / "twice", scratch_ / "mended");
  EXPECT_TRUE(look(scratch_ / "mended").empty());
  EXPECT_LT(written_bytes(scratch_ / "mended"), written_bytes(scratch_ / "twice"));
  const Tensor before = logits(scratch_ / "twice"), after = logits(scratch_ / "mended");
  EXPECT_EQ(0, std::memcmp(before.raw(), after.raw(), static_cast<size_t>(after.byte_size())));
}

TEST_F(Doctor, OneBrokenTensorHidesNoOther) {
  auto tensors = tiny_tensors(tiny_fixture("llama"), 1);
  tensors.at("model.layers.0.mlp.up_proj.weight") = random_tensor({255, 128}, 3);
  Tensor& v = tensors.at("model.layers.1.self_attn.v_proj.weight");
  std::fill_n(v.mutable_data<float>(), 3 * v.dim(1), 0.0f);
  write_tiny(scratch_ / "odd", parse_json(tiny_fixture("llama").config, "llama"), tensors);
  const std::vector<Finding> found = look(scratch_ / "odd");
  ASSERT_EQ(of(found, "loads").size(), 1u);
  EXPECT_NE(found[0].text.find("up_proj"), std::string::npos) << found[0].text;
  ASSERT_EQ(of(found, "dead").size(), 1u);
  EXPECT_EQ(of(found, "dead")[0].module, "model.layers.1.self_attn.v_proj.weight");
  EXPECT_TRUE(of(found, "dead")[0].text.starts_with("3 of "));
}

}  // namespace
}  // namespace hone
