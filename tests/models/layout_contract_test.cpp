// What every layout of the registry promises of every encoding of theirs: a weight is read back as
// it was written, plane by plane, or refused with a reason before anything is written; and whatever
// becomes of the files afterwards, reading them ends in an Error or a model. New layouts and new
// encodings are covered by their lines in the registries; the variants below only add parameters.
#include <nlohmann/json.hpp>

#include "base/threads.h"
#include "encodings/encoding.h"
#include "formats/checkpoint.h"
#include "testing.h"

namespace hone {
namespace {

using namespace testing;

struct Case {
  const Layout* layout;
  const Encoding* encoding;
  WeightParams params;
  std::string name;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

std::vector<Case> make_cases() {
  std::vector<Case> cases;
  for (const Layout& l : layouts()) {
    auto add = [&](const Encoding& e, const std::string& suffix, WeightParams p) {
      cases.push_back(
          {&l, &e, p,
           std::string(l.name) + "_" + std::string(e.id()) + (suffix.empty() ? "" : "_") + suffix});
    };
    for (const Encoding* e : encodings()) add(*e, "", {});
    for (int bits = 2; bits <= 8; ++bits) {
      std::string b = std::to_string(bits);
      add(encoding("int_group"), b + "_sym_g64", {.bits = bits, .group = 64});
      add(encoding("int_group"), b + "_asym_g32", {.bits = bits, .group = 32, .symmetric = false});
      add(encoding("int_group"), b + "_row_bf16", {.bits = bits, .scale_type = DType::bf16});
      add(encoding("int_group"), b + "_g48_f32",
          {.bits = bits, .group = 48, .scale_type = DType::f32});
    }
    for (const char* id : {"nf4", "fp4"}) {
      add(encoding(id), "block128", {.block = 128});
      add(encoding(id), "double", {.block = 64, .double_quant = true});
    }
  }
  return cases;
}

constexpr const char* kName = "blk.0.ffn_up.weight";
constexpr int64_t kRows = 64, kCols = 256;

struct Matrix {
  const char* name;
  Weight weight;
};

class LayoutContract : public ::testing::TestWithParam<Case> {
 protected:
  // Thousands of tiny files: waking a pool for each takes longer than reading it.
  void SetUp() override { set_threads(1); }
  void TearDown() override { set_threads(0); }

  const Layout& layout() const { return *GetParam().layout; }

  // The matrix in question between two vectors.
  std::vector<Matrix> matrices() const {
    EncodeOptions o;
    o.params = GetParam().params;
    std::vector<float> x = random_values(kRows * kCols, 3);
    std::vector<Matrix> all = {{"a.weight", float_weight(random_tensor({33}, 1))}};
    all.push_back({kName, GetParam().encoding->encode(x.data(), kRows, kCols, o)});
    all.push_back({"z.bias", float_weight(random_tensor({8}, 2))});
    return all;
  }
  CheckpointContents contents(const std::vector<Matrix>& all) const {
    CheckpointContents c;
    c.config = {{"model_type", "llama"}};
    c.gguf_metadata = {{"general.architecture", GgufValue::string("llama")}};
    if (layout().name != "gguf") c.texts = {{"note.txt", "a text"}};
    for (const Matrix& m : all)
      c.weights.push_back({m.name, m.weight.shape, m.weight.encoding, m.weight.params});
    c.weight = [&all](const std::string& name) {
      for (const Matrix& m : all)
        if (name == m.name) return m.weight;
      throw std::runtime_error("asked for " + name);
    };
    return c;
  }
  bool encodes() const {
    return GetParam().encoding->encode_refusal(kRows, kCols, GetParam().params).empty();
  }
  /// Written, or refused as a layout must refuse.
  bool write(const fs::path& path, const std::vector<Matrix>& all) {
    if (layout().write == nullptr) return false;
    try {
      write_checkpoint(layout().name, path, contents(all));
      return true;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::unsupported) << e.what();
      EXPECT_NE(std::string(e.what()).find(kName), std::string::npos) << e.what();
      EXPECT_TRUE(fs::is_empty(scratch_.path())) << "something was left behind";
      return false;
    }
  }

