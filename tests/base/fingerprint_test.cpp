#include "base/fingerprint.h"

#include <set>

#include "base/error.h"
#include "base/files.h"
#include "base/threads.h"
#include "testing.h"

namespace hone {
namespace {

TEST(Fingerprint, EveryByteAndTheLengthCount) {
  testing::TemporaryDirectory scratch;
  fs::path path = scratch / "f";
  std::string text(9 << 20, 'x');
  std::set<uint64_t> seen;
  auto add = [&](const std::string& s) {
    write_text_file(path, s);
    return seen.insert(file_fingerprint(path)).second;
  };
  EXPECT_TRUE(add(text));
  EXPECT_FALSE(add(text));
  for (size_t at :
       {size_t{0}, size_t{31}, size_t{4} << 20, (size_t{4} << 20) - 1, text.size() - 1}) {
    std::string changed = text;
    changed[at] = 'y';
    EXPECT_TRUE(add(changed)) << at;
  }
  EXPECT_TRUE(add(text + "x"));
  EXPECT_TRUE(add(""));
  EXPECT_TRUE(add(std::string(1, '\0')));
}

TEST(Fingerprint, DoesNotDependOnThreads) {
  testing::TemporaryDirectory scratch;
  write_text_file(scratch / "f", std::string(13 << 20, 'q'));
  set_threads(1);
  uint64_t one = file_fingerprint(scratch / "f");
  set_threads(0);
  EXPECT_EQ(file_fingerprint(scratch / "f"), one);
}

TEST(Fingerprint, RefusesWhatIsNoFile) {
  testing::TemporaryDirectory scratch;
  EXPECT_THROW(file_fingerprint(scratch / "absent"), Error);
  EXPECT_THROW(file_fingerprint(scratch / ""), Error);
}

TEST(Fingerprint, OfBytesSeesEveryByteTheLengthAndWhatWasBefore) {
  const std::string text(100, 'x');
  std::set<uint64_t> seen = {bytes_fingerprint(text)};
  for (size_t at = 0; at < text.size(); ++at) {
    std::string changed = text;
    changed[at] ^= 1;
    EXPECT_TRUE(seen.insert(bytes_fingerprint(changed)).second) << at;
  }
  EXPECT_TRUE(seen.insert(bytes_fingerprint(text.substr(1))).second);
  EXPECT_TRUE(seen.insert(bytes_fingerprint(text, 1)).second);
  EXPECT_TRUE(seen.insert(bytes_fingerprint("")).second);
  EXPECT_TRUE(seen.insert(bytes_fingerprint(std::string(1, '\0'))).second);
  EXPECT_EQ(bytes_fingerprint(text), bytes_fingerprint(text));
}

}  // namespace
}  // namespace hone
