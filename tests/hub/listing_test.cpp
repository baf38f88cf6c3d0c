// The hub's list of files: what is read, what is refused, and which files a pull takes.
#include "hub/listing.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"
#include "testing.h"

namespace hone {
namespace {

using Names = std::vector<std::string>;

const std::string kListedCommit(40, 'a');

std::string answer(const Names& files, const std::string& sha = kListedCommit) {
  Json j = {{"sha", sha}, {"siblings", Json::array()}};
  for (const std::string& f : files) j["siblings"].push_back({{"rfilename", f}});
  return j.dump();
}

TEST(Listing, CommitAndFilesOnce) {
  const HubListing l = parse_hub_listing(answer({"a", "b/c", "a"}), "org/name");
  EXPECT_EQ(l.commit, kListedCommit);
  EXPECT_EQ(l.files, (Names{"a", "b/c"}));
}

TEST(Listing, RefusesWhatIsNotOne) {
  for (const std::string& bad :
       {std::string(), std::string("[]"), std::string("null"), std::string("{"),
        std::string(R"({"sha": 1, "siblings": []})"), answer({}, "main"), answer({}, "../../x"),
        R"({"sha": ")" + kCommit + R"("})", R"({"sha": ")" + kCommit + R"(", "siblings": {}})",
        R"({"sha": ")" + kCommit + R"(", "siblings": [1]})",
        R"({"sha": ")" + kCommit + R"(", "siblings": [{"rfilename": 1}]})"})
    EXPECT_THROW(parse_hub_listing(bad, "org/name"), Error) << bad;
}

TEST(Listing, OneUnsafeNameSpoilsAll) {
  for (const std::string& bad :
       {std::string("../../x"), std::string("/etc/passwd"), std::string("a\0b", 3),
        std::string("a/../../b"), std::string("..\\x"), std::string()}) {
    try {
      parse_hub_listing(answer({"good", bad}), "org/name");
      ADD_FAILURE() << bad;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("not safe"), std::string::npos) << e.what();
    }
  }
}

TEST(Listing, UnaskedTheFilesThatHoneReads) {
  const Names files{"README.md",         "config.json",     "consolidated.safetensors",
                    "model.safetensors", "onnx/model.onnx", "original/consolidated.00.pth",
                    "pytorch_model.bin", "tf_model.h5",     "tokenizer.json"};
  EXPECT_EQ(chosen_files(files, {}, {}, "m"),
            (Names{"README.md", "config.json", "model.safetensors", "tokenizer.json"}));
  EXPECT_EQ(chosen_files(files, {"*"}, {}, "m"), files);
  // Where there is nothing else, the others are all there is.
  const Names old{"config.json", "pytorch_model.bin"};
  EXPECT_EQ(chosen_files(old, {}, {}, "m"), old);
}

TEST(Listing, IncludeAndExclude) {
  const Names files{"a.json", "b.json", "sub/c.json", "d.txt"};
  EXPECT_EQ(chosen_files(files, {"*.json"}, {"b*"}, "m"), (Names{"a.json", "sub/c.json"}));
  EXPECT_EQ(chosen_files(files, {"sub/", "d.txt"}, {}, "m"), (Names{"sub/c.json", "d.txt"}));
  EXPECT_EQ(chosen_files(files, {}, {"sub/"}, "m"), (Names{"a.json", "b.json", "d.txt"}));
  EXPECT_THROW(chosen_files(files, {"*.gguf"}, {}, "m"), Error);
  EXPECT_THROW(chosen_files({}, {}, {}, "m"), Error);
}

TEST(Listing, OfSeveralGgufModelsOneHasToBeChosen) {
  const Names two{"README.md", "m-Q4_K_M.gguf", "m-Q8_0.gguf"};
  try {
    chosen_files(two, {}, {}, "org/name");
    FAIL();
  } catch (const Error& e) {
    for (const char* part : {"2 GGUF", "m-Q8_0.gguf", "--include"})
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
  EXPECT_EQ(chosen_files(two, {"*Q4_K_M*"}, {}, "m"), (Names{"m-Q4_K_M.gguf"}));
  EXPECT_EQ(chosen_files(two, {}, {"*Q8_0*"}, "m"), (Names{"README.md", "m-Q4_K_M.gguf"}));
  // The parts of a split one are one model.
  const Names split{"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"};
  EXPECT_EQ(chosen_files(split, {}, {}, "m"), split);
  // Beside safetensors they are copies.
  EXPECT_EQ(chosen_files({"m.gguf", "model.safetensors", "n.gguf"}, {}, {}, "m"),
            (Names{"model.safetensors"}));
}

}  // namespace
}  // namespace hone
