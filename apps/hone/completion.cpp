// hone completion: scripts that let bash, zsh and fish complete hone's subcommands, options and the
// values that are few. Names of pulled models are read from the cache when they are asked for.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "command.h"
#include "surface.h"

namespace hone {
namespace completion_command {

// Of bash and zsh: prints "org/name", or "name", of each model in the cache. Bash expands the words
// that it completes, so no other characters may come through.
constexpr const char* kPulled = R"(_hone_pulled() {
  local hub=${HF_HUB_CACHE:-${HF_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/huggingface}/hub} name
  command ls "$hub" 2>/dev/null | while read -r name; do
    case $name in
      *[!A-Za-z0-9._-]*) ;;
      models--*--*) name=${name#models--}; echo "${name%%--*}/${name#*--}" ;;
      models--*) echo "${name#models--}" ;;
    esac
  done
}
)";

std::vector<std::string> names_of(const std::vector<CommandSurface>& commands) {
  std::vector<std::string> names;
  for (const CommandSurface& c : commands) names.push_back(c.name);
  return names;
}

// What bash does for a value; empty where it has nothing to offer.
std::string bash_value(const OptionSurface& o) {
  if (!o.choices.empty()) return "words=" + shell_quoted(shell_words(o.choices));
  if (o.value == ValueKind::model) return "words=$(_hone_pulled); files=1";
  if (o.value == ValueKind::file) return "files=1";
  return "";
}

std::string bash_case(const CommandSurface& c) {
  std::string flags, values, positional;
  for (const OptionSurface& o : c.options) {
    if (o.positional) {
      positional = bash_value(o);
      continue;
    }
    for (const std::string& name : o.names) flags += (flags.empty() ? "" : " ") + name;
    if (o.value == ValueKind::none) continue;
    std::string pattern;
    for (const std::string& name : o.names) pattern += (pattern.empty() ? "" : "|") + name;
    const std::string value = bash_value(o);
    values += fmt::format("        {}) {}{}return ;;\n", pattern, value, value.empty() ? "" : "; ");
  }
  return fmt::format(
      "    {})\n      case $prev in\n{}      esac\n"
      "      if [[ $cur == -* ]]; then words={}; else {}; fi ;;\n",
      c.name, values, shell_quoted(flags), positional.empty() ? ":" : positional);
}

// Of zsh: what stands behind the colon of a value.
std::string zsh_action(const OptionSurface& o) {
  if (!o.choices.empty()) return "(" + shell_words(o.choices) + ")";
  if (o.value == ValueKind::model) return "_hone_models";
  if (o.value == ValueKind::file) return "_files";
  return " ";
}

std::string zsh_escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

std::string zsh_specs(const CommandSurface& c) {
  std::string out;
  for (const OptionSurface& o : c.options) {
    if (o.positional) {
      out += " \\\n        " +
             shell_quoted(fmt::format("1:{}:{}", zsh_escaped(o.word), zsh_action(o)));
      continue;
    }
    for (const std::string& name : o.names) {
      std::string spec = fmt::format("*{}[{}]", name, zsh_escaped(o.help));
      if (o.value != ValueKind::none)
        spec += fmt::format(":{}:{}", zsh_escaped(o.word), zsh_action(o));
      out += " \\\n        " + shell_quoted(spec);
    }
  }
  return out;
}

// Of fish, which knows two escapes within single quotes.
std::string fish_quoted(const std::string& text) {
  std::string out = "'";
  for (char c : text) {
    if (c == '\'' || c == '\\') out += '\\';
    out += c;
  }
  return out + "'";
}

std::string fish_value(const OptionSurface& o) {
  if (!o.choices.empty()) return " -x -a " + fish_quoted(shell_words(o.choices));
  if (o.value == ValueKind::model) return " -r -F -a '(__hone_pulled)'";
  if (o.value == ValueKind::file) return " -r -F";
  return " -x";
}

}  // namespace completion_command

