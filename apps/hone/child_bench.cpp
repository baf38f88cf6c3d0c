#include "child_bench.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>

#include <nlohmann/json.hpp>

#include "base/threads.h"
#include "kernels/select.h"

extern char** environ;

namespace hone {
namespace {

// What a program writes, or an error with its last line where it does not end with status 0.
std::string output_of(const std::vector<std::string>& arguments) {
  int ends[2];
  HONE_CHECK(::pipe2(ends, O_CLOEXEC) == 0, io, "cannot make a pipe");
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
  std::vector<char*> argv;
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  pid_t child = 0;
  int failure = ::posix_spawn(&child, argv[0], &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  std::string out;
  char buffer[4096];
  for (ssize_t n; failure == 0 && (n = ::read(ends[0], buffer, sizeof(buffer))) != 0;)
    if (n > 0) out.append(buffer, static_cast<size_t>(n));
  ::close(ends[0]);
  int status = 0;
  if (failure == 0) ::waitpid(child, &status, 0);
  while (!out.empty() && out.back() == '\n') out.pop_back();
  std::string last = out.substr(out.rfind('\n') + 1);
  HONE_CHECK(failure == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0, io,
             "{}: its benchmark failed: {}", arguments[2], last);
  return last;
}

}  // namespace

RunFigures bench_in_child(const CommonOptions& common, const std::filesystem::path& model,
                          int64_t prompt, int64_t decode) {
  std::string out = output_of({"/proc/self/exe",
                               "bench",
                               model.string(),
                               "--json",
                               "--quiet",
                               "--prompt",
                               std::to_string(prompt),
                               "--decode",
                               std::to_string(decode),
                               "--runs",
                               "3",
                               "--threads",
                               std::to_string(thread_count()),
                               "--isa",
                               kernels::table().isa,
                               "--activations",
                               common.activations,
                               "--outlier-threshold",
                               fmt::format("{}", common.outlier_threshold),
                               "--kv-cache",
                               std::string(kv_type_name(common.kv()))});
  Json j = parse_json(out, "hone bench");
  return {j.at("prefill_tokens_per_second").get<double>(),
          j.at("decode_tokens_per_second").get<double>(), j.at("peak_rss_bytes").get<double>(),
          j.value("prefill_of_limit", std::nan("")), j.value("decode_of_limit", std::nan(""))};
}

}  // namespace hone
