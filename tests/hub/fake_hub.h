// A hub of one repository, with the answers of the real one: /api/models/ORG/NAME/revision/REV and
// /ORG/NAME/resolve/COMMIT/FILE; large files lie on another server, as on the hub's CDN.
#pragma once

#include <openssl/evp.h>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "hub/server.h"
#include "hub/settings.h"
#include "testing.h"

namespace hone::testing {

inline std::string hash_of(const std::string& bytes, const EVP_MD* kind) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned n = 0;
  EVP_Digest(bytes.data(), bytes.size(), digest, &n, kind, nullptr);
  std::string out;
  for (unsigned i = 0; i < n; ++i) out += fmt::format("{:02x}", digest[i]);
  return out;
}

class FakeHub {
 public:
  using Spoil = std::function<void(const ServerRequest&, ServerAnswer&)>;

  FakeHub()
      : cdn([this](const ServerRequest& r) { return spoiled(cdn_answer(r), r, spoil_cdn); }),
        hub([this](const ServerRequest& r) { return spoiled(hub_answer(r), r, spoil_hub); }) {
    files["config.json"] = R"({"model_type": "llama"})";
    files["sub/notes.txt"] = "notes\n";
    files["empty"] = "";
    files["model.safetensors"] = bytes(300000, 1);
  }

  static std::string bytes(size_t n, uint32_t seed) {
    std::mt19937 engine(seed);
    std::string out(n, '\0');
    for (char& c : out) c = static_cast<char>(engine());
    return out;
  }

  /// With short waits.
  HubSettings settings() const {
    HubSettings s;
    s.endpoint = hub.url();
    s.cache = scratch / "hub";
    s.first_wait_seconds = 0.01;
    s.longest_wait_seconds = 3;
    s.connect_seconds = 1;
    s.stall_seconds = 1;
    return s;
  }

  static bool is_large(const std::string& name) { return name.ends_with(".safetensors"); }
  std::string etag(const std::string& name) const {
    const std::string& b = files.at(name);
    if (is_large(name)) return hash_of(b, EVP_sha256());
    return hash_of(fmt::format("blob {}", b.size()) + '\0' + b, EVP_sha1());
  }

  const std::string commit = "0123456789abcdef0123456789abcdef01234567";
  const std::string name = "org/name";
  std::map<std::string, std::string> files;  // of the repository
  std::string token;                         // without which it answers 401
  Spoil spoil_hub, spoil_cdn;                // change an answer
  TemporaryDirectory scratch;

 private:
  static ServerAnswer spoiled(ServerAnswer a, const ServerRequest& r, const Spoil& spoil) {
    if (spoil) spoil(r, a);
    return a;
  }

  static ServerAnswer refusal(int status, const std::string& code) {
    ServerAnswer a;
    a.status = status;
    a.headers = {{"X-Error-Code", code}, {"X-Error-Message", "no"}};
    return a;
  }

  static ServerAnswer content(const std::string& bytes, const ServerRequest& r) {
    ServerAnswer a;
    if (!r.has("range")) {
      a.body = bytes;
    } else if (r.from >= std::ssize(bytes)) {
      a.status = 416;
    } else {
      a.status = 206;
      a.body = bytes.substr(static_cast<size_t>(r.from));
      a.headers = {
          {"Content-Range", fmt::format("bytes {}-{}/{}", r.from, bytes.size() - 1, bytes.size())}};
    }
    return a;
  }

  ServerAnswer cdn_answer(const ServerRequest& r) const {
    auto it = files.find(r.path.substr(1));
    return it == files.end() ? refusal(404, "") : content(it->second, r);
  }

  ServerAnswer hub_answer(const ServerRequest& r) const {
    if (!token.empty() &&
        (!r.has("authorization") || r.headers.at("authorization") != "Bearer " + token))
      return refusal(401, "RepoNotFound");
    const std::string api = "/api/models/" + name + "/revision/";
    if (r.path.starts_with(api)) {
      const std::string revision = r.path.substr(api.size());
      if (revision != "main" && revision != "refs%2Fpr%2F1" && revision != commit)
        return refusal(404, "RevisionNotFound");
      Json j = {{"id", name}, {"sha", commit}, {"siblings", Json::array()}};
      for (const auto& [file, ignored] : files) j["siblings"].push_back({{"rfilename", file}});
      ServerAnswer a;
      a.body = j.dump();
      return a;
    }
    const std::string resolve = "/" + name + "/resolve/" + commit + "/";
    if (!r.path.starts_with(resolve)) return refusal(404, "RepoNotFound");
    const std::string file = r.path.substr(resolve.size());
    auto it = files.find(file);
    if (it == files.end()) return refusal(404, "EntryNotFound");
    ServerAnswer a;
    if (is_large(file)) {
      a.status = 302;
      a.headers = {{"Location", cdn.url() + "/" + file},
                   {"X-Linked-Etag", '"' + etag(file) + '"'},
                   {"X-Linked-Size", fmt::format("{}", it->second.size())}};
    } else {
      a = content(it->second, r);
      a.headers.emplace_back("ETag", '"' + etag(file) + '"');
    }
    a.headers.emplace_back("X-Repo-Commit", commit);
    return a;
  }

 public:
  Server cdn, hub;  // last: they end first
};

}  // namespace hone::testing