std::string bash_completion(const std::vector<CommandSurface>& commands) {
  std::string out = "# bash completion for hone, made by: hone completion bash\n";
  out += completion_command::kPulled;
  out += "_hone_words() {\n  case $command in\n    help) words=" +
         shell_quoted(shell_words(completion_command::names_of(commands))) + " ;;\n";
  for (const CommandSurface& c : commands) out += completion_command::bash_case(c);
  out += "  esac\n}\n";
  out += fmt::format(
      R"(_hone() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}}
  local command=${{COMP_WORDS[1]}} words= files=
  if ((COMP_CWORD == 1)); then
    words={}
  else
    _hone_words
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  [[ -z $files ]] || compopt -o default -o filenames 2>/dev/null
  local IFS=$'\n'  # names of files hold spaces
  [[ -z $files ]] || COMPREPLY+=($(compgen -f -- "$cur"))
}}
complete -F _hone hone
)",
      shell_quoted(shell_words(completion_command::names_of(commands)) + " help --help --version"));
  return out;
}

std::string zsh_completion(const std::vector<CommandSurface>& commands) {
  std::string out = "#compdef hone\n# zsh completion for hone, made by: hone completion zsh\n";
  out += completion_command::kPulled;
  out += R"zsh(_hone_models() {
  local -a pulled
  pulled=(${(f)"$(_hone_pulled)"})
  compadd -a pulled
  _files
}
_hone() {
  local context state state_descr line
  typeset -A opt_args
  local -a commands
  commands=(
)zsh";
  for (const CommandSurface& c : commands)
    out += "    " + shell_quoted(completion_command::zsh_escaped(c.name) + ":" + c.summary) + "\n";
  out += R"(  )
  _arguments -C '--help[print help and exit]' '--version[print the version and exit]' \
    '1: :->command' '*:: :->options'
  case $state in
    command) _describe command commands ;;
    options)
      case $words[1] in
)";
  for (const CommandSurface& c : commands)
    out += fmt::format("      {})\n        _arguments{} ;;\n", c.name,
                       completion_command::zsh_specs(c));
  out += R"(      help) _describe command commands ;;
      esac ;;
  esac
}
if [[ $funcstack[1] == _hone ]]; then _hone "$@"; else compdef _hone hone; fi
)";
  return out;
}

std::string fish_completion(const std::vector<CommandSurface>& commands) {
  std::string out = R"(# fish completion for hone, made by: hone completion fish
function __hone_pulled
    set -l home $XDG_CACHE_HOME
    test -n "$home"; or set home ~/.cache
    set home $home/huggingface
    test -n "$HF_HOME"; and set home $HF_HOME
    set -l hub $home/hub
    test -n "$HF_HUB_CACHE"; and set hub $HF_HUB_CACHE
    command ls $hub 2>/dev/null | string replace -rf '^models--(.+?)--(.+)$' '$1/$2'
end
complete -c hone -f
complete -c hone -n __fish_use_subcommand -l version -d 'print the version and exit'
complete -c hone -n __fish_use_subcommand -s h -l help -d 'print help and exit'
)";
  for (const CommandSurface& c : commands)
    out += fmt::format("complete -c hone -n __fish_use_subcommand -a {} -d {}\n", c.name,
                       completion_command::fish_quoted(c.summary));
  for (const CommandSurface& c : commands)
    for (const OptionSurface& o : c.options) {
      out += fmt::format("complete -c hone -n '__fish_seen_subcommand_from {}'", c.name);
      if (o.positional) {
        out += o.value == ValueKind::word && o.choices.empty() ? ""
                                                               : completion_command::fish_value(o);
      } else {
        for (const std::string& name : o.names)
          out += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
        if (o.value != ValueKind::none) out += completion_command::fish_value(o);
        out += " -d " + completion_command::fish_quoted(o.help);
      }
      out += "\n";
    }
  return out;
}

namespace completion_command {

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  auto shell = std::make_shared<std::string>();
  app.add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->check(one_of({"bash", "zsh", "fish"}));
  return [&app, &common, shell] {
    const std::vector<CommandSurface> commands = surface_of(whole(app));
    const std::string script = *shell == "bash"  ? bash_completion(commands)
                               : *shell == "zsh" ? zsh_completion(commands)
                                                 : fish_completion(commands);
    if (common.json) return print_json({{"shell", *shell}, {"script", script}});
    print_text(script);
  };
}

}  // namespace completion_command

extern const Command kCompletionCommand;
const Command kCompletionCommand{
    "completion", "print a script that completes hone's words in a shell", completion_command::add};

}  // namespace hone
