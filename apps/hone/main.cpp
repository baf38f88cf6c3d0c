// The command: parses, runs one subcommand, and turns errors into one line and an exit status
// (0 done, 1 failed, 2 wrong usage).
#include <fmt/core.h>

#include <cstdio>
#include <exception>
#include <new>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "base/threads.h"
#include "command.h"
#include "kernels/select.h"

namespace hone {
namespace {

const Command* const kCommands[] = {
    &kInfoCommand,     &kGenerateCommand, &kEvalCommand,    &kBenchCommand,
    &kOptimizeCommand, &kQuantizeCommand, &kConvertCommand, &kChatCommand,
};

void add_common_flags(CLI::App& app, CommonOptions& c) {
  app.add_flag("--json", c.json, "print one JSON object as the last line of stdout");
  app.add_flag("--quiet", c.quiet, "no progress and no notes on stderr");
  app.add_option("--threads", c.threads, "threads to use (0 = all that this process may use)")
      ->check(CLI::Range(0, 4096));
  app.add_option("--seed", c.seed, "seed of everything random");
  app.add_option("--isa", c.isa, "force an instruction set: baseline, avx2, avx512, avx512_vnni");
  app.add_option("--activations", c.activations,
                 "f32, or int8: quantise activations where weights have an integer form")
      ->check(CLI::IsMember({"f32", "int8"}))
      ->capture_default_str();
}

// One line, whatever the message holds.
std::string one_line(std::string text) {
  for (char& c : text)
    if (c == '\n' || c == '\r') c = ' ';
  return text;
}

int run(int argc, char** argv) {
  CLI::App app("hone: makes language models smaller and faster, and measures what each step costs",
               "hone");
  app.set_version_flag("--version", HONE_VERSION);
  app.require_subcommand(1);
  CommonOptions common;
  std::function<void()> chosen;
  for (const Command* c : kCommands) {
    CLI::App* sub = app.add_subcommand(c->name, c->summary);
    add_common_flags(*sub, common);
    auto body = c->add(*sub, common);
    sub->callback([&chosen, body] { chosen = body; });
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);
    std::fprintf(stderr, "hone: %s (see hone --help)\n", one_line(e.what()).c_str());
    return 2;
  }
  if (common.quiet) set_log_level(LogLevel::quiet);
  set_threads(common.threads);
  kernels::set_isa(common.isa);
  chosen();
  return 0;
}

}  // namespace
}  // namespace hone

int main(int argc, char** argv) {
  try {
    return hone::run(argc, argv);
  } catch (const hone::Error& e) {
    std::fprintf(stderr, "hone: %s\n", hone::one_line(e.what()).c_str());
    return 1;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "hone: out of memory\n");
    return 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "hone: %s\n", hone::one_line(e.what()).c_str());
    return 1;
  }
}
