// The hash that a blob's name promises.
//
// 64 hexadecimal digits are the SHA-256 of the content. 40 are git's name of it, SHA-1 of
// "blob SIZE\0" and the content; some mirrors take the SHA-1 of the content alone. Anything else
// promises nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace hone {

class ContentHash {
 public:
  /// `size` of the content, or −1: git's name of it is then not known.
  ContentHash(const std::string& blob_name, int64_t size);
  ~ContentHash();
  ContentHash(const ContentHash&) = delete;
  ContentHash& operator=(const ContentHash&) = delete;

  /// Whether the name can be checked at all.
  bool checks() const;
  void add(std::string_view bytes);
  /// Empty where the content is what the name says, else what its hash is. Once.
  std::string mismatch();

 private:
  struct Digests;
  std::string name_;
  std::unique_ptr<Digests> digests_;
};

}  // namespace hone
