// The Unicode facts the tokenizers need: UTF-8, character classes, normal forms, and the alphabet
// in which byte-level BPE spells bytes. Character data is utf8proc's.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace hone {

struct Utf8Char {
  char32_t code;  // U+FFFD where the bytes are ill-formed
  int size;       // bytes read, at least 1
  bool valid;
};

/// The character at text[at]; an ill-formed one is read as its maximal ill-formed part. at < size.
Utf8Char utf8_at(std::string_view text, size_t at);
/// Length in bytes that the lead byte promises (1 for a stray continuation byte).
int utf8_length(unsigned char lead);
void append_utf8(std::string& out, char32_t code);
bool is_valid_utf8(std::string_view text);
/// `text` with each maximal ill-formed part replaced by U+FFFD.
std::string replace_ill_formed(std::string_view text);
/// Bytes at the end of `text` that begin a character but do not finish it (0 … 3).
size_t unfinished_tail(std::string_view text);

bool is_space(char32_t code);        // White_Space
bool is_number(char32_t code);       // general category N
bool is_letter(char32_t code);       // general category L
bool is_punctuation(char32_t code);  // ASCII punctuation (with symbols), or general category P
bool is_control(char32_t code);      // control, format or private use
bool is_nonspacing(char32_t code);   // general category Mn
bool is_word(char32_t code);         // letters, marks, decimal digits, connectors: a regex's \w

enum class NormalForm { nfc, nfd, nfkc, nfkd };
/// `text` must be well-formed.
std::string normalize(std::string_view text, NormalForm form);
std::string lowercase(std::string_view text);
/// Without characters of category M (marks).
std::string strip_accents(std::string_view text);
/// Calls `f` with each extended grapheme cluster of `text` (well-formed), in order.
void for_each_grapheme(std::string_view text, const std::function<void(std::string_view)>& f);

/// Byte-level BPE writes each byte as one visible character: itself where it is printable Latin-1,
/// else the next free code point from U+0100 on.
char32_t byte_to_letter(unsigned char byte);
/// The byte that a letter stands for, or -1.
int letter_to_byte(char32_t code);
std::string bytes_to_letters(std::string_view bytes);
/// The bytes a word in that alphabet spells; false where it holds another character.
bool letters_to_bytes(std::string_view letters, std::string& bytes);

/// The bytes of a text in which "\\n", "\\t", "\\r" and "\\xNN" stand for bytes and a backslash
/// before any other character for that character.
std::string unescape_bytes(std::string_view text);
/// `bytes` as such a text, in printable ASCII.
std::string escape_bytes(std::string_view bytes);

/// The byte NN of a token "<0xNN>", or -1.
int byte_token_value(std::string_view token);
/// "<0xNN>"
std::string byte_token_text(unsigned char byte);

/// U+2581, which stands for a space in SentencePiece vocabularies.
inline constexpr std::string_view kMetaspace = "\xE2\x96\x81";

/// `text` with every `from` (not empty) replaced by `to`. Raises corrupt where the result is more
/// than kMaxGrowth times as long (a tokenizer.json may say what to replace by what).
std::string replace_all(std::string_view text, std::string_view from, std::string_view to);
inline constexpr size_t kMaxGrowth = 64;
/// Whether `after` is a plausible length for what `before` bytes were rewritten to.
inline bool grew_too_much(size_t before, size_t after) {
  return after > 4096 + before * kMaxGrowth;
}

/// Text of a file for a one-line message: in single quotes, cut short, what is not printable ASCII
/// as \xNN.
std::string printed(std::string_view text);

}  // namespace hone
