// Memory that may still be taken, from trees of files as Linux shows them on bare machines, under
// systemd, and in containers.
#include "base/memory.h"

#include <sys/resource.h>

#include "base/cgroup.h"
#include "base/error.h"
#include "fake_system.h"

namespace hone {
namespace {

using testing::FakeSystem;
constexpr int64_t kMb = int64_t{1} << 20;

TEST(AvailableMemory, IsWhatTheMachineHasWithoutControlGroups) {
  FakeSystem system;
  EXPECT_EQ(available_memory_by_files(system.root()), INT64_MAX);  // nothing is known
  system.put("proc/meminfo", "MemTotal:  9000 kB\nMemFree: 10 kB\nMemAvailable:   4096 kB\n");
  EXPECT_EQ(available_memory_by_files(system.root()), 4 * kMb);
}

TEST(AvailableMemory, IsTheLeastOverNestedGroupsOfVersion2) {
  FakeSystem system;
  system.meminfo(8000 * kMb);
  system.unified("/a.slice/b.scope");
  system.put("sys/fs/cgroup/a.slice/b.scope/memory.max", "max\n");
  system.put("sys/fs/cgroup/a.slice/b.scope/memory.current", "1048576\n");
  EXPECT_EQ(available_memory_by_files(system.root()), 8000 * kMb);
  system.put("sys/fs/cgroup/a.slice/memory.max", "10485760\n");  // 10 MB for the whole slice
  system.put("sys/fs/cgroup/a.slice/memory.current", "7340032\n");
  EXPECT_EQ(available_memory_by_files(system.root()), 3 * kMb);
  // Cached files are no use of memory.
  system.put("sys/fs/cgroup/a.slice/memory.stat",
             "anon 4194304\nfile 3145728\ninactive_file 2097152\nactive_file 1048576\n");
  EXPECT_EQ(available_memory_by_files(system.root()), 6 * kMb);
  system.put("sys/fs/cgroup/a.slice/b.scope/memory.max", "2097152\n");
  EXPECT_EQ(available_memory_by_files(system.root()), 1 * kMb);
  system.put("sys/fs/cgroup/a.slice/b.scope/memory.current", "3097152\n");  // over its limit
  EXPECT_EQ(available_memory_by_files(system.root()), 0);
}

TEST(AvailableMemory, KnowsVersion1) {
  FakeSystem system;
  system.meminfo(8000 * kMb);
  system.version1("memory", "/docker/abc", "/");
  const std::string group = "sys/fs/cgroup/memory/docker/abc/";
  system.put(group + "memory.limit_in_bytes", "9223372036854771712\n");  // how it says "none"
  system.put(group + "memory.usage_in_bytes", "1048576\n");
  EXPECT_EQ(available_memory_by_files(system.root()), 8000 * kMb);
  system.put(group + "memory.limit_in_bytes", "104857600\n");
  EXPECT_EQ(available_memory_by_files(system.root()), 99 * kMb);
  system.put(group + "memory.stat", "cache 1\ntotal_inactive_file 524288\nactive_file 999\n");
  EXPECT_EQ(available_memory_by_files(system.root()), 100 * kMb - kMb / 2);
}

TEST(AvailableMemory, FindsTheGroupOfAContainer) {
  // The mounted tree begins at the container's group, which /proc names from the host's root.
  FakeSystem system;
  system.meminfo(8000 * kMb);
  system.version1("memory", "/docker/abc/job", "/docker/abc");
  system.put("sys/fs/cgroup/memory/memory.limit_in_bytes", "20971520\n");
  system.put("sys/fs/cgroup/memory/memory.usage_in_bytes", "0\n");
  EXPECT_EQ(available_memory_by_files(system.root()), 20 * kMb);
  system.put("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "10485760\n");
  system.put("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "0\n");
  EXPECT_EQ(available_memory_by_files(system.root()), 10 * kMb);
}

TEST(CgroupDirectories, LeaveTheTreeForNoName) {
  FakeSystem system;
  system.unified("/../../elsewhere");
  const std::vector<std::filesystem::path> top = {system.root() / "sys/fs/cgroup"};
  EXPECT_EQ(cgroup_directories(system.root(), "memory"), top);
  system.put("proc/self/cgroup", "no colon\n0:\n::\n");
  EXPECT_EQ(cgroup_directories(system.root(), "memory"), top);
}

TEST(AvailableMemory, HeedsTheAddressSpaceLimit) {
  const int64_t without = available_memory();
  EXPECT_GT(without, 0);
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_AS, &before), 0);
  const double size = read_limit("/proc/self/statm").value() * 4096;
  struct rlimit tight = before;
  tight.rlim_cur = static_cast<rlim_t>(size) + 64 * kMb;
  ASSERT_EQ(::setrlimit(RLIMIT_AS, &tight), 0);
  const int64_t with = available_memory();
  ASSERT_EQ(::setrlimit(RLIMIT_AS, &before), 0);
  EXPECT_LE(with, 64 * kMb);
  EXPECT_GT(with, 32 * kMb);
}

TEST(RequireMemory, RefusesInOneLine) {
  EXPECT_NO_THROW(require_memory(1, "model"));
  try {
    require_memory(int64_t{1} << 60, "model");
    FAIL() << "must throw";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::out_of_memory);
    EXPECT_TRUE(std::string(e.what()).starts_with("model: needs 1152922 TB of memory, "))
        << e.what();
    EXPECT_TRUE(std::string(e.what()).ends_with(" are free")) << e.what();
  }
}

}  // namespace
}  // namespace hone
