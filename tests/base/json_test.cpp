// parse_json: what it keeps, what it refuses, and that large objects cost linear time.
#include "base/json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace hone {
namespace {

void refuse(const std::string& text, const std::string& part) {
  try {
    parse_json(text, "f.json");
    ADD_FAILURE() << "accepted: " << text.substr(0, 100);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::corrupt);
    EXPECT_NE(std::string(e.what()).find("f.json"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

std::string nested(int levels) { return std::string(levels, '[') + std::string(levels, ']'); }

TEST(Json, KeepsOrderAndTypes) {
  Json j = parse_json(R"( {"z":[1,-2,2.5,"\u00e9",true,null,{}],"a":{"b":18446744073709551615}} )",
                      "f.json");
  EXPECT_EQ(j.dump(),
            "{\"z\":[1,-2,2.5,\"\u00e9\",true,null,{}],\"a\":{\"b\":18446744073709551615}}");
  EXPECT_TRUE(j["z"][0].is_number_unsigned());
  EXPECT_TRUE(j["z"][1].is_number_integer());
  EXPECT_EQ(parse_json("3", "f.json"), 3);
  EXPECT_EQ(parse_json("\"s\"", "f.json"), "s");
}

TEST(Json, RefusesBadText) {
  for (const char* text : {"", "{", "{\"a\":}", "[1,]", "nul", "{} x", "\"\xff\"", "01", "1e999",
                           "{\"a\" 1}", "[\"\\ud800\"]"})
    refuse(text, "not valid JSON");
  refuse(std::string("[\0]", 3), "not valid JSON");
  // Not "[json.exception…] parse error".
  refuse("{\n\"a\" 1}", "not valid JSON: parse error at line 2");
  refuse(R"({"a":1,"b":{"a":1},"a":2})", "'a' appears twice");
  EXPECT_EQ(parse_json(nested(64), "f.json").size(), 1u);
  refuse(nested(65), "deeper than 64");
  refuse(std::string(1'000'000, '['), "deeper than 64");
}

TEST(Json, LargeObjectsCostLinearTime) {
  // Quadratic time would take minutes.
  std::string text = "{";
  for (int i = 0; i < 300'000; ++i) text += fmt::format("{}\"key{}\":{}", i ? "," : "", i, i);
  EXPECT_EQ(parse_json(text + "}", "f.json").size(), 300'000u);
}

TEST(Json, FloatsPrintTheirShortestDigits) {
  EXPECT_EQ(json_float(1e-5f).dump(), "1e-05");
  EXPECT_EQ(json_float(500000.0f).dump(), "500000.0");
  EXPECT_EQ(json_float(0.1f).dump(), "0.1");
  for (float x : {1.0f / 3, 9.999999747e-06f, 3.4e38f, 1e-45f, -2.5f})
    EXPECT_EQ(static_cast<float>(json_float(x).get<double>()), x);
}

}  // namespace
}  // namespace hone
