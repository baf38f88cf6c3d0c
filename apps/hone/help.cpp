#include "help.h"

#include <fmt/core.h>

namespace hone {

std::string HelpFormatter::make_help(const CLI::App* app, std::string name,
                                     CLI::AppFormatMode mode) const {
  std::string text = CLI::Formatter::make_help(app, name, mode);
  for (size_t at; (at = text.find("\n\n\n")) != std::string::npos;) text.erase(at, 1);
  return text;
}

std::string HelpFormatter::make_usage(const CLI::App* app, std::string name) const {
  std::string line = "Usage: " + name;
  if (app->get_require_subcommand_min() > 0) line += " SUBCOMMAND";
  for (const CLI::Option* o :
       app->get_options([](const CLI::Option* o) { return o->get_positional(); }))
    line += " " + o->get_name(true, false);
  for (const CLI::Option* o :
       app->get_options([](const CLI::Option* o) { return o->nonpositional(); }))
    if (o->get_required())
      line += fmt::format(" {}{}", o->get_name(false, true), make_option_opts(o));
  return line + " [OPTIONS]\n";
}

std::string HelpFormatter::make_option_name(const CLI::Option* option, bool positional) const {
  const std::vector<std::string>& names = option->get_lnames();
  if (names.size() == 2 && names[1] == "no-" + names[0]) return "--[no-]" + names[0];
  return option->get_name(positional, !positional);
}

std::string HelpFormatter::make_option_opts(const CLI::Option* option) const {
  if (option->get_positional() || option->get_type_size() == 0) return {};
  return " " + option->get_type_name();
}

std::string HelpFormatter::make_option_desc(const CLI::Option* option) const {
  std::string text = option->get_description();
  if (!option->get_positional() && option->get_required()) text += " (required)";
  if (!option->get_default_str().empty())
    text += fmt::format(" (default {})", option->get_default_str());
  return text;
}

}  // namespace hone
