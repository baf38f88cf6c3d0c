#include "text/unicode.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace hone {
namespace {

TEST(Unicode, ReplacesMaximalIllFormedParts) {
  const std::string bad = "\xEF\xBF\xBD";
  EXPECT_EQ(replace_ill_formed("a\xFFz"), "a" + bad + "z");
  EXPECT_EQ(replace_ill_formed("\xE4\xBDz"), bad + "z");           // cut short: one
  EXPECT_EQ(replace_ill_formed("\xF0\x9F\x98"), bad);              // at the end
  EXPECT_EQ(replace_ill_formed("\xC0\xAF"), bad + bad);            // overlong
  EXPECT_EQ(replace_ill_formed("\xE0\x80\xAF"), bad + bad + bad);  // overlong
  EXPECT_EQ(replace_ill_formed("\xED\xA0\x80"), bad + bad + bad);  // a surrogate
  EXPECT_EQ(replace_ill_formed("\xF4\x90\x80\x80"), bad + bad + bad + bad);
  EXPECT_EQ(replace_ill_formed("\xF4\x8F\xBF\xBF"), "\xF4\x8F\xBF\xBF");
  EXPECT_FALSE(is_valid_utf8("12345678\xFF"));
  EXPECT_TRUE(is_valid_utf8("12345678é的👍"));
}

TEST(Unicode, EveryCodePointRoundTrips) {
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string s;
    append_utf8(s, c);
    const Utf8Char back = utf8_at(s, 0);
    ASSERT_TRUE(back.valid && back.code == c && back.size == static_cast<int>(s.size())) << c;
    for (size_t n = 1; n < s.size(); ++n) ASSERT_EQ(unfinished_tail("é" + s.substr(0, n)), n) << c;
    ASSERT_EQ(unfinished_tail(s), 0u);
  }
}

TEST(Unicode, AnIllFormedTailIsNotUnfinished) {
  EXPECT_EQ(unfinished_tail("a\x80"), 0u);
  EXPECT_EQ(unfinished_tail("\xFF"), 0u);
  EXPECT_EQ(unfinished_tail("\xE0\x80"), 0u);  // no character begins so
  EXPECT_EQ(unfinished_tail("\xC0"), 0u);
  EXPECT_EQ(unfinished_tail("\xF0\x9F"), 2u);
}

TEST(Unicode, ByteAlphabetIsABijection) {
  std::string all, back;
  for (int b = 0; b < 256; ++b) {
    all += static_cast<char>(b);
    EXPECT_EQ(letter_to_byte(byte_to_letter(static_cast<unsigned char>(b))), b);
  }
  const std::string letters = bytes_to_letters(all);
  EXPECT_TRUE(is_valid_utf8(letters));
  ASSERT_TRUE(letters_to_bytes(letters, back));
  EXPECT_EQ(back, all);
  EXPECT_EQ(bytes_to_letters(" \n\xAD"), "ĠĊŃ");
  EXPECT_FALSE(letters_to_bytes("a b", back));
  EXPECT_FALSE(letters_to_bytes("的", back));
}

TEST(Unicode, ByteTokens) {
  for (int b = 0; b < 256; ++b) {
    EXPECT_EQ(byte_token_value(byte_token_text(static_cast<unsigned char>(b))), b);
  }
  for (const char* text : {"<0x0>", "<0xG0>", "0x00", "<0x000>", "<1x00>", "<0x00", ""}) {
    EXPECT_EQ(byte_token_value(text), -1) << text;
  }
}

TEST(Unicode, ClassesAndForms) {
  EXPECT_TRUE(is_space(0x3000) && is_space(0x85) && !is_space(0x180E) && !is_space(0x200B));
  EXPECT_TRUE(is_number(U'Ⅻ') && is_number(U'½') && is_number(U'४') && !is_number(U'a'));
  EXPECT_TRUE(is_letter(U'é') && is_letter(U'的') && !is_letter(U'_') && !is_letter(U'['));
  EXPECT_TRUE(is_punctuation(U'$') && is_punctuation(U'¿') && !is_punctuation(U'€'));
  EXPECT_TRUE(is_word(U'_') && is_word(U'é') && is_word(0x301) && !is_word(U'-'));
  EXPECT_EQ(normalize("e\u0301\uFB01", NormalForm::nfc), "é\uFB01");
  // To Hugging Face's tables a mark of Unicode 11 or 13 is a letter: nothing moves across it.
  EXPECT_EQ(normalize("\u07F1\u07FD", NormalForm::nfc), "\u07F1\u07FD");
  EXPECT_EQ(normalize("e\u1AC0\u0301e\u0301", NormalForm::nfc), "e\u1AC0\u0301é");
  EXPECT_EQ(normalize("\u0301\u0323", NormalForm::nfc), "\u0323\u0301");
  EXPECT_EQ(normalize("é\uFB01", NormalForm::nfd), "e\u0301\uFB01");
  EXPECT_EQ(normalize("é\uFB01", NormalForm::nfkd), "e\u0301fi");
  EXPECT_EQ(normalize("e\u0301\uFB01", NormalForm::nfkc), "éfi");
  EXPECT_EQ(lowercase("ÀÉİ A"), "àéi\u0307 a");
  EXPECT_EQ(strip_accents("e\u0301a\u093E"), "ea");
}

TEST(Unicode, ReplaceAllIsBounded) {
  EXPECT_EQ(replace_all("a  b ", " ", "▁"), "a▁▁b▁");
  EXPECT_EQ(replace_all("aaa", "aa", "b"), "ba");
  EXPECT_THROW(replace_all(std::string(10000, 'a'), "a", std::string(1000, 'b')), Error);
}

TEST(Unicode, PrintedIsOneShortLine) {
  EXPECT_EQ(printed("a\n\x1b[2Jé"), "'a\\x0a\\x1b[2J\\xc3\\xa9'");
  EXPECT_LT(printed(std::string(5000, 'x')).size(), 100u);
}

}  // namespace
}  // namespace hone
