// What a hub calls things, and which of those names may become paths of this machine. File names,
// commits and etags come from a server, and are not trusted.
#pragma once

#include <string>
#include <string_view>

namespace hone {

/// Whether `text` is a repository's name by the hub's rules: "org/name" or "name", of letters,
/// digits, '-', '_' and '.', 96 at most.
bool is_repository_name(std::string_view text);
/// Raises invalid_argument where it is not.
void check_repository_name(std::string_view text);

/// 40 lower-case hexadecimal digits.
bool is_commit(std::string_view text);

/// A relative path that stays below the directory it is put into: no empty, "." or ".." parts, no
/// backslash, no control characters, parts of 255 bytes and 4000 in all at most.
bool is_safe_path(std::string_view path);
/// Raises corrupt, naming `source`, where it is not.
void check_file_name(std::string_view path, const std::string& source);
/// A branch, a tag, a commit or refs/pr/N. Raises invalid_argument.
void check_revision(std::string_view revision);

/// An etag header as the name of a blob: without W/ and quotes. Raises corrupt, naming `source`,
/// where that could not name a file.
std::string blob_name(std::string_view etag, const std::string& source);

/// A text as one part of a URL's path; '/' stays with `keep_slashes`.
std::string url_encoded(std::string_view text, bool keep_slashes);

/// Text of a server for a message of one line: without control characters, 200 bytes at most.
std::string one_line(std::string_view text);

}  // namespace hone
