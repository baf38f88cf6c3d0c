#include "hub/content_hash.h"

#include <fmt/core.h>
#include <openssl/evp.h>

#include <algorithm>
#include <vector>

#include "base/error.h"

namespace hone {
namespace {

struct Digest {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  explicit Digest(const EVP_MD* kind) {
    HONE_CHECK(context != nullptr && EVP_DigestInit_ex(context, kind, nullptr) == 1, internal,
               "OpenSSL gives no digest");
  }
  ~Digest() { EVP_MD_CTX_free(context); }
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;

  void add(std::string_view bytes) { EVP_DigestUpdate(context, bytes.data(), bytes.size()); }
  std::string hex() {
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    EVP_DigestFinal_ex(context, bytes, &n);
    std::string out;
    for (unsigned i = 0; i < n; ++i) out += fmt::format("{:02x}", bytes[i]);
    return out;
  }
};

bool is_hex(const std::string& text) {
  return text.find_first_not_of("0123456789abcdef") == text.npos;
}

}  // namespace

struct ContentHash::Digests {
  std::vector<std::unique_ptr<Digest>> all;
};

ContentHash::ContentHash(const std::string& blob_name, int64_t size)
    : name_(blob_name), digests_(std::make_unique<Digests>()) {
  if (name_.size() == 64 && is_hex(name_)) {
    digests_->all.push_back(std::make_unique<Digest>(EVP_sha256()));
  } else if (name_.size() == 40 && is_hex(name_) && size >= 0) {
    digests_->all.push_back(std::make_unique<Digest>(EVP_sha1()));
    digests_->all.back()->add(fmt::format("blob {}", size) + '\0');
    digests_->all.push_back(std::make_unique<Digest>(EVP_sha1()));
  }
}

ContentHash::~ContentHash() = default;

bool ContentHash::checks() const { return !digests_->all.empty(); }

void ContentHash::add(std::string_view bytes) {
  for (auto& d : digests_->all) d->add(bytes);
}

std::string ContentHash::mismatch() {
  std::string first;
  for (auto& d : digests_->all) {
    const std::string hash = d->hex();
    if (hash == name_) return {};
    if (first.empty()) first = hash;
  }
  return first;
}

}  // namespace hone
