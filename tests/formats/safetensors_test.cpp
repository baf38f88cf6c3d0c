// safetensors: files of the reference library load and are rewritten byte for byte; hostile bytes
// give one clear error.
#include "formats/safetensors.h"

#include "formats/safetensors_types.h"
#include "formats/scratch.h"

namespace hone {
namespace {

const fs::path kGolden = fs::path(HONE_SOURCE_DIR) / "tests" / "golden";

std::string file(const std::string& header, size_t data) {
  return le<uint64_t>(header.size()) + header + std::string(data, '\x01');
}
std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  int64_t begin, int64_t end) {
  return fmt::format("\"{}\":{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{},{}]}}", name,
                     dtype, shape, begin, end);
}

class Safetensors : public ::testing::Test {
 protected:
  SafetensorsFile open(const std::string& bytes) {
    put_file(scratch_ / "x.safetensors", bytes);
    return SafetensorsFile::open(scratch_ / "x.safetensors");
  }
  void refuse(const std::string& bytes, const std::vector<std::string>& parts,
              ErrorKind kind = ErrorKind::corrupt) {
    std::vector<std::string> all = parts;
    all.push_back("x.safetensors");
    expect_error(kind, all, [&] { open(bytes); });
  }
  Scratch scratch_;
};

double element(const Tensor& t, int64_t i) {
  return visit_dtype(t.dtype(), [&](auto x) -> double {
    using T = decltype(x);
    if constexpr (std::is_arithmetic_v<T>)
      return static_cast<double>(t.data<T>()[i]);
    else
      return to_f32(t.data<T>()[i]);
  });
}

TEST_F(Safetensors, ReadsTheReferenceFile) {
  SafetensorsFile f = SafetensorsFile::open(kGolden / "formats.safetensors");
  EXPECT_EQ(f.metadata(), (std::map<std::string, std::string>{{"format", "pt"}}));
  EXPECT_EQ(f.entries().size(), 44u);
  for (const char* type : {"float64", "float32", "float16", "bfloat16", "float8_e4m3fn",
                           "float8_e5m2", "int64", "int32", "int16", "int8", "uint8"}) {
    Tensor b = f.tensor(std::string(type) + ".b");
    EXPECT_EQ(b.shape(), (Shape{3, 5}));
    // 3 i, which fp8 rounds: E4M3 keeps four significant bits, E5M2 three.
    for (int i = 0; i < 15; ++i)
      EXPECT_NEAR(element(b, i), 3 * i,
                  std::string(type).starts_with("float8") ? 2 + 2 * (i > 10) : 0)
          << type;
    EXPECT_EQ(f.tensor(std::string(type) + ".scalar").shape(), Shape{});
    EXPECT_EQ(f.tensor(std::string(type) + ".empty").shape(), (Shape{0, 3}));
  }
  EXPECT_EQ(f.tensor("float8_e4m3fn.b").dtype(), DType::f8_e4m3);
  expect_error(ErrorKind::corrupt, {"'nope'", "formats.safetensors"}, [&] { f.tensor("nope"); });
}

TEST_F(Safetensors, ReadsBooleansAndUnsignedAsTheSameBits) {
  SafetensorsFile f = SafetensorsFile::open(kGolden / "formats_aliases.safetensors");
  EXPECT_EQ(f.tensor("bool.a").dtype(), DType::u8);
  EXPECT_EQ(element(f.tensor("bool.a"), 0), 0);
  EXPECT_EQ(element(f.tensor("bool.a"), 3), 1);
  EXPECT_EQ(f.find("uint16.b")->type, "U16");
  for (int i = 0; i < 15; ++i) {
    EXPECT_EQ(element(f.tensor("uint16.b"), i), 3 * i);
    EXPECT_EQ(element(f.tensor("uint32.b"), i), 3 * i);
    EXPECT_EQ(element(f.tensor("uint64.b"), i), 3 * i);
  }
}

TEST_F(Safetensors, RewritesTheReferenceFileByteForByte) {
  SafetensorsFile f = SafetensorsFile::open(kGolden / "formats.safetensors");
  SafetensorsWriter w(scratch_ / "copy.safetensors", f.metadata());
  for (auto e = f.entries().rbegin(); e != f.entries().rend(); ++e)
    w.declare(e->name, e->dtype, e->shape);
  for (const std::string& name : w.order()) w.write(name, f.tensor(name));
  w.finish();
  EXPECT_EQ(get_file(scratch_ / "copy.safetensors"), get_file(kGolden / "formats.safetensors"));
}

TEST_F(Safetensors, WritesNamesThatNeedEscapes) {
  const std::string name = "ä\x01\n\"\\/\x7f";
  SafetensorsWriter w(scratch_ / "w.safetensors");
  w.declare(name, DType::f32, {1});
  w.write(name, Tensor::zeros({1}, DType::f32));
  w.finish();
  // What the reference library wrote for the same name.
  EXPECT_EQ(get_file(scratch_ / "w.safetensors"),
            le<uint64_t>(72) +
                "{\"ä\\u0001\\n\\\"\\\\/\x7f\":{\"dtype\":\"F32\",\"shape\":[1],"
                "\"data_offsets\":[0,4]}}   " +
                std::string(4, '\0'));
  EXPECT_TRUE(SafetensorsFile::open(scratch_ / "w.safetensors").has(name));
}

TEST_F(Safetensors, WriterRefusesMisuse) {
  SafetensorsWriter w(scratch_ / "w.safetensors");
  auto bad = [](const std::vector<std::string>& parts, const std::function<void()>& f) {
    expect_error(ErrorKind::invalid_argument, parts, f);
  };
  w.declare("b", DType::f32, {2});
  w.declare("a", DType::f32, {2});
  bad({"'b'"}, [&] { w.declare("b", DType::f32, {2}); });
  bad({"valid name"}, [&] { w.declare("__metadata__", DType::f32, {2}); });
  EXPECT_EQ(w.order(), (std::vector<std::string>{"a", "b"}));
  bad({"'c'", "after"}, [&] { w.declare("c", DType::f32, {2}); });
  bad({"'b'", "next"}, [&] { w.write("b", Tensor::zeros({2}, DType::f32)); });
  bad({"'a'", "f16"}, [&] { w.write("a", Tensor::zeros({2}, DType::f16)); });
  bad({"'a'", "[3]"}, [&] { w.write("a", Tensor::zeros({3}, DType::f32)); });
  bad({"0 of 2"}, [&] { w.finish(); });
  SafetensorsWriter latin(scratch_ / "l.safetensors");
  latin.declare("\xff", DType::f32, {2});
  bad({"UTF-8"}, [&] { latin.order(); });
}

TEST_F(Safetensors, UnfinishedFilesLeaveNothing) {
  {
    SafetensorsWriter w(scratch_ / "w.safetensors");
    w.declare("a", DType::u8, {4});
    w.write("a", Tensor::zeros({4}, DType::u8));
  }
  EXPECT_TRUE(fs::is_empty(scratch_.path()));
}

TEST_F(Safetensors, ReadsHandMadeBytes) {
  std::string header = "{" + entry("a", "U8", "[1]", 0, 1) + "," + entry("b", "F32", "[2]", 1, 9) +
                       "," + entry("z", "F32", "[0,5]", 9, 9) + "}";
  header.resize((header.size() + 3) / 4 * 4, ' ');
  SafetensorsFile f = open(file(header, 9));
  EXPECT_EQ(f.tensor("a").numel(), 1);
  EXPECT_FALSE(f.tensor("b").borrowed()) << "misaligned floats are copied";
  EXPECT_EQ(f.tensor("z").numel(), 0);
  EXPECT_TRUE(open(file("{}", 0)).entries().empty());
}

TEST_F(Safetensors, RefusesHostileHeaders) {
  refuse("", {"too few"});
  refuse("1234567", {"too few"});
  for (uint64_t n : {uint64_t{3}, uint64_t{1} << 32, uint64_t{1} << 63, UINT64_MAX})
    refuse(le(n) + "{}", {"byte 0", std::to_string(n)});
  // A file as long as its header says (a hole), past the limit on headers.
  put_file(scratch_ / "x.safetensors", le<uint64_t>(100'000'001));
  fs::resize_file(scratch_ / "x.safetensors", 100'000'009);
  expect_error(ErrorKind::corrupt, {"byte 0", "at most 100000000"},
               [&] { SafetensorsFile::open(scratch_ / "x.safetensors"); });
  refuse(file("", 0), {"byte 8"});
  refuse(file(" {}", 0), {"byte 8"});
  refuse(file("[]", 0), {"byte 8"});
  refuse(file("{", 0), {"JSON"});
  refuse(file("{}x", 0), {"byte 11", "JSON"});
  refuse(file("{\"\xff\":1}", 0), {"JSON"});
  refuse(file(std::string("{\0}", 3), 0), {"JSON"});
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100000; ++i) deep += "[";
  refuse(file(deep, 0), {"'a'", "array"});
  deep = "{\"a\":{\"shape\":";
  for (int i = 0; i < 100000; ++i) deep += "[";
  refuse(file(deep, 0), {"'a'", "array"});
  deep = "";
  for (int i = 0; i < 100000; ++i) deep += "{\"a\":";
  refuse(file(deep, 0), {"'a'", "unknown"});
}

