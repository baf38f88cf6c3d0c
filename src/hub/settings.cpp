#include "hub/settings.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "base/files.h"

namespace hone {
namespace {

using Environment = HubSettings::Environment;

std::string value_of(const Environment& get, const char* name) {
  const char* text = get(name);
  return text == nullptr ? "" : text;
}

std::string first_of(const Environment& get, std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (std::string v = value_of(get, name); !v.empty()) return v;
  return {};
}

bool is_true(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return text == "1" || text == "ON" || text == "YES" || text == "TRUE";
}

fs::path home(const Environment& get) {
  const std::string h = value_of(get, "HOME");
  return h.empty() ? fs::path(".") : fs::path(h);
}

fs::path expanded(const Environment& get, const std::string& text) {
  if (text == "~") return home(get);
  if (text.starts_with("~/")) return home(get) / text.substr(2);
  return text;
}

fs::path hub_home(const Environment& get) {
  if (std::string v = value_of(get, "HF_HOME"); !v.empty()) return expanded(get, v);
  if (std::string v = value_of(get, "XDG_CACHE_HOME"); !v.empty())
    return expanded(get, v) / "huggingface";
  return home(get) / ".cache" / "huggingface";
}

std::string trimmed(const std::string& text) {
  const char* space = " \t\r\n";
  const size_t begin = text.find_first_not_of(space);
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(space) - begin + 1);
}

std::string read_token(const Environment& get) {
  if (is_true(value_of(get, "HF_HUB_DISABLE_IMPLICIT_TOKEN"))) return {};
  std::string source = "HF_TOKEN";
  std::string token = trimmed(first_of(get, {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}));
  if (token.empty()) {
    const std::string named = value_of(get, "HF_TOKEN_PATH");
    const fs::path file = named.empty() ? hub_home(get) / "token" : expanded(get, named);
    source = file.string();
    std::error_code ignored;
    if (fs::is_regular_file(file, ignored)) token = trimmed(read_text_file(file, 64 << 10));
  }
  // What no header can hold must not become two of them.
  const bool good =
      std::all_of(token.begin(), token.end(), [](char c) { return c > 32 && c < 127; });
  HONE_CHECK(good && token.size() < 4096, invalid_argument,
             "{}: a token is one word of printable characters", source);
  return token;
}

double seconds(const Environment& get, const char* name, double unasked) {
  const std::string text = value_of(get, name);
  if (text.empty()) return unasked;
  char* end = nullptr;
  const double x = std::strtod(text.c_str(), &end);
  HONE_CHECK(*end == 0 && x > 0 && x <= 86400, invalid_argument,
             "{}={}: expected seconds, above 0 and at most 86400", name, text);
  return x;
}

std::string read_endpoint(const Environment& get, const std::string& unasked) {
  std::string e = trimmed(value_of(get, "HF_ENDPOINT"));
  if (e.empty()) e = unasked;
  while (e.ends_with('/')) e.pop_back();
  const bool http = e.starts_with("http://") || e.starts_with("https://");
  const bool plain = std::all_of(e.begin(), e.end(), [](char c) { return c > 32 && c < 127; });
  HONE_CHECK(http && plain && e.find_first_of("?#@") == e.npos, invalid_argument,
             "HF_ENDPOINT={}: expected https://HOST or http://HOST", e);
  return e;
}

}  // namespace

fs::path hub_cache_directory(const Environment& get) {
  const std::string named = first_of(get, {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"});
  return named.empty() ? hub_home(get) / "hub" : expanded(get, named);
}

HubSettings HubSettings::from_environment(const Environment& get) {
  HubSettings s;
  s.endpoint = read_endpoint(get, s.endpoint);
  s.cache = hub_cache_directory(get);
  s.token = read_token(get);
  s.offline =
      is_true(value_of(get, "HF_HUB_OFFLINE")) || is_true(value_of(get, "TRANSFORMERS_OFFLINE"));
  s.ca_file = first_of(get, {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"});
  s.connect_seconds = seconds(get, "HF_HUB_ETAG_TIMEOUT", s.connect_seconds);
  s.stall_seconds = seconds(get, "HF_HUB_DOWNLOAD_TIMEOUT", s.stall_seconds);
  return s;
}

HubSettings HubSettings::from_environment() {
  return from_environment([](const char* name) { return std::getenv(name); });
}

}  // namespace hone
