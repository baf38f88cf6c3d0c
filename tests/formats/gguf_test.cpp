// GGUF: files of the reference library load and are rewritten byte for byte; hostile bytes give one
// clear error.
#include "formats/gguf.h"

#include "formats/scratch.h"

namespace hone {
namespace {

const fs::path kGgufGolden = fs::path(HONE_SOURCE_DIR) / "tests" / "golden";

float golden_value(int64_t i, int seed) { return static_cast<float>((i + seed) % 23 - 11) * 0.25f; }

std::string text(const std::string& s) { return le<uint64_t>(s.size()) + s; }

// A GGUF file from parts, so that each test can spoil one of them.
struct Bytes {
  std::string magic = "GGUF";
  uint32_t version = 3;
  uint64_t tensors = 0;
  uint64_t pairs = 0;
  std::string header;
  std::string data;
  size_t alignment = 32;

  void pair(const std::string& key, uint32_t type, const std::string& value) {
    ++pairs;
    header += text(key) + le(type) + value;
  }
  void tensor(const std::string& name, const std::vector<uint64_t>& ne, uint32_t type,
              uint64_t offset) {
    ++tensors;
    header += text(name) + le(static_cast<uint32_t>(ne.size()));
    for (uint64_t n : ne) header += le(n);
    header += le(type) + le(offset);
  }
  std::string str() const {
    std::string s = magic + le(version) + le(tensors) + le(pairs) + header;
    s.resize((s.size() + alignment - 1) / alignment * alignment, '\0');
    return s + data;
  }
};

// One f32 tensor [2, 4] behind one key.
Bytes good() {
  Bytes b;
  b.pair("general.architecture", 8, text("llama"));
  b.tensor("a", {4, 2}, 0, 0);
  b.data = std::string(32, '\x01');
  return b;
}

class Gguf : public ::testing::Test {
 protected:
  GgufFile open(const std::string& bytes) {
    put_file(scratch_ / "x.gguf", bytes);
    return GgufFile::open(scratch_ / "x.gguf");
  }
  void refuse(const std::string& bytes, const std::vector<std::string>& parts,
              ErrorKind kind = ErrorKind::corrupt) {
    std::vector<std::string> all = parts;
    all.push_back("x.gguf");
    expect_error(kind, all, [&] { open(bytes); });
  }
  Scratch scratch_;
};

TEST_F(Gguf, ReadsTheReferenceFile) {
  GgufFile f = GgufFile::open(kGgufGolden / "formats.gguf");
  EXPECT_EQ(f.get_string("general.architecture"), "llama");
  EXPECT_EQ(f.get_u64("scalar.uint8"), 200u);
  EXPECT_EQ(f.get_f64("scalar.int8"), -100);
  EXPECT_EQ(f.get_u64("scalar.uint64"), (uint64_t{1} << 63) + 1);
  EXPECT_EQ(f.get_f64("scalar.float64"), 0.1);
  EXPECT_EQ(f.get_f64("scalar.float32"), 0.5);
  EXPECT_TRUE(f.get_bool("scalar.bool"));
  EXPECT_EQ(f.get_string("scalar.string"), "grüße \n 世界");
  EXPECT_EQ(f.get_ints("array.uint16"), (std::vector<int64_t>{1, 65535}));
  EXPECT_EQ(f.get_ints("array.int64"), (std::vector<int64_t>{INT64_MIN, INT64_MAX}));
  EXPECT_EQ(f.get_floats("array.float32"), (std::vector<float>{1.5f, -2.25f}));
  EXPECT_EQ(f.get_strings("array.string"), (Strings{"", "a", "\u00e9"}));
  EXPECT_EQ(f.find_u64("absent"), std::nullopt);
  EXPECT_EQ(f.find_strings("absent"), nullptr);

  Weight norm = f.weight("norm.weight");
  EXPECT_EQ(norm.encoding, "f32");
  EXPECT_EQ(norm.shape, (Shape{6}));
  for (int i = 0; i < 6; ++i) EXPECT_EQ(norm.plane("values").data<float>()[i], golden_value(i, 1));
  Weight half = f.weight("half.weight");
  EXPECT_EQ(half.shape, (Shape{3, 5}));
  EXPECT_TRUE(half.plane("values").borrowed());
  for (int i = 0; i < 15; ++i)
    EXPECT_EQ(to_f32(half.plane("values").data<f16>()[i]), golden_value(i, 2));
  Weight q8 = f.weight("q8_0.weight");
  EXPECT_EQ(q8.encoding, "q8_0");
  EXPECT_EQ(q8.shape, (Shape{3, 256}));
  EXPECT_EQ(q8.plane("blocks").shape(), (Shape{3, 8 * 34}));
  EXPECT_EQ(f.weight("experts.weight").shape, (Shape{2, 3, 4}));
  EXPECT_EQ(f.tensor("ids").data<int32_t>()[6], 6);
  expect_error(ErrorKind::unsupported, {"'ids'", "formats.gguf"}, [&] { f.weight("ids"); });
  expect_error(ErrorKind::unsupported, {"'q8_0.weight'"}, [&] { f.tensor("q8_0.weight"); });
  expect_error(ErrorKind::corrupt, {"'nope'", "missing"}, [&] { f.weight("nope"); });
  f.release("q8_0.weight");
  EXPECT_EQ(f.weight("q8_0.weight").plane("blocks").data<uint8_t>()[0],
            q8.plane("blocks").data<uint8_t>()[0]);
}

TEST_F(Gguf, RewritesTheReferenceFileByteForByte) {
  GgufFile f = GgufFile::open(kGgufGolden / "formats.gguf");
  GgufWriter writer(scratch_ / "copy.gguf");
  for (const GgufEntry& e : f.metadata()) writer.set(e.key, e.value);
  for (const GgufTensor& t : f.tensors())
    writer.declare(t.name, t.shape(), std::string(find_ggml_type(t.ggml_type)->id));
  for (const GgufTensor& t : f.tensors()) {
    if (t.name == "ids")
      writer.write(t.name, f.bytes(t));
    else
      writer.write(t.name, f.weight(t.name));
  }
  writer.finish();
  EXPECT_EQ(get_file(scratch_ / "copy.gguf"), get_file(kGgufGolden / "formats.gguf"));
}

TEST_F(Gguf, OpensASplitSetFromAnyFile) {
  for (const char* name :
       {"formats_split-00001-of-00002.gguf", "formats_split-00002-of-00002.gguf"}) {
    GgufFile f = GgufFile::open(kGgufGolden / name);
    EXPECT_EQ(f.get_string("general.name"), "split");
    ASSERT_EQ(f.tensors().size(), 3u);
    for (int t = 0; t < 3; ++t)
      for (int i = 0; i < 8; ++i)
        EXPECT_EQ(f.tensor("t" + std::to_string(t)).data<float>()[i], golden_value(i, 20 + t));
  }
  std::string first = get_file(kGgufGolden / "formats_split-00001-of-00002.gguf");
  put_file(scratch_ / "m-00001-of-00002.gguf", first);
  expect_error(ErrorKind::io, {"m-00002-of-00002.gguf"},
               [&] { GgufFile::open(scratch_ / "m-00001-of-00002.gguf"); });
  put_file(scratch_ / "m-00002-of-00002.gguf", first);
  expect_error(ErrorKind::corrupt, {"m-00002-of-00002.gguf", "split.no 1"},
               [&] { GgufFile::open(scratch_ / "m-00001-of-00002.gguf"); });
  refuse(first, {"-of-00002.gguf"});
}

TEST_F(Gguf, ReadsHandMadeBytes) {
  GgufFile f = open(good().str());
  EXPECT_EQ(f.weight("a").shape, (Shape{2, 4}));
  Bytes none;
  EXPECT_TRUE(open(none.str()).tensors().empty());
}

TEST_F(Gguf, CopiesMisalignedFloats) {
  Bytes b = good();
  b.pairs = 2;
  b.header = text("general.alignment") + le(4u) + le(1u) + b.header;
  b.alignment = 1;
  while ((b.str().size() - b.data.size()) % 4 == 0) {
    ++b.pairs;
    b.header = text("k" + std::to_string(b.pairs)) + le(0u) + std::string(1, '\0') + b.header;
  }
  Tensor t = open(b.str()).tensor("a");
  EXPECT_FALSE(t.borrowed());
  EXPECT_EQ(std::memcmp(t.raw(), b.data.data(), 32), 0);
}

TEST_F(Gguf, RefusesOtherFilesAndVersions) {
  refuse("", {"magic"});
  refuse("GG", {"magic"});
  refuse("PK\x03\x04" + std::string(100, 'x'), {"not a GGUF file", "'PK\\x03\\x04'"});
  for (uint32_t version : {0u, 1u, 2u, 4u}) {
    Bytes b = good();
    b.version = version;
    refuse(b.str(), {"version " + std::to_string(version)}, ErrorKind::unsupported);
  }
  Bytes big = good();
  big.version = 0x03000000;
  refuse(big.str(), {"big-endian"}, ErrorKind::unsupported);
}

TEST_F(Gguf, RefusesEveryTruncation) {
  std::string whole = good().str();
  for (size_t n = 0; n < whole.size(); ++n) refuse(whole.substr(0, n), {"byte "});
}

TEST_F(Gguf, RefusesHostileCountsAndLengths) {
  for (uint64_t n : {uint64_t{3}, uint64_t{1} << 32, uint64_t{1} << 61, UINT64_MAX}) {
    Bytes b = good();
    b.tensors = n;
    refuse(b.str(), {"byte "});
    b = good();
    b.pairs = n;
    refuse(b.str(), {"byte "});
    Bytes s;  // a string longer than the file
    ++s.pairs;
    s.header = text("key") + le(8u) + le(n | 1000) + "abc";
    refuse(s.str(), {"byte 39", "string"});
    Bytes k;  // a key longer than the file
    ++k.pairs;
    k.header = le(n | 1000) + std::string(20, 'x');
    refuse(k.str(), {"byte 24", "key"});
    for (uint32_t element = 0; element <= 12; ++element) {
      if (element == 9) continue;
      Bytes a;
      a.pair("key", 9, le(element) + le(n | 1000) + "abc");
      refuse(a.str(), {"array"});
    }
  }
  Bytes long_key;
  long_key.pair(std::string(70000, 'k'), 0, "x");
  refuse(long_key.str(), {"key", "65535"});
  Bytes long_name;
  long_name.tensor(std::string(65, 'n'), {4}, 0, 0);
  long_name.data = std::string(16, '\0');
  refuse(long_name.str(), {"name of a tensor", "64"});
}

TEST_F(Gguf, RefusesHostileValues) {
  Bytes b;
  b.pair("k", 13, "x");
  refuse(b.str(), {"'k'", "type 13"});
  b = Bytes();
  b.pair("k", 9, le(9u) + le(uint64_t{1}) + le(9u) + le(uint64_t{0}));
  refuse(b.str(), {"'k'", "nested"}, ErrorKind::unsupported);
  b = Bytes();
  b.pair("k", 9, le(99u) + le(uint64_t{0}));
  refuse(b.str(), {"'k'", "type 99"});
  b = Bytes();
  b.pair("k", 7, "\x02");
  refuse(b.str(), {"'k'", "boolean"});
  b = Bytes();
  b.pair("", 0, "x");
  refuse(b.str(), {"empty key"});
  b = Bytes();
  b.pair("twice\x1b", 0, "x");
  b.pair("twice\x1b", 0, "x");
  refuse(b.str(), {"'twice\\x1b'", "twice", "byte 43"});
}

TEST_F(Gguf, SaysWhyBlocksOfTablesAreNotRead) {
  Bytes b;
  b.tensor("grid", {256}, 19, 0);
  b.data = std::string(64, '\0');
  GgufFile f = open(b.str());
  expect_error(ErrorKind::unsupported, {"'grid'", "iq1_s", "tables"}, [&] { f.weight("grid"); });
}

TEST_F(Gguf, RefusesHostileTensors) {
  auto with = [](const std::vector<uint64_t>& ne, uint32_t type, uint64_t offset) {
    Bytes b;
    b.tensor("evil", ne, type, offset);
    b.data = std::string(4096, '\0');
    return b.str();
  };
  const std::string name = "'evil'";
  refuse(with({}, 0, 0), {name, "0 dimensions"});
  refuse(with({1, 1, 1, 1, 1}, 0, 0), {name, "5 dimensions"});
  refuse(with({0, 4}, 0, 0), {name, "dimension 0"});
  refuse(with({UINT64_MAX}, 0, 0), {name, "too large"});
  // Products and byte sizes that wrap 64 bits to something small.
  refuse(with({uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0), {name, "too large"});
  refuse(with({uint64_t{1} << 62}, 0, 0), {name, "too large"});
  refuse(with({uint64_t{1} << 62, 4}, 24, 0), {name, "too large"});
  refuse(with({uint64_t{1} << 60, 2, 2, 4}, 2, 0), {name, "too large"});
  refuse(with({2048}, 0, 0), {name, "past the end"});
  refuse(with({1024}, 0, 32), {name, "past the end"});
  refuse(with({8}, 0, uint64_t{INT64_MAX} - 31), {name, "past the end"});
  refuse(with({8}, 0, UINT64_MAX), {name, "offset"});
  refuse(with({8}, 0, 8), {name, "alignment 32"});
  refuse(with({33}, 2, 0), {name, "33", "q4_0"});
  refuse(with({8}, 4, 0), {name, "type 4"}, ErrorKind::unsupported);
  refuse(with({8}, 1000, 0), {name, "type 1000"}, ErrorKind::unsupported);

  Bytes b = good();
  b.tensor("b", {8}, 0, 0);
  refuse(b.str(), {"overlaps", "'a'", "'b'"});
  b = good();
  b.tensor("a", {8}, 0, 32);
  b.data += std::string(32, '\0');
  refuse(b.str(), {"'a'", "twice"});
  b = Bytes();
  b.tensor("", {8}, 0, 0);
  b.data = std::string(32, '\0');
  refuse(b.str(), {"without a name"});
}

TEST_F(Gguf, RefusesHostileAlignment) {
  for (uint32_t alignment : {0u, 3u, 48u}) {
    Bytes b = good();
    b.pair("general.alignment", 4, le(alignment));
    // The pair must come before the tensor's info.
    b.header = text("general.alignment") + le(4u) + le(alignment) +
               b.header.substr(0, b.header.size() - 29);
    refuse(b.str(), {"general.alignment"});
  }
  Bytes b = good();
  ++b.pairs;
  b.header = text("general.alignment") + le(4u) + le(0x80000000u) + b.header;
  refuse(b.str(), {"past the end"});
  b = good();
  ++b.pairs;
  b.header = text("general.alignment") + le(8u) + text("32") + b.header;
  refuse(b.str(), {"general.alignment"});
}

TEST_F(Gguf, NamesFileAndKeyOnWrongTypes) {
  Bytes b;
  b.pair("n", 5, le(-1));
  b.pair("s", 8, text("x"));
  GgufFile f = open(b.str());
  expect_error(ErrorKind::corrupt, {"x.gguf", "'n'", "-1"}, [&] { f.find_u64("n"); });
  expect_error(ErrorKind::corrupt, {"x.gguf", "'s'", "number", "string"}, [&] { f.get_f64("s"); });
  expect_error(ErrorKind::corrupt, {"'n'", "string", "i32"}, [&] { f.find_string("n"); });
  expect_error(ErrorKind::corrupt, {"'n'", "array"}, [&] { f.find_ints("n"); });
  expect_error(ErrorKind::corrupt, {"'s'", "array"}, [&] { f.get_strings("s"); });
  expect_error(ErrorKind::corrupt, {"'absent'", "missing"}, [&] { f.get_u64("absent"); });
}

TEST_F(Gguf, WriterRefusesMisuse) {
  GgufWriter w(scratch_ / "w.gguf");
  auto bad = [](const std::vector<std::string>& parts, const std::function<void()>& f) {
    expect_error(ErrorKind::invalid_argument, parts, f);
  };
  w.set("a", GgufValue::u32(1));
  bad({"'a'"}, [&] { w.set("a", GgufValue::u32(1)); });
  bad({"'b'", "u16"}, [&] { w.set("b", {GgufType::u16, {}, uint64_t{70000}}); });
  bad({"'c'"}, [&] { w.set("c", {GgufType::string, {}, uint64_t{1}}); });
  w.declare("t", {2, 32}, "q4_0");
  bad({"'t'"}, [&] { w.declare("t", {2, 32}, "q4_0"); });
  bad({"'u'", "32"}, [&] { w.declare("u", {32, 2}, "q4_0"); });
  bad({"63"}, [&] { w.declare(std::string(64, 'n'), {2}, "f32"); });
  expect_error(ErrorKind::unsupported, {"nf4"}, [&] { w.declare("v", {2, 32}, "nf4"); });
  std::vector<std::byte> bytes(36);
  bad({"'x'"}, [&] { w.write("x", bytes); });
  bad({"'t'", "36", "35"}, [&] { w.write("t", std::span(bytes).first(35)); });
  bad({"0 of 1"}, [&] { w.finish(); });
  w.write("t", bytes);
  bad({"after"}, [&] { w.set("z", GgufValue::u32(1)); });
  EXPECT_FALSE(fs::exists(scratch_ / "w.gguf"));
  w.finish();
  EXPECT_EQ(GgufFile::open(scratch_ / "w.gguf").weight("t").encoding, "q4_0");
}

TEST_F(Gguf, UnfinishedFilesLeaveNothing) {
  {
    GgufWriter w(scratch_ / "w.gguf");
    w.declare("t", {4}, "f32");
    std::vector<std::byte> bytes(16);
    w.write("t", bytes);
  }
  EXPECT_TRUE(fs::is_empty(scratch_.path()));
}

TEST_F(Gguf, ReadsTheSharedModels) {
  fs::path model = fs::path(HONE_SHARED_DIR) / "models/stories260K/stories260K-F32.gguf";
  if (!fs::exists(model)) GTEST_SKIP() << model << " is not here";
  GgufFile f = GgufFile::open(model);
  EXPECT_EQ(f.get_u64("llama.embedding_length"), 64u);
  EXPECT_EQ(f.get_strings("tokenizer.ggml.tokens").size(), 512u);
  EXPECT_EQ(f.weight("token_embd.weight").shape, (Shape{512, 64}));
}

}  // namespace
}  // namespace hone