TEST_F(Safetensors, RefusesHostileEntries) {
  auto with = [&](const std::string& value, const std::vector<std::string>& parts,
                  ErrorKind kind = ErrorKind::corrupt) {
    std::vector<std::string> all = parts;
    all.push_back("'a'");
    refuse(file("{\"a\":" + value + "}", 4), all, kind);
  };
  with("1", {"number"});
  with("null", {"null"});
  with("\"x\"", {"string"});
  with("{}", {"needs dtype"});
  with(R"({"dtype":"U8","shape":[4]})", {"needs dtype"});
  with(R"({"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1})", {"unknown"});
  with(R"({"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]})", {"repeated"});
  with(R"({"dtype":"U9","shape":[4],"data_offsets":[0,4]})", {"'U9'"}, ErrorKind::unsupported);
  with(R"({"dtype":"F4","shape":[8],"data_offsets":[0,4]})", {"'F4'"}, ErrorKind::unsupported);
  with(R"({"dtype":8,"shape":[4],"data_offsets":[0,4]})", {"number"});
  with(R"({"dtype":["U8"],"shape":[4],"data_offsets":[0,4]})", {"array"});
  with(R"({"dtype":"U8","shape":4,"data_offsets":[0,4]})", {"number"});
  with(R"({"dtype":"U8","shape":[-4],"data_offsets":[0,4]})", {"negative"});
  with(R"({"dtype":"U8","shape":[4.0],"data_offsets":[0,4]})", {"fraction"});
  with(R"({"dtype":"U8","shape":["4"],"data_offsets":[0,4]})", {"string"});
  with(R"({"dtype":"U8","shape":[[4]],"data_offsets":[0,4]})", {"array"});
  with(R"({"dtype":"U8","shape":[true],"data_offsets":[0,4]})", {"boolean"});
  with(R"({"dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,4]})", {"huge"});
  with(R"({"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,4]})", {"number"});
  with(R"({"dtype":"U8","shape":[4],"data_offsets":[0]})", {"no range"});
  with(R"({"dtype":"U8","shape":[4],"data_offsets":[0,4,8]})", {"number"});
  with(R"({"dtype":"U8","shape":[4],"data_offsets":[4,0]})", {"no range"});
  with(R"({"dtype":"U8","shape":[4],"data_offsets":[0,18446744073709551615]})", {"number"});
  // Shape and dtype against the range, also where the product wraps to it.
  with(R"({"dtype":"U8","shape":[3],"data_offsets":[0,4]})", {"4 bytes", "U8 [3]"});
  with(R"({"dtype":"F32","shape":[4],"data_offsets":[0,4]})", {"F32 [4]"});
  with(R"({"dtype":"U8","shape":[4294967296,4294967296,4],"data_offsets":[0,4]})", {"4 bytes"});
  with(R"({"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]})", {"4 bytes"});
}

