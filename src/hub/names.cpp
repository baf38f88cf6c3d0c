#include "hub/names.h"

#include <fmt/core.h>

#include <algorithm>

#include "base/error.h"

namespace hone {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_hex_digit(char c) { return is_digit(c) || (c >= 'a' && c <= 'f'); }
bool is_control(char c) { return static_cast<unsigned char>(c) < 32 || c == 127; }

bool is_name_part(std::string_view part) {
  if (part.empty() || part.find("--") != part.npos || part.find("..") != part.npos) return false;
  if (std::string_view("-.").find(part.front()) != std::string_view::npos) return false;
  if (std::string_view("-.").find(part.back()) != std::string_view::npos) return false;
  return std::all_of(part.begin(), part.end(), [](char c) {
    return is_digit(c) || is_letter(c) || c == '-' || c == '_' || c == '.';
  });
}

}  // namespace

bool is_repository_name(std::string_view text) {
  if (text.size() > 96 || text.ends_with(".git")) return false;
  const size_t slash = text.find('/');
  if (slash == text.npos) return is_name_part(text);
  return is_name_part(text.substr(0, slash)) && is_name_part(text.substr(slash + 1));
}

void check_repository_name(std::string_view text) {
  HONE_CHECK(is_repository_name(text), invalid_argument,
             "'{}' is no name of a model on a hub: expected org/name", one_line(text));
}

bool is_commit(std::string_view text) {
  return text.size() == 40 && std::all_of(text.begin(), text.end(), is_hex_digit);
}

bool is_safe_path(std::string_view path) {
  if (path.empty() || path.size() > 4000) return false;
  if (std::any_of(path.begin(), path.end(), [](char c) { return is_control(c) || c == '\\'; }))
    return false;
  while (true) {
    const size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    if (part.empty() || part == "." || part == ".." || part.size() > 255) return false;
    if (slash == path.npos) return true;
    path.remove_prefix(slash + 1);
  }
}

void check_file_name(std::string_view path, const std::string& source) {
  HONE_CHECK(is_safe_path(path), corrupt, "{}: the file name '{}' is not safe to write", source,
             one_line(path));
}

void check_revision(std::string_view revision) {
  HONE_CHECK(is_safe_path(revision), invalid_argument,
             "'{}' is no revision: expected a branch, a tag or a commit", one_line(revision));
}

std::string blob_name(std::string_view etag, const std::string& source) {
  std::string_view name = etag;
  if (name.starts_with("W/")) name.remove_prefix(2);
  if (name.size() >= 2 && name.front() == '"' && name.back() == '"')
    name = name.substr(1, name.size() - 2);
  const bool good =
      !name.empty() && name.size() <= 128 && std::all_of(name.begin(), name.end(), [](char c) {
        return is_digit(c) || is_letter(c) || c == '-' || c == '_';
      });
  HONE_CHECK(good, corrupt, "{}: the etag '{}' cannot name a file", source, one_line(etag));
  return std::string(name);
}

std::string url_encoded(std::string_view text, bool keep_slashes) {
  std::string out;
  for (char c : text) {
    const bool plain = is_digit(c) || is_letter(c) || c == '-' || c == '_' || c == '.' ||
                       c == '~' || (c == '/' && keep_slashes);
    if (plain)
      out += c;
    else
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

std::string one_line(std::string_view text) {
  std::string out;
  for (char c : text.substr(0, 200)) out += is_control(c) ? '?' : c;
  return text.size() > 200 ? out + "..." : out;
}

}  // namespace hone
