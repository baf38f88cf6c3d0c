// What can be typed: subcommands, options and their values, read off the parser. Shell completion
// and the man page are made of it, so that they name what there is.
#pragma once

#include <CLI/CLI.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace hone {

enum class ValueKind { none, word, file, model };

struct OptionSurface {
  std::vector<std::string> names;    ///< "-h", "--help"; of a positional its word, "MODEL"
  std::string word;                  ///< that stands for the value: "FILE"
  std::string help;                  ///< with its default
  std::string group;                 ///< that --help lists it under
  std::vector<std::string> choices;  ///< all values, where they are few
  ValueKind value = ValueKind::none;
  bool positional = false;
  bool required = false;
};

struct CommandSurface {
  std::string name, summary;
  std::string footer;  ///< behind the options in --help: methods, examples
  std::vector<OptionSurface> options;
};

/// Of the whole command, in the order of --help.
std::vector<CommandSurface> surface_of(const CLI::App& app);
/// The parser that a subcommand's belongs to.
const CLI::App& whole(const CLI::App& subcommand);

/// The options that every subcommand has are in this group.
inline constexpr const char* kCommonGroup = "Common options";

/// Texts for a shell: each in single quotes, with spaces between.
std::string shell_quoted(const std::string& text);
std::string shell_words(const std::vector<std::string>& words);

/// Command lines of a subcommand, or of the whole command where `name` is empty, as --help and the
/// man page end with them.
std::string examples_of(std::string_view name);

/// The completion script of a shell: bash, zsh or fish.
std::string bash_completion(const std::vector<CommandSurface>& commands);
std::string zsh_completion(const std::vector<CommandSurface>& commands);
std::string fish_completion(const std::vector<CommandSurface>& commands);

}  // namespace hone