TEST_F(Safetensors, RefusesGapsOverlapsAndStrayBytes) {
  auto two = [](int64_t a, int64_t b, int64_t c, int64_t d) {
    return "{" + entry("a", "U8", fmt::format("[{}]", b - a), a, b) + "," +
           entry("b", "U8", fmt::format("[{}]", d - c), c, d) + "}";
  };
  EXPECT_EQ(open(file(two(4, 8, 0, 4), 8)).entries()[0].name, "b");
  refuse(file(two(0, 4, 5, 9), 9), {"'b'", "gap"});
  refuse(file(two(1, 4, 4, 9), 9), {"'a'", "gap"});
  refuse(file(two(0, 4, 3, 8), 8), {"'b'", "overlap"});
  refuse(file(two(0, 4, 0, 8), 8), {"'b'", "overlap"});
  refuse(file(two(0, 4, 4, 8), 9), {"1 bytes follow"});
  refuse(file(two(0, 4, 4, 8), 7), {"'b'", "past the end"});
  refuse(file("{}", 1), {"1 bytes follow"});
  refuse(file("{" + entry("a", "U8", "[4611686018427387904]", 0, int64_t{1} << 62) + "}", 8),
         {"'a'", "past the end"});
  refuse(file("{" + entry("a", "U8", "[4]", 0, 4) + "," + entry("a", "U8", "[4]", 4, 8) + "}", 8),
         {"'a'", "twice"});
  refuse(file("{" + entry("", "U8", "[4]", 0, 4) + "}", 4), {"no name"});
}

