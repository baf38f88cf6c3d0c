// The tokenizer alone, from any kind of file that a model has it in.
#include "models/loader.h"

#include "testing.h"

namespace hone {
namespace {

using namespace testing;

TEST(LoadTokenizer, GivesTheModelsOwnFromEveryKindOfFile) {
  std::filesystem::path directory = source_file("models/hone-austen-3m");
  LoadedModel model = load_model(directory, {});
  std::vector<int32_t> expected = model.encode("It is a truth, universally acknowledged: 12 é");
  ASSERT_GT(expected.size(), 5u);
  for (const std::filesystem::path& path : {directory, directory / "tokenizer.json"}) {
    std::unique_ptr<Tokenizer> t = load_tokenizer(path);
    EXPECT_EQ(t->encode("It is a truth, universally acknowledged: 12 é", true, false), expected)
        << path;
    EXPECT_EQ(t->bos(), model.tokenizer->bos());
  }
}

TEST(LoadTokenizer, NamesTheFileThatIsMissing) {
  TemporaryDirectory scratch;
  try {
    load_tokenizer(scratch.path());
    FAIL() << "it loaded";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("tokenizer.json"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace hone
