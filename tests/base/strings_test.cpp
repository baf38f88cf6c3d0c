#include "base/strings.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace hone {
namespace {

TEST(Strings, HoldsWhatItIsGiven) {
  Strings s{"a", "", std::string_view("b\0c", 3)};
  s.push_back("last");
  ASSERT_EQ(s.size(), 4u);
  EXPECT_EQ(s[0], "a");
  EXPECT_EQ(s[1], "");
  EXPECT_EQ(s[2].size(), 3u);
  EXPECT_EQ(s.back(), "last");
  s.set(0, "longer than before");
  s.resize(6);
  s.shrink_to_fit();
  EXPECT_EQ(s[0], "longer than before");
  EXPECT_EQ(s[3], "last");
  EXPECT_EQ(s[5], "");
  s.clear();
  EXPECT_TRUE(s.empty());
}

TEST(Strings, CopiesAreApart) {
  Strings a{"one", "two"}, b = a;
  EXPECT_EQ(a[0].data(), b[0].data());
  b.set(0, "other");
  b.push_back("three");
  EXPECT_EQ(a, (Strings{"one", "two"}));
  EXPECT_EQ(b, (Strings{"other", "two", "three"}));
  EXPECT_FALSE(a == b);
  a.clear();
  EXPECT_EQ(b[1], "two");
}

TEST(Strings, AppendsItsOwnText) {
  Strings s{"begin"};
  for (int i = 0; i < 20; ++i) s.push_back(s.back());
  EXPECT_TRUE(std::all_of(s.begin(), s.end(), [](std::string_view t) { return t == "begin"; }));
}

TEST(Strings, EqualityIsOfTexts) {
  Strings a{"x"}, b{"y"};
  b.set(0, "x");
  EXPECT_EQ(a, b);
  EXPECT_EQ(Strings(), Strings{});
  EXPECT_FALSE((Strings{"ab", "c"}) == (Strings{"a", "bc"}));
}

}  // namespace
}  // namespace hone
