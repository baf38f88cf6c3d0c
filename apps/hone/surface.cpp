#include "surface.h"

#include <algorithm>

#include "command.h"
#include "help.h"

namespace hone {
namespace {

ValueKind kind_of(const std::string& word) {
  if (word == "MODEL") return ValueKind::model;
  for (const char* file : {"FILE", "DIR", "PATH", "CONFIG"})
    if (word.find(file) != word.npos) return ValueKind::file;
  return ValueKind::word;
}

OptionSurface option_surface(CLI::Option& o, const HelpFormatter& formatter) {
  OptionSurface s;
  s.positional = o.get_positional();
  s.required = o.get_required();
  s.group = o.get_group();
  s.help = formatter.make_option_desc(&o);
  if (s.positional) {
    s.names = {o.get_name(true)};
    s.word = s.names[0];
  } else {
    for (const std::string& n : o.get_snames()) s.names.push_back("-" + n);
    for (const std::string& n : o.get_lnames()) s.names.push_back("--" + n);
    if (o.get_type_size() != 0) s.word = o.get_type_name();
  }
  s.choices = choices_of(o);
  if (!s.word.empty()) s.value = kind_of(s.word);
  return s;
}

}  // namespace

const CLI::App& whole(const CLI::App& subcommand) {
  const CLI::App* app = &subcommand;
  // A parent is given as one that may be changed.
  while (const CLI::App* above = const_cast<CLI::App*>(app)->get_parent()) app = above;
  return *app;
}

std::vector<CommandSurface> surface_of(const CLI::App& app) {
  const HelpFormatter formatter;
  std::vector<CommandSurface> out;
  for (const CLI::App* sub : app.get_subcommands({})) {
    CommandSurface c;
    c.name = sub->get_name();
    c.summary = sub->get_description();
    c.footer = sub->get_footer();
    for (CLI::Option* o : const_cast<CLI::App*>(sub)->get_options())
      c.options.push_back(option_surface(*o, formatter));
    // Positionals first, as in a usage line.
    std::stable_partition(c.options.begin(), c.options.end(),
                          [](const OptionSurface& s) { return s.positional; });
    out.push_back(std::move(c));
  }
  return out;
}

std::string shell_quoted(const std::string& text) {
  std::string out = "'";
  for (char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::string shell_words(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& w : words) out += (out.empty() ? "" : " ") + w;
  return out;
}

}  // namespace hone
