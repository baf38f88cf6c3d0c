// The command: parses, runs one subcommand, and turns errors into one line and an exit status
// (0 done, 1 failed, 2 wrong usage).
#include <fmt/core.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <new>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/log.h"
#include "base/memory.h"
#include "base/temporary.h"
#include "base/threads.h"
#include "command.h"
#include "help.h"
#include "kernels/select.h"
#include "surface.h"

namespace hone {
namespace {

const Command* const kCommands[] = {
    &kInfoCommand,     &kGenerateCommand,   &kChatCommand,    &kEvalCommand,      &kBenchCommand,
    &kOptimizeCommand, &kQuantizeCommand,   &kConvertCommand, &kPrecisionCommand, &kTrainCommand,
    &kTuneCommand,     &kMergeCommand,      &kPruneCommand,   &kDoctorCommand,    &kExplainCommand,
    &kPullCommand,     &kCompletionCommand, &kManCommand,
};

void add_common_flags(CLI::App& app, CommonOptions& c, bool several_caches) {
  // Help as well goes behind the subcommand's own flags.
  app.set_help_flag();
  auto common = [](CLI::Option* o) { return o->group("Common options"); };
  common(app.add_flag("--json", c.json, "print one JSON object as the last line of stdout"));
  common(app.add_flag("--quiet", c.quiet, "no progress and no notes on stderr"));
  common(app.add_option("--threads", c.threads, "0 = all that this process may use"))
      ->check(between(0, 4096))
      ->type_name("N")
      ->capture_default_str();
  common(app.add_option("--seed", c.seed, "seed of everything random"))
      ->check(between(0, 1.8e19))
      ->type_name("N")
      ->capture_default_str();
  std::vector<std::string> isas = kernels::isa_names();
  isas.insert(isas.begin(), "auto");
  common(app.add_option("--isa", c.isa, "baseline, avx2, avx512, avx512_vnni or avx512_amx"))
      ->check(one_of(isas))
      ->type_name("NAME")
      ->capture_default_str();
  common(app.add_option("--activations", c.activations,
                        "f32; int8 or bf16 if faster; llm_int8, llm_int8_batch"))
      ->check(one_of({"f32", "int8", "llm_int8", "llm_int8_batch"}))
      ->type_name("TYPE")
      ->capture_default_str();
  common(app.add_option("--outlier-threshold", c.outlier_threshold,
                        "where LLM.int8() keeps activations as floats"))
      ->check(between(1e-6, 1e30))
      ->type_name("X")
      ->capture_default_str();
  common(app.add_option("--kv-cache", c.kv_cache, kv_type_list()))
      ->check(kv_cache_types(several_caches))
      ->type_name(several_caches ? "TYPE[,TYPE]" : "TYPE")
      ->capture_default_str();
  common(app.set_help_flag("-h,--help", "print this and exit"));
}

// One line, whatever the message holds.
void print_error(std::string message) {
  for (char& c : message)
    if (c == '\n' || c == '\r') c = ' ';
  // On a terminal, in place of a progress bar that stands on this line.
  std::fprintf(stderr, "%shone: %s\n", ::isatty(2) != 0 ? "\r\033[K" : "", message.c_str());
}

int wrong_usage(const std::string& message, const std::string& subcommand) {
  print_error(fmt::format("{} (see hone {}--help)", message, subcommand));
  return 2;
}

// The parser's message, where it has a good one.
std::string parse_message(const CLI::ParseError& e, int argc, char** argv, bool has_subcommand) {
  std::string names;
  for (const Command* c : kCommands)
    names += fmt::format("{}{}", names.empty() ? "" : ", ", c->name);
  if (!has_subcommand && argc < 2) return "no subcommand; there are " + names;
  if (!has_subcommand) return fmt::format("no subcommand '{}'; there are {}", argv[1], names);
  return e.what();
}

// The arguments, last first, as the parser takes them. "help" and "help NAME" are --help.
std::vector<std::string> words_of(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  if (!words.empty() && words[0] == "help") {
    words.erase(words.begin());
    words.emplace_back("--help");
  }
  std::reverse(words.begin(), words.end());
  return words;
}

int run(int argc, char** argv) {
  CLI::App app("hone: makes language models smaller and faster, and measures what each step costs",
               "hone");
  app.set_version_flag("--version", "hone " HONE_VERSION, "print the version and exit");
  app.set_help_flag("-h,--help", "print this and exit");
  app.require_subcommand(1);
  app.formatter(std::make_shared<HelpFormatter>());
  CommonOptions common;
  std::vector<std::string> words = words_of(argc, argv);
  std::function<void()> chosen;
  std::string name;
  for (const Command* c : kCommands) {
    CLI::App* sub = app.add_subcommand(c->name, c->summary);
    auto body = c->add(*sub, common);
    add_common_flags(*sub, common, c->compares_caches);
    sub->footer(sub->get_footer() + examples_of(c->name));
    sub->callback([&chosen, sub, body] {
      chosen = [sub, body] {
        resolve_pulled_models(*sub);
        body();
      };
    });
    sub->preparse_callback([&name, c](size_t) { name = std::string(c->name) + " "; });
  }
  app.footer(examples_of(""));  // behind the subcommands, which would take it over
  try {
    app.parse(words);
    if (common.quiet) set_log_level(LogLevel::quiet);
    set_threads(common.threads);
    const auto& machine = known_machine();
    bool known = common.isa == "auto" && machine;
    kernels::set_isa(known ? machine->best_isa : common.isa);
    kernels::prefer_bf16_dots(machine &&
                              kernels::bf16_dots_are_faster(*machine, kernels::table().isa));
    chosen();
    print_text("");  // the last of what is buffered
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);
    return wrong_usage(parse_message(e, argc, argv, !name.empty()), name);
  } catch (const UsageError& e) {
    return wrong_usage(e.what(), name);
  }
  return 0;
}

// SIGINT, SIGTERM and SIGHUP end the process as ever, but what it was writing goes first. A thread
// waits for them: in a signal handler hardly anything may be called.
void watch_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (int s : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction now {};
    // Started with nohup, or in the background of a script: ignored signals stay so.
    if (::sigaction(s, nullptr, &now) == 0 && now.sa_handler != SIG_IGN) sigaddset(&set, s);
  }
  // Before any other thread starts, so that all inherit it.
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::thread([set] {
    int caught = 0;
    if (::sigwait(&set, &caught) != 0) return;
    remove_temporaries();
    print_error(fmt::format("stopped by {}", ::strsignal(caught)));
    ::signal(caught, SIG_DFL);
    ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    ::raise(caught);
  }).detach();
  // Past a limit on file sizes a write shall fail like any other.
  ::signal(SIGXFSZ, SIG_IGN);
  // A mapped file that somebody cuts short: the page is gone, and so is what wanted it.
  ::signal(SIGBUS, [](int) {
    constexpr std::string_view kLine = "hone: a model file was changed while it was in use\n";
    if (::write(2, kLine.data(), kLine.size()) >= 0) ::_exit(1);
    ::_exit(1);
  });
}

}  // namespace
}  // namespace hone

int main(int argc, char** argv) {
  try {
    hone::watch_signals();
    hone::give_back_freed_memory();
    return hone::run(argc, argv);
  } catch (const std::bad_alloc&) {
    hone::print_error("out of memory");
  } catch (const std::filesystem::filesystem_error& e) {
    hone::print_error(fmt::format("{}: {}", e.path1().string(), e.code().message()));
  } catch (const std::exception& e) {
    hone::print_error(e.what());
  }
  return 1;
}
