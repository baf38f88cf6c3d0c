// Adapter files of the two kinds: what the reference library made of a PEFT directory is what hone
// makes of it, the way back gives the same tensors, factors are the same on both sides, and what a
// LoRA file cannot say is refused.
#include "models/adapter_file.h"

#include <cstring>

#include "encodings/encoding.h"
#include "formats/peft_modules.h"
#include "models/loader.h"
#include "testing.h"

namespace hone {
namespace {

using testing::golden;

bool same(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size())) == 0;
}

struct AdapterFile : ::testing::Test {
  AdapterFile() : llama(load("llama")), gpt2(load("gpt2")) {}
  static LoadedModel load(const char* name) {
    LoadOptions o;
    o.inference = false;
    return load_model(golden("training") / name, o);
  }
  static PeftAdapter peft(const char* name) {
    return read_peft_directory(golden("training") / name / "initial");
  }
  static GgufAdapter to_gguf(const PeftAdapter& a, const LoadedModel& base) {
    return gguf_from_peft(a, *base.family, base.config, "it");
  }
  static PeftAdapter to_peft(const GgufAdapter& a, const LoadedModel& base) {
    return peft_from_gguf(a, *base.family, base.config, "it");
  }
  // Both say the same: tensors, factors, and which modules are meant.
  static void expect_same(const PeftAdapter& a, const PeftAdapter& b) {
    ASSERT_EQ(a.tensors.size(), b.tensors.size());
    const PeftMatcher ours(a.config, "a"), theirs(b.config, "b");
    for (const auto& [name, t] : a.tensors) {
      ASSERT_TRUE(b.tensors.contains(name)) << name;
      EXPECT_TRUE(same(t, b.tensors.at(name))) << name;
      const std::string module = split_peft_name(name, "a").module;
      EXPECT_TRUE(theirs.adapts(module, true, false)) << module;
      EXPECT_EQ(ours.rank(module), theirs.rank(module)) << module;
      EXPECT_NEAR(ours.scale(module), theirs.scale(module), 1e-6) << module;
    }
  }
  static void expect_same_tensors(const PeftAdapter& a, const PeftAdapter& b) {
    ASSERT_EQ(a.tensors.size(), b.tensors.size());
    for (const auto& [name, t] : a.tensors) EXPECT_TRUE(same(t, b.tensors.at(name))) << name;
  }
  static void expect_error(const std::function<void()>& f, const std::string& part) {
    try {
      f();
      ADD_FAILURE() << "nothing was refused: " << part;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
      EXPECT_NE(e.kind(), ErrorKind::internal);
    }
  }
  LoadedModel llama, gpt2;
};

TEST_F(AdapterFile, IsWhatTheReferenceLibraryMakes) {
  const GgufAdapter expected = read_gguf_adapter(golden("training/lora/initial.gguf"));
  const GgufAdapter made = to_gguf(peft("lora"), llama);
  EXPECT_EQ(made.architecture, expected.architecture);
  EXPECT_EQ(made.alpha, expected.alpha);
  ASSERT_EQ(made.pairs.size(), expected.pairs.size());
  for (const GgufLoraPair& pair : made.pairs) {
    const auto found = std::ranges::find(expected.pairs, pair.name, &GgufLoraPair::name);
    ASSERT_NE(found, expected.pairs.end()) << pair.name;
    EXPECT_TRUE(same(pair.a.plane("values"), found->a.plane("values"))) << pair.name;
    EXPECT_TRUE(same(pair.b.plane("values"), found->b.plane("values"))) << pair.name;
  }
}

TEST_F(AdapterFile, GoesThereAndBack) {
  expect_same(peft("lora"),
              read_adapter(golden("training/lora/initial.gguf"), *llama.family, llama.config));
  for (const char* name : {"lora", "rslora", "lora_embedding"})
    expect_same(to_peft(to_gguf(peft(name), llama), llama), peft(name));
  const PeftAdapter back = to_peft(to_gguf(peft("lora_gpt2"), gpt2), gpt2);
  expect_same(back, peft("lora_gpt2"));
  EXPECT_TRUE(back.config.fan_in_fan_out);
}

