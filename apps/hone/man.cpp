// hone man: the man page, in roff, made of what the parser knows.
#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "command.h"
#include "surface.h"

namespace hone {
namespace man_command {

// A character beyond ASCII as \[u20AC], for the UTF-8 that begins at text[i]; i goes to its last
// byte.
std::string wide(const std::string& text, size_t& i) {
  const auto first = static_cast<unsigned char>(text[i]);
  const int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
  unsigned code = first & (0x3fu >> more);
  for (int k = 0; k < more && i + 1 < text.size(); ++k)
    code = code << 6 | (static_cast<unsigned char>(text[++i]) & 0x3fu);
  return fmt::format("\\[u{:04X}]", code);
}

// Text of one or more lines for roff: no line may be taken for a request.
std::string roff(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool line_start = i == 0 || text[i - 1] == '\n';
    if (line_start && (c == '.' || c == '\'')) out += "\\&";
    if (static_cast<unsigned char>(c) >= 0x80)
      out += wide(text, i);
    else if (c == '\\')
      out += "\\e";
    else if (c == '-')
      out += "\\-";
    else if (c == '\'')
      out += "\\(aq";
    else if (c == '`')
      out += "\\(ga";
    else if (c == '^')
      out += "\\(ha";
    else if (c == '~')
      out += "\\(ti";
    else
      out += c;
  }
  return out;
}

std::string bold(const std::string& text) { return "\\fB" + roff(text) + "\\fR"; }
std::string italic(const std::string& text) { return "\\fI" + roff(text) + "\\fR"; }

std::string option_text(const OptionSurface& o) {
  std::string head;
  for (const std::string& n : o.names)
    head += (head.empty() ? "" : ", ") + (o.positional ? italic(n) : bold(n));
  if (!o.positional && !o.word.empty()) head += " " + italic(o.word);
  return ".TP\n" + head + "\n" + roff(o.help) + "\n";
}

// What stands behind the options in --help, line by line as it is.
std::string verbatim(const std::string& text) {
  const size_t begin = text.find_first_not_of('\n');
  if (begin == text.npos) return {};
  return ".PP\n.nf\n" + roff(text.substr(begin)) + "\n.fi\n";
}

std::string usage_line(const CommandSurface& c) {
  std::string line = bold("hone " + c.name);
  for (const OptionSurface& o : c.options) {
    if (o.positional) line += " " + italic(o.names[0]);
    if (!o.positional && o.required) line += " " + bold(o.names.back()) + " " + italic(o.word);
  }
  return line + " [" + italic("OPTIONS") + "]";
}

std::string command_text(const CommandSurface& c) {
  std::string out = fmt::format(".SS {}\n{}\n.PP\n{}.\n", usage_line(c), "", roff(c.summary));
  out.erase(out.find("\n\n") + 1, 1);
  std::string group;
  for (const OptionSurface& o : c.options) {
    if (o.group == kCommonGroup) continue;
    if (!o.positional && o.group != group && o.group != "Options")
      out += ".PP\n" + italic(o.group + ":") + "\n";
    if (!o.positional) group = o.group;
    out += option_text(o);
  }
  return out + verbatim(c.footer);
}

constexpr const char* kEnd = R"(.SH ENVIRONMENT
.TP
\fBHF_HOME\fR, \fBHF_HUB_CACHE\fR
where pulled models are kept: \fIHF_HUB_CACHE\fR, or else \fIHF_HOME\fR/hub, or else
\(ti/.cache/huggingface/hub. The cache is shared with huggingface_hub.
.TP
\fBHF_ENDPOINT\fR
the hub to pull from, https://huggingface.co unless set.
.TP
\fBHF_TOKEN\fR
the token that is sent to that hub, and to no other host; else the file \fIHF_HOME\fR/token.
.TP
\fBHF_HUB_OFFLINE\fR
1: no request is made, the cache is all there is.
.TP
\fBXDG_CACHE_HOME\fR
in place of \(ti/.cache, where \fBhone bench \-\-machine\fR keeps what it measured.
.SH EXIT STATUS
0 done; 1 failed, with one line on standard error that begins with "hone: "; 2 wrong usage.
.SH SEE ALSO
The documents in /usr/share/doc/hone, or docs/ of the source.
)";

std::string page(const std::vector<CommandSurface>& commands) {
  std::string out = ".\\\" Made by hone man.\n.TH HONE 1 \"\" \"hone " HONE_VERSION
                    "\" \"User Commands\"\n.SH NAME\nhone \\- make language models smaller and "
                    "faster, and measure what each step costs\n.SH SYNOPSIS\n";
  out += bold("hone") + " " + italic("SUBCOMMAND") + " [" + italic("OPTIONS") + "]\n";
  out +=
      ".SH DESCRIPTION\nA \\fIMODEL\\fR is a GGUF file, a Hugging Face directory, or the name of a "
      "model that \\fBhone pull\\fR has fetched. Data goes to standard output, talk to standard "
      "error.\n.SH COMMANDS\n";
  for (const CommandSurface& c : commands) out += command_text(c);
  out += ".SH COMMON OPTIONS\n";
  for (const OptionSurface& o : commands.at(0).options)
    if (o.group == kCommonGroup) out += option_text(o);
  return out + kEnd;
}

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  return [&app, &common] {
    const std::string text = page(surface_of(whole(app)));
    if (common.json) return print_json({{"page", text}});
    print_text(text);
  };
}

}  // namespace man_command

extern const Command kManCommand;
const Command kManCommand{"man", "print the man page", man_command::add};

}  // namespace hone
