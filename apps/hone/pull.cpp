// hone pull: fetches a model from a hub of Hugging Face's kind into the cache that huggingface_hub
// uses as well.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "command.h"
#include "hub/pull.h"

namespace hone {
namespace pull_command {

Json to_json(const PullOptions& o, const Pulled& p, double seconds) {
  Json files = Json::array();
  for (const PulledFile& f : p.files)
    files.push_back(
        {{"name", f.name}, {"bytes", f.size}, {"fetched_bytes", f.fetched}, {"cached", f.cached}});
  return {{"name", o.name},           {"revision", o.revision},
          {"commit", p.commit},       {"snapshot", p.snapshot.string()},
          {"bytes", p.bytes()},       {"fetched_bytes", p.fetched()},
          {"seconds", seconds},       {"dry_run", o.dry_run},
          {"files", std::move(files)}};
}

void print_files(const Pulled& p) {
  std::vector<std::vector<std::string>> rows{{"file", "size", "in the cache"}};
  for (const PulledFile& f : p.files)
    rows.push_back(
        {f.name, f.size < 0 ? "?" : human_bytes(double(f.size)), f.cached ? "yes" : "no"});
  print_text(text_table(rows));
}

void run(const PullOptions& o, const CommonOptions& common) {
  const double begun = monotonic_seconds();
  const Pulled p = pull_model(HubSettings::from_environment(), o);
  const double seconds = monotonic_seconds() - begun;
  if (common.json) return print_json(to_json(o, p, seconds));
  if (o.dry_run) return print_files(p);
  log_info("{} at {}: {} in {} file{}, {} of them fetched in {}", o.name, p.commit.substr(0, 12),
           human_bytes(double(p.bytes())), p.files.size(), p.files.size() == 1 ? "" : "s",
           human_bytes(double(p.fetched())), human_seconds(seconds));
  print_text(p.snapshot.string() + "\n");
}

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  auto o = std::make_shared<PullOptions>();
  o->version = HONE_VERSION;
  app.add_option("NAME", o->name, "org/name, as on the hub")->required();
  app.add_option("--revision", o->revision, "a branch, a tag or a commit")
      ->type_name("NAME")
      ->capture_default_str();
  auto globs = [&](const char* name, std::vector<std::string>& field, const char* help) {
    app.add_option(name, field, help)->allow_extra_args(false)->type_name("GLOB");
  };
  globs("--include", o->include, "only files that match (repeatable); else those that hone reads");
  globs("--exclude", o->exclude, "no files that match (repeatable)");
  app.add_option("--jobs", o->jobs, "files at a time")
      ->check(between(1, 64))
      ->type_name("N")
      ->capture_default_str();
  app.add_flag("--verify", o->verify, "read the cached files again, and fetch damaged ones anew");
  app.add_flag("--dry-run", o->dry_run, "list the files and their sizes; fetch none");
  return [o, &common] { run(*o, common); };
}

}  // namespace pull_command

extern const Command kPullCommand;
const Command kPullCommand{"pull", "fetch a model from a hub into the cache", pull_command::add};

}  // namespace hone