TEST_F(Safetensors, ChecksMetadata) {
  SafetensorsFile f = open(file(R"({"__metadata__":{"k":"v","":""}})", 0));
  EXPECT_EQ(f.metadata().at("k"), "v");
  EXPECT_FALSE(f.has("__metadata__"));
  refuse(file(R"({"__metadata__":{"k":1}})", 0), {"number"});
  refuse(file(R"({"__metadata__":{"k":{}}})", 0), {"object"});
  refuse(file(R"({"__metadata__":{"k":["v"]}})", 0), {"array"});
  refuse(file(R"({"__metadata__":{"k":"v","k":"v"}})", 0), {"'k'", "twice"});
  refuse(file(R"({"__metadata__":{},"__metadata__":{}})", 0), {"twice"});
}

class Shards : public ::testing::Test {
 protected:
  void index(const std::string& weight_map) {
    put_file(scratch_ / "model.safetensors.index.json", "{\"weight_map\":" + weight_map + "}");
  }
  Scratch scratch_;
};

TEST_F(Shards, RoundTrip) {
  std::vector<SafetensorsEntry> entries;
  for (int i = 0; i < 7; ++i)
    entries.push_back({fmt::format("t{}", i), "", i % 2 ? DType::f32 : DType::u8, {2, i}, 0, 0});
  auto make = [](const SafetensorsEntry& e) {
    Tensor t = Tensor::zeros(e.shape, e.dtype);
    if (t.byte_size() > 0) t.mutable_raw()[0] = static_cast<std::byte>(e.name[1]);
    return t;
  };
  write_safetensors_set(scratch_.path(), "model", entries, 40, {{"format", "pt"}}, make);
  EXPECT_TRUE(SafetensorsSet::exists(scratch_.path()));
  SafetensorsSet set = SafetensorsSet::open(scratch_.path());
  EXPECT_GT(set.files().size(), 2u);
  ASSERT_EQ(set.names().size(), 7u);
  for (const SafetensorsEntry& e : entries) {
    Tensor t = set.tensor(e.name);
    EXPECT_EQ(t.shape(), e.shape);
    EXPECT_EQ(t.dtype(), e.dtype);
    if (t.byte_size() > 0) {
      EXPECT_EQ(static_cast<char>(t.raw()[0]), e.name[1]);
    }
  }
  for (const SafetensorsFile& f : set.files()) {
    int64_t size = 0;
    for (const SafetensorsEntry& e : f.entries()) size += e.size;
    EXPECT_TRUE(size <= 40 || f.entries().size() == 1);
  }
  Scratch whole;
  write_safetensors_set(whole.path(), "model", entries, 0, {}, make);
  EXPECT_TRUE(fs::exists(whole / "model.safetensors"));
  EXPECT_EQ(SafetensorsSet::open(whole.path()).names(), set.names());
  expect_error(ErrorKind::corrupt, {"'x'"}, [&] { set.tensor("x"); });
}

TEST_F(Shards, RefusesHostileIndexes) {
  put_file(scratch_ / "m.safetensors", file("{" + entry("a", "U8", "[4]", 0, 4) + "}", 4));
  auto refuse = [&](const std::string& map, const std::vector<std::string>& parts,
                    ErrorKind kind = ErrorKind::corrupt) {
    index(map);
    expect_error(kind, parts, [&] { SafetensorsSet::open(scratch_.path()); });
  };
  index(R"({"a":"m.safetensors"})");
  EXPECT_EQ(SafetensorsSet::open(scratch_.path()).tensor("a").numel(), 4);
  for (const char* name : {"../m.safetensors", "/etc/passwd", "..", ".", "", "d/m.safetensors",
                           "d\\\\m.safetensors", "m.safetensors\\u0000x"})
    refuse(fmt::format(R"({{"a":"{}"}})", name), {"plain file name", "index.json"});
  refuse(R"({"b":"m.safetensors"})", {"'b'", "m.safetensors"});
  refuse(R"({"a":"n.safetensors"})", {"n.safetensors"}, ErrorKind::io);
  refuse(R"({"a":1})", {"'a'"});
  refuse(R"([])", {"weight_map"});
  refuse(R"({"a":"m.safetensors","a":"m.safetensors"})", {"twice"});
  Scratch empty;
  EXPECT_FALSE(SafetensorsSet::exists(empty.path()));
  expect_error(ErrorKind::io, {"model.safetensors"}, [&] { SafetensorsSet::open(empty.path()); });
}

}  // namespace
}  // namespace hone
