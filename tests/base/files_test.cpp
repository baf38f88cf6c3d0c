// Files: maps and reads that refuse what is no file, and writes that are all or nothing.
#include "base/files.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "testing.h"

namespace hone {
namespace {

using testing::TemporaryDirectory;

class Files : public ::testing::Test {
 protected:
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& entry : fs::directory_iterator(directory_ / ""))
      out.push_back(entry.path().filename());
    std::sort(out.begin(), out.end());
    return out;
  }
  TemporaryDirectory directory_;
};

template <typename F>
void expect_error(ErrorKind kind, const std::string& part, F&& f) {
  try {
    f();
    FAIL() << "must throw: " << part;
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), kind) << e.what();
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

TEST_F(Files, MapsWhatIsThere) {
  const fs::path path = directory_ / "a";
  write_text_file(path, "some bytes");
  auto map = MappedFile::open(path);
  EXPECT_EQ(map->path(), path);
  ASSERT_EQ(map->bytes().size(), 10u);
  EXPECT_EQ(std::memcmp(map->bytes().data(), "some bytes", 10), 0);
  // The map outlives the name, and what was released is read again.
  fs::remove(path);
  map->release(map->bytes().data(), map->bytes().size());
  EXPECT_EQ(map->bytes()[9], std::byte{'s'});
}

TEST_F(Files, ReleasedPagesAreReadAgain) {
  std::string text(100'000, 'x');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>('a' + i % 23);
  write_text_file(directory_ / "a", text);
  auto map = MappedFile::open(directory_ / "a");
  for (size_t begin : {0u, 1u, 4095u, 4096u, 99'999u})
    map->release(map->bytes().data() + begin, text.size() - begin);
  map->release(map->bytes().data() + 10, 0);
  EXPECT_EQ(std::memcmp(map->bytes().data(), text.data(), text.size()), 0);
}

TEST_F(Files, OnlyPagesOfMapsAreReleased) {
  write_text_file(directory_ / "a", std::string(100'000, 'x'));
  auto map = MappedFile::open(directory_ / "a");
  // Anonymous memory would come back as zeros.
  std::vector<char> memory(1'000'000, 'y');
  release_file_pages(reinterpret_cast<const std::byte*>(memory.data()), memory.size());
  read_file_ahead(reinterpret_cast<const std::byte*>(memory.data()));
  EXPECT_EQ(std::count(memory.begin(), memory.end(), 'y'), 1'000'000);
  const std::byte* past = map->bytes().data() + map->bytes().size();
  const std::byte* closed = map->bytes().data();
  release_file_pages(past, 1);
  map = nullptr;
  release_file_pages(closed, 100'000);
}

TEST_F(Files, ReadingAheadChangesNothing) {
  std::string text(40 << 20, 'x');
  for (size_t i = 0; i < text.size(); i += 4096) text[i] = static_cast<char>('a' + i / 4096 % 26);
  write_text_file(directory_ / "a", text);
  auto map = MappedFile::open(directory_ / "a");
  for (size_t from : {size_t{0}, size_t{5}, size_t{9} << 20, text.size() - 1, size_t{3}})
    read_file_ahead(map->bytes().data() + from);
  EXPECT_EQ(std::memcmp(map->bytes().data(), text.data(), text.size()), 0);
}

TEST_F(Files, RefusesWhatIsNoFile) {
  write_text_file(directory_ / "empty", "");
  EXPECT_TRUE(MappedFile::open(directory_ / "empty")->bytes().empty());
  EXPECT_EQ(read_text_file(directory_ / "empty"), "");
  const std::string gone = (directory_ / "gone").string();
  expect_error(ErrorKind::io, gone + ": cannot open: ", [&] { MappedFile::open(gone); });
  expect_error(ErrorKind::io, gone + ": cannot open: ", [&] { read_text_file(gone); });
  const std::string folder = (directory_ / "folder").string();
  fs::create_directory(folder);
  expect_error(ErrorKind::io, folder + ": not a regular file", [&] { MappedFile::open(folder); });
  expect_error(ErrorKind::io, folder + ": not a regular file", [&] { read_text_file(folder); });
  expect_error(ErrorKind::io, "not a regular file", [] { MappedFile::open("/dev/zero"); });
}

TEST_F(Files, ReadsTextUpToItsLimit) {
  write_text_file(directory_ / "a", "12345678");
  EXPECT_EQ(read_text_file(directory_ / "a", 8), "12345678");
  expect_error(ErrorKind::corrupt, "8 bytes, more than the 7",
               [&] { read_text_file(directory_ / "a", 7); });
}

TEST_F(Files, WritesAreAllOrNothing) {
  const fs::path path = directory_ / "a";
  write_text_file(path, "old");
  {
    AtomicFile file(path);
    file.write("half of the n");
    EXPECT_EQ(file.position(), 13);
    EXPECT_EQ(read_text_file(path), "old");
    EXPECT_EQ(names().size(), 2u);
  }
  EXPECT_EQ(read_text_file(path), "old");
  EXPECT_EQ(names(), std::vector<std::string>{"a"});

  std::string large(3'000'001, 'y');  // past the buffer, more than once
  {
    AtomicFile file(path);
    file.write(large);
    file.write("z");
    EXPECT_EQ(read_text_file(path), "old");
    file.commit();
    EXPECT_EQ(read_text_file(path), large + "z");
  }
  EXPECT_EQ(read_text_file(path), large + "z");
  EXPECT_EQ(names(), std::vector<std::string>{"a"});
}

TEST_F(Files, PadsWithZeros) {
  AtomicFile file(directory_ / "a");
  file.pad_to(8);
  EXPECT_EQ(file.position(), 0);
  file.write("abc");
  file.pad_to(8);
  EXPECT_EQ(file.position(), 8);
  file.pad_to(8);
  file.write("d");
  file.commit();
  EXPECT_EQ(read_text_file(directory_ / "a"), std::string("abc\0\0\0\0\0d", 9));
}

TEST_F(Files, RefusesToWriteWhereItCannot) {
  expect_error(ErrorKind::io, "cannot be created", [&] { AtomicFile(directory_ / "none/a"); });
  // A directory stands where the file should go: the temporary file does not stay behind.
  fs::create_directory(directory_ / "taken");
  expect_error(ErrorKind::io, "taken: cannot rename into place: ", [&] {
    write_text_file(directory_ / "taken", "text");
  });
  EXPECT_EQ(names(), std::vector<std::string>{"taken"});
}

}  // namespace
}  // namespace hone
