// Data files cut into records, documents and parts, and files that are none.
#include "text/data_file.h"

#include "golden.h"
#include "testing.h"

namespace hone {
namespace {

struct Read {
  std::vector<std::string> texts;
  std::vector<int64_t> lines;
  std::vector<bool> begins, ends;
};

Read read_all(const std::string& bytes, bool plain, std::vector<std::string> separators = {},
              size_t piece = DataFile::kPieceBytes) {
  testing::TemporaryDirectory scratch;
  testing::put_file(scratch / "data", bytes);
  DataFile file(scratch / "data", plain, std::move(separators), piece);
  Read r;
  for (DataPiece p; file.next(p);) {
    r.texts.emplace_back(p.text);
    r.lines.push_back(p.line);
    r.begins.push_back(p.begins);
    r.ends.push_back(p.ends);
    file.release();
  }
  EXPECT_EQ(file.position(), file.size());
  return r;
}

using Texts = std::vector<std::string>;
using Lines = std::vector<int64_t>;

TEST(DataFile, LinesSkipBlankOnes) {
  const Read r = read_all("\xEF\xBB\xBF{\"a\":1}\r\n\n  \n{\"b\":2}", false);
  EXPECT_EQ(r.texts, (Texts{"{\"a\":1}\r", "{\"b\":2}"}));
  EXPECT_EQ(r.lines, (Lines{1, 4}));
}

TEST(DataFile, ListsAreCutAtTheirCommas) {
  const Read r = read_all("\n[ {\"a\": [1, 2]},\n {\"b\": \"],\\\"}{\"}\n,\"x\" ]\n ", false);
  EXPECT_EQ(r.texts, (Texts{"{\"a\": [1, 2]}", "{\"b\": \"],\\\"}{\"}\n", "\"x\" "}));
  EXPECT_EQ(r.lines, (Lines{2, 3, 4}));
  EXPECT_TRUE(read_all("[ ]", false).texts.empty());
}

TEST(DataFile, SpoiledListsNameTheLine) {
  for (const char* text :
       {"[", "[{\"a\":1}", "[\n{\"a\":1},\n", "[\"a\\", "[{\"a\":1}] x", "[] []"}) {
    const std::string error = error_of([&] { read_all(text, false); });
    EXPECT_TRUE(error.starts_with("corrupt: ")) << text << ": " << error;
  }
  EXPECT_NE(error_of([&] { read_all("[\n1,\n2", false); }).find("data:3: the file ends"),
            std::string::npos);
}

TEST(DataFile, SeparatorsStandOnLinesOfTheirOwn) {
  const Read r =
      read_all("<|end|>\none\ntwo <|end|>\n<|end|> x\n<|end|> \r\n\n<|end|>\n--\nthree\n--\n", true,
               {"<|end|>", "--"});
  EXPECT_EQ(r.texts, (Texts{"one\ntwo <|end|>\n<|end|> x", "three"}));
  const Read whole = read_all(" one\n\ntwo\n", true, {"<|end|>"});
  EXPECT_EQ(whole.texts, (Texts{" one\n\ntwo\n"}));
}

TEST(DataFile, LongDocumentsComeInPartsThatJoinAgain) {
  std::string text;
  for (int i = 0; i < 200; ++i)
    text += "some words, 12 \xC3\xA9\xE6\xBC\xA2\xF0\x9F\x98\x80 and a\n";
  text += std::string(300, 'x') + "\n";
  for (int i = 0; i < 100; ++i) text += "\xE6\xBC\xA2";
  const std::string two = text + "\n--\n" + text;
  for (size_t piece : {8, 9, 33, 1000, 100'000}) {
    const Read r = read_all(two, true, {"--"}, piece);
    Texts documents;
    for (size_t i = 0; i < r.texts.size(); ++i) {
      EXPECT_LE(r.texts[i].size(), piece);
      EXPECT_EQ(r.begins[i], i == 0 || r.ends[i - 1]);
      if (r.begins[i]) documents.emplace_back();
      documents.back() += r.texts[i];
    }
    EXPECT_EQ(documents, (Texts{text, text})) << piece;
    EXPECT_TRUE(r.ends.back());
  }
}

TEST(DataFile, PartsAreCutAtSpacesBetweenLetters) {
  EXPECT_EQ(read_all("one two, 3 four", true, {}, 10).texts, (Texts{"one", " two, 3 fo", "ur"}));
}

TEST(DataFile, RefusesEmptyAndIllFormedText) {
  EXPECT_NE(error_of([] { read_all("", true); }).find("the file is empty"), std::string::npos);
  EXPECT_NE(error_of([] { read_all("\xEF\xBB\xBF", false); }).find("the file is empty"),
            std::string::npos);
  EXPECT_NE(error_of([] { read_all("ab\xFF", true); }).find("not UTF-8"), std::string::npos);
  EXPECT_TRUE(read_all("\n \n", true).texts.empty());
}

TEST(DataFile, RecordsHaveALimit) {
  const std::string long_line(DataFile::kMaxRecord + 2, ' ');
  EXPECT_NE(error_of([&] {
              read_all("{}\n\"" + long_line + "\"", false);
            }).find("data:2: the line is longer than 64 MiB"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              read_all("[\n\"" + long_line + "\"]", false);
            }).find("data:2: a record is longer than 64 MiB"),
            std::string::npos);
}

}  // namespace
}  // namespace hone
