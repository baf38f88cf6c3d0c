// A directory that looks like the /proc and /sys of a machine, for what reads limits from there.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

namespace hone::testing {

class FakeSystem {
 public:
  FakeSystem() {
    std::string pattern = (std::filesystem::temp_directory_path() / "hone-test-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary directory");
    root_ = pattern;
  }
  ~FakeSystem() { std::filesystem::remove_all(root_); }
  FakeSystem(const FakeSystem&) = delete;
  FakeSystem& operator=(const FakeSystem&) = delete;

  const std::filesystem::path& root() const { return root_; }

  void put(const std::string& path, const std::string& text) {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  void meminfo(int64_t bytes) {
    put("proc/meminfo", "MemAvailable: " + std::to_string(bytes / 1024) + " kB\n");
  }
  /// This process is in `group` of the version 2 tree at sys/fs/cgroup.
  void unified(const std::string& group) {
    put("proc/self/cgroup", "0::" + group + "\n");
    put("proc/self/mountinfo",
        "21 1 0:20 / /sys rw shared:2 - sysfs sysfs rw\n"
        "31 21 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n");
  }
  /// This process is in `group` of the version 1 tree of `controller`, of which the part below
  /// `top` is mounted at sys/fs/cgroup/CONTROLLER.
  void version1(const std::string& controller, const std::string& group, const std::string& top) {
    put("proc/self/cgroup", "5:pids:/p\n4:" + controller + ",other:" + group + "\n0::/\n");
    put("proc/self/mountinfo",
        "40 31 0:37 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n41 31 0:38 " + top +
            " /sys/fs/cgroup/" + controller + " rw,relatime - cgroup cgroup rw," + controller +
            ",other\n");
  }

 private:
  std::filesystem::path root_;
};

}  // namespace hone::testing
