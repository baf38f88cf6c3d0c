// The control groups of this process, where Linux keeps the limits on its memory and CPU time.
//
// A limit binds its group and all groups below it, so what holds for a process is the least over
// its group and that group's ancestors. Version 2 has one tree ("memory.max", "cpu.max"), version 1
// one for each controller ("memory.limit_in_bytes", "cpu.cfs_quota_us"); both may be mounted at
// once. /proc/self/cgroup names the groups, /proc/self/mountinfo says where the trees are.
#pragma once

#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

namespace hone {

/// Directories of the groups of `controller` ("memory", "cpu") that bind this process, each group
/// before its ancestors, in every mounted tree. `root` is the directory that holds proc and sys,
/// "/" but in tests. Some of the directories may not exist: what a container sees is often only
/// part of its host's tree.
std::vector<std::filesystem::path> cgroup_directories(const std::filesystem::path& root,
                                                      std::string_view controller);

/// The number that a one-number file holds; nothing for "max", or where there is no such file.
std::optional<double> read_limit(const std::filesystem::path& file);

}  // namespace hone
