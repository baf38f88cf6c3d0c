// Output that is all or nothing: temporaries, their locks, and what becomes of leftovers.
#include "base/files.h"

#include <fstream>

#include "base/error.h"
#include "testing.h"

namespace hone {
namespace {

using testing::TemporaryDirectory;

void write_raw(const fs::path& path, const std::string& text) { std::ofstream(path) << text; }

TEST(AtomicFile, AppearsWithCommitAndNotBefore) {
  TemporaryDirectory scratch;
  {
    AtomicFile file(scratch / "a");
    file.write("text");
    EXPECT_FALSE(fs::exists(scratch / "a"));
    EXPECT_TRUE(fs::exists(scratch / "a.hone-tmp"));
    file.commit();
  }
  EXPECT_EQ(read_text_file(scratch / "a"), "text");
  EXPECT_FALSE(fs::exists(scratch / "a.hone-tmp"));
  { AtomicFile file(scratch / "b"); }
  EXPECT_FALSE(fs::exists(scratch / "b"));
  EXPECT_FALSE(fs::exists(scratch / "b.hone-tmp"));
}

TEST(AtomicFile, HasOneWriterAtATime) {
  TemporaryDirectory scratch;
  auto first = std::make_unique<AtomicFile>(scratch / "a");
  EXPECT_THROW(AtomicFile(scratch / "a"), Error);
  EXPECT_TRUE(fs::exists(scratch / "a.hone-tmp"));
  first.reset();
  AtomicFile second(scratch / "a");
  second.commit();
  EXPECT_TRUE(fs::exists(scratch / "a"));
}

TEST(Temporary, TakesTheNameOfWhateverADeadRunLeft) {
  TemporaryDirectory scratch;
  fs::create_directory(scratch / "a.hone-tmp");
  write_raw(scratch / "a.hone-tmp" / "half", "x");
  write_text_file(scratch / "a", "text");
  EXPECT_EQ(read_text_file(scratch / "a"), "text");
  write_raw(scratch / "b.hone-tmp", "x");
  Temporary directory(scratch / "b", Temporary::Kind::directory);
  EXPECT_TRUE(fs::is_empty(scratch / "b.hone-tmp"));
  directory.commit();
  EXPECT_TRUE(fs::is_directory(scratch / "b"));
}

TEST(Temporary, DoesNotFollowALinkInItsPlace) {
  TemporaryDirectory scratch;
  write_raw(scratch / "mine", "mine");
  fs::create_symlink(scratch / "mine", scratch / "a.hone-tmp");
  EXPECT_THROW(write_text_file(scratch / "a", "text"), Error);
  EXPECT_EQ(read_text_file(scratch / "mine"), "mine");
}

TEST(NewOutput, IsRefusedWhereItCannotBe) {
  TemporaryDirectory scratch;
  write_raw(scratch / "file", "x");
  fs::create_directory(scratch / "empty");
  EXPECT_NO_THROW(check_new_output(scratch / "new"));
  EXPECT_NO_THROW(check_new_output(scratch / "new/"));
  EXPECT_NO_THROW(check_new_output(scratch / "empty"));
  for (const fs::path& path :
       {scratch / "file", scratch / "no/new", scratch / "file/new", scratch.path(), fs::path()})
    EXPECT_THROW(check_new_output(path), Error) << path;
}

}  // namespace
}  // namespace hone