TEST_F(AdapterFile, RsLoraIsAnAlpha) {
  const GgufAdapter plain = to_gguf(peft("lora"), llama), rs = to_gguf(peft("rslora"), llama);
  EXPECT_EQ(plain.alpha, 8);
  EXPECT_EQ(rs.alpha, 16);  // 8·√4
  EXPECT_EQ(rs.scale(rs.pairs[0]), 4);
}

TEST_F(AdapterFile, FactorsThatDifferGoIntoB) {
  PeftAdapter a = peft("lora");
  a.config.alpha_pattern = {{"layers\\.1\\.mlp\\.up_proj", 5}};
  const GgufAdapter made = to_gguf(a, llama), plain = to_gguf(peft("lora"), llama);
  int changed = 0;
  for (size_t i = 0; i < made.pairs.size(); ++i) {
    const GgufLoraPair &pair = made.pairs[i], &was = plain.pairs[i];
    const bool own = pair.name == "blk.1.ffn_up.weight";
    changed += own;
    EXPECT_EQ(same(pair.b.plane("values"), was.b.plane("values")), !own) << pair.name;
    const double s = own ? 5.0 / 4 : 8.0 / 4;
    const Tensor b = decode_weight(pair.b), before = decode_weight(was.b);
    for (int64_t j = 0; j < b.numel(); ++j)
      EXPECT_NEAR(made.scale(pair) * b.data<float>()[j], s * before.data<float>()[j], 1e-6);
  }
  EXPECT_EQ(changed, 1);
}

TEST_F(AdapterFile, RanksThatDifferKeepTheirFactors) {
  // Two columns of A and B fewer, of one module.
  GgufAdapter gguf = to_gguf(peft("lora"), llama);
  for (GgufLoraPair& pair : gguf.pairs) {
    if (pair.name != "blk.0.attn_v.weight") continue;
    pair.a = float_weight(pair.a.plane("values").rows(0, 2));
    Tensor b = Tensor::empty({pair.b.rows(), 2}, DType::f32);
    for (int64_t i = 0; i < b.dim(0); ++i)
      for (int64_t j = 0; j < 2; ++j)
        b.mutable_data<float>()[i * 2 + j] = pair.b.plane("values").data<float>()[i * 4 + j];
    pair.b = float_weight(b);
  }
  for (const float alpha : {8.0f, 0.0f}) {
    gguf.alpha = alpha;
    const PeftAdapter made = to_peft(gguf, llama);
    const PeftMatcher matcher(made.config, "it");
    EXPECT_EQ(matcher.rank("model.layers.0.self_attn.v_proj"), 2);
    EXPECT_EQ(matcher.scale("model.layers.0.self_attn.v_proj"), alpha == 0 ? 1 : 4);
    EXPECT_EQ(matcher.rank("model.layers.1.self_attn.v_proj"), 4);
    EXPECT_EQ(matcher.scale("model.layers.1.self_attn.v_proj"), alpha == 0 ? 1 : 2);
    expect_same(to_peft(to_gguf(made, llama), llama), made);
  }
  testing::TemporaryDirectory scratch;
  write_peft_directory(scratch / "out", to_peft(gguf, llama));
  expect_same(read_peft_directory(scratch / "out"), to_peft(gguf, llama));
}

TEST_F(AdapterFile, RefusesWhatAFileCannotSay) {
  expect_error([&] { to_gguf(peft("dora"), llama); }, "DoRA");
  expect_error([&] { to_gguf(peft("ia3"), llama); }, "IA3");
  expect_error([&] { to_gguf(peft("prefix"), llama); }, "PREFIX_TUNING");
  expect_error([&] { to_gguf(peft("whole"), llama); }, "lm_head.weight");
  expect_error([&] { to_gguf(peft("lora"), gpt2); }, "no place for the tensor");
  PeftAdapter head = peft("lora_gpt2");
  head.config.target_modules.names.push_back("lm_head");
  for (const char* half : {"lora_A.weight", "lora_B.weight"})
    head.tensors[peft_tensor_name({"lm_head", half})] =
        Tensor::zeros(half[5] == 'A' ? Shape{4, 32} : Shape{96, 4}, DType::f32);
  expect_error([&] { to_gguf(head, gpt2); }, "lm_head");
  PeftAdapter none = peft("lora");
  none.config.lora_alpha = 0;
  expect_error([&] { to_gguf(none, llama); }, "0");
}

