// YAML of strangers: what is short as text and endless as a tree is refused.
#include "base/yaml.h"

#include <gtest/gtest.h>

namespace hone {
namespace {

std::string refusal(const std::string& text) {
  try {
    parse_yaml(text, "it");
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(Yaml, ReadsAliases) {
  const YAML::Node root = parse_yaml("a: &x {b: 1}\nc: *x\n", "it");
  EXPECT_EQ(root["c"]["b"].as<int>(), 1);
}

TEST(Yaml, RefusesWhatHoldsItself) {
  EXPECT_NE(refusal("a: &x {b: *x}").find("aliases"), std::string::npos);
}

TEST(Yaml, RefusesWhatIsHugeOnceWrittenOut) {
  std::string text = "l0: &l0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n";
  for (int i = 1; i < 9; ++i) {
    text += "l" + std::to_string(i) + ": &l" + std::to_string(i) + " [";
    for (int j = 0; j < 10; ++j) text += (j > 0 ? ", *l" : "*l") + std::to_string(i - 1);
    text += "]\n";
  }
  EXPECT_NE(refusal(text).find("aliases"), std::string::npos);
}

}  // namespace
}  // namespace hone