  TemporaryDirectory scratch_;
};

void expect_same_weight(const Weight& a, const Weight& b) {
  EXPECT_EQ(a.shape, b.shape);
  EXPECT_EQ(a.encoding, b.encoding);
  ASSERT_EQ(a.planes.size(), b.planes.size());
  for (const auto& [name, plane] : a.planes) {
    ASSERT_TRUE(b.planes.contains(name)) << name;
    const Tensor& other = b.plane(name);
    EXPECT_EQ(plane.dtype(), other.dtype()) << name;
    EXPECT_EQ(plane.shape(), other.shape()) << name;
    ASSERT_EQ(plane.byte_size(), other.byte_size()) << name;
    EXPECT_EQ(0, std::memcmp(plane.raw(), other.raw(), static_cast<size_t>(plane.byte_size())))
        << name;
  }
}

// Everything that a loader would touch.
void read_all(const fs::path& path) {
  auto checkpoint = open_checkpoint(path);
  for (const std::string& name : checkpoint->names()) {
    Weight w = checkpoint->weight(name);
    if (w.shape.size() == 2) encoding(w.encoding).validate(w);
    if (w.numel() < (1 << 22)) decode_weight(w);
  }
}

TEST_P(LayoutContract, ReadsBackWhatItWroteOrRefuses) {
  if (!encodes()) GTEST_SKIP() << "the encoding itself refuses these parameters";
  std::vector<Matrix> all = matrices();
  fs::path path = scratch_ / "model.gguf";
  if (!write(path, all)) return;
  EXPECT_TRUE(layout().can_open == nullptr || layout().can_open(path));
  auto checkpoint = open_checkpoint(path);
  EXPECT_TRUE(std::string(layout().name).starts_with(checkpoint->layout) ||
              checkpoint->layout == "hf")
      << checkpoint->layout;
  EXPECT_EQ(checkpoint->architecture, "llama");
  EXPECT_EQ(checkpoint->names().size(), all.size());
  for (const Matrix& m : all) {
    SCOPED_TRACE(m.name);
    ASSERT_TRUE(checkpoint->has(m.name));
    Weight back = checkpoint->weight(m.name);
    EXPECT_EQ(back.params, m.weight.params);
    expect_same_weight(m.weight, back);
    checkpoint->release(m.name);
    expect_same_weight(m.weight, checkpoint->weight(m.name));
  }
  EXPECT_FALSE(checkpoint->has("b.weight"));
  EXPECT_THROW(checkpoint->weight("b.weight"), Error);
}

TEST_P(LayoutContract, WritesTheSameBytesTwice) {
  if (!encodes()) GTEST_SKIP() << "the encoding itself refuses these parameters";
  std::vector<Matrix> all = matrices();
  if (!write(scratch_ / "a.gguf", all)) return;
  write_checkpoint(layout().name, scratch_ / "b.gguf", contents(all));
  auto bytes = [](const fs::path& p) {
    std::map<std::string, std::string> files;
    if (!fs::is_directory(p)) return files = {{"", read_text_file(p)}};
    for (const auto& e : fs::directory_iterator(p))
      files[e.path().filename().string()] = read_text_file(e.path());
    return files;
  };
  EXPECT_EQ(bytes(scratch_ / "a.gguf"), bytes(scratch_ / "b.gguf"));
}

// Files cut short, and headers with a byte changed: every outcome but an Error or a readable model
// ends the test program.
TEST_P(LayoutContract, SurvivesSpoiledFiles) {
  if (!encodes()) GTEST_SKIP() << "the encoding itself refuses these parameters";
  fs::path path = scratch_ / "model.gguf";
  if (!write(path, matrices())) return;
  std::vector<fs::path> files;
  if (!fs::is_directory(path))
    files.push_back(path);
  else
    for (const auto& e : fs::directory_iterator(path))
      if (e.path().extension() != ".txt") files.push_back(e.path());
  for (const fs::path& file : files) {
    const std::string good = read_text_file(file);
    auto with = [&](const std::string& bytes) { put_file(file, bytes); };
    // What config.json says, too, for older readers.
    bool optional =
        file.filename() == "quantize_config.json" || file.filename() == "hf_quant_config.json";
    for (size_t keep :
         {size_t{0}, size_t{1}, size_t{7}, size_t{9}, good.size() / 2, good.size() - 2}) {
      with(good.substr(0, keep));
      if (optional) continue;
      EXPECT_THROW(read_all(path), Error) << file.filename() << " cut to " << keep;
    }
    size_t header = std::min<size_t>(good.size(), 900), step = std::max<size_t>(1, header / 60);
    for (size_t at = 0; at < header; at += step) {
      std::string bad = good;
      constexpr int kFlips[] = {1, 0x80, 0xFF};
      bad[at] = static_cast<char>(bad[at] ^ kFlips[at / step % 3]);
      with(bad);
      try {
        read_all(path);
      } catch (const Error& e) {
        EXPECT_NE(e.kind(), ErrorKind::internal) << e.what();
      }
    }
    with(good);
  }
  EXPECT_NO_THROW(read_all(path));
}

INSTANTIATE_TEST_SUITE_P(Layouts, LayoutContract, ::testing::ValuesIn(make_cases()),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// Nobody notices a layout that refuses everything, or an encoding that none takes, otherwise.
TEST(LayoutRegistry, EveryLayoutHoldsFloatsAndEveryEncodingHasALayout) {
  std::map<std::string, int> homes;
  for (const Case& c : make_cases()) {
    if (!c.encoding->encode_refusal(kRows, kCols, c.params).empty()) continue;
    WeightInfo info{kName, {kRows, kCols}, std::string(c.encoding->id()), c.params};
    std::vector<float> x(kRows * kCols);
    EncodeOptions o;
    o.params = c.params;
    info.params = c.encoding->encode(x.data(), kRows, kCols, o).params;
    bool holds = c.layout->write != nullptr && c.layout->refusal(info).empty();
    homes[info.encoding] += holds;
    bool plain = info.encoding == "f32" || info.encoding == "f16" || info.encoding == "bf16";
    EXPECT_TRUE(holds || !plain || c.layout->write == nullptr) << c.name;
  }
  for (const auto& [id, count] : homes)
    EXPECT_TRUE(count > 0 || id.starts_with("f8_")) << id << ": no layout can store it";
}

}  // namespace
}  // namespace hone