TEST_F(AdapterFile, RefusesFilesOfOtherModels) {
  GgufAdapter gguf = to_gguf(peft("lora"), llama);
  expect_error([&] { to_peft(gguf, gpt2); }, "llama");
  GgufAdapter unknown = gguf;
  unknown.pairs[0].name = "blk.77.attn_q.weight";
  expect_error([&] { to_peft(unknown, llama); }, "blk.77.attn_q.weight");
  GgufAdapter short_rows = gguf;
  for (GgufLoraPair& pair : short_rows.pairs)
    if (pair.name == "blk.0.attn_q.weight")
      pair.b = float_weight(pair.b.plane("values").rows(0, 5));
  expect_error([&] { to_peft(short_rows, llama); }, "5 rows");
}

TEST_F(AdapterFile, KnowsAnAdapterFromAModel) {
  EXPECT_TRUE(is_adapter(golden("training/lora/initial")));
  EXPECT_TRUE(is_adapter(golden("training/lora/initial.gguf")));
  EXPECT_FALSE(is_adapter(golden("training/llama")));
  EXPECT_FALSE(is_adapter(golden("no/such.gguf")));
}

// GPT-NeoX's fused rows are q, k and v of each head in turn, GPT-J's q and k have pairs side by
// side; hone has them in another order, so what an adapter adds follows.
TEST_F(AdapterFile, RowsFollowTheBasesOrder) {
  auto counted = [](const std::string& module, int64_t rows) {
    PeftAdapter a;
    a.config.peft_type = "LORA";
    a.tensors[peft_tensor_name({module, "lora_B.weight"})] = Tensor::empty({rows, 2}, DType::f32);
    for (auto& [name, t] : a.tensors)
      for (int64_t i = 0; i < t.numel(); ++i)
        t.mutable_data<float>()[i] = static_cast<float>(i / 2);
    return a;
  };
  auto row = [](const PeftAdapter& a, int64_t i) {
    return static_cast<int64_t>(a.tensors.begin()->second.data<float>()[2 * i + 1]);
  };
  auto family = [](const char* name) {
    LoadOptions o;
    o.inference = false;
    return load_model(golden("families") / name, o);
  };
  const LoadedModel neox = family("gpt_neox");  // two heads of 16
  PeftAdapter file = counted("gpt_neox.layers.1.attention.query_key_value", 96);
  PeftAdapter ours = reordered(file, *neox.family, neox.config, false, "it");
  EXPECT_EQ(row(ours, 16), 48);  // q of the second head
  EXPECT_EQ(row(ours, 33), 17);  // k of the first
  EXPECT_EQ(row(ours, 95), 95);
  expect_same_tensors(reordered(ours, *neox.family, neox.config, true, "it"), file);
  const LoadedModel gptj = family("gptj");  // two heads of 16, 8 of them rotated
  file = counted("transformer.h.0.attn.k_proj", 32);
  ours = reordered(file, *gptj.family, gptj.config, false, "it");
  EXPECT_EQ(row(ours, 1), 2);
  EXPECT_EQ(row(ours, 20), 17);
  EXPECT_EQ(row(ours, 31), 31);
  expect_same_tensors(reordered(ours, *gptj.family, gptj.config, true, "it"), file);
  expect_error(
      [&] {
        reordered(counted("transformer.h.0.attn.k_proj", 31), *gptj.family, gptj.config, false,
                  "it");
      },
      "expected 32 rows");
}

}  // namespace
}  // namespace hone
