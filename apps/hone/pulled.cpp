// Names of pulled models where commands take a path: "org/name" becomes the path in the hub's
// cache.
#include <cstdlib>
#include <system_error>

#include "command.h"
#include "hub/cache.h"
#include "hub/settings.h"

namespace hone {
namespace {

bool exists(const std::string& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// The options that take a MODEL: by the word that stands for their value. A teacher is one as well,
// an option among others of a training method.
bool takes_model(const CLI::Option& o) {
  return o.get_type_name() == "MODEL" || o.get_name(true) == "MODEL" || o.check_lname("teacher");
}
bool takes_adapter(const CLI::Option& o) { return o.check_lname("adapter"); }

std::string resolved(const std::string& text) {
  if (text.empty() || exists(text)) return text;
  // "dir/file", where there is such a directory, is a path with a mistake in it.
  const size_t slash = text.find('/');
  if (slash != text.npos && exists(text.substr(0, slash))) return text;
  const auto cache = hub_cache_directory([](const char* name) { return std::getenv(name); });
  const auto path = pulled_model(cache, text);
  return path ? path->string() : text;
}

// "DIR[=X]": the weight stays behind.
std::string resolved_adapter(const std::string& text) {
  const size_t at = text.rfind('=');
  if (at == text.npos || at == 0 || exists(text)) return resolved(text);
  return resolved(text.substr(0, at)) + text.substr(at);
}

}  // namespace

void resolve_pulled_models(CLI::App& app) {
  for (CLI::Option* o : app.get_options()) {
    const bool model = takes_model(*o);
    if (o->count() == 0 || (!model && !takes_adapter(*o))) continue;
    const std::vector<std::string> given = o->results();
    std::vector<std::string> found;
    for (const std::string& text : given)
      found.push_back(model ? resolved(text) : resolved_adapter(text));
    if (found == given) continue;
    o->clear();
    for (const std::string& text : found) o->add_result(text);
    o->run_callback();
  }
}

}  // namespace hone
