#include "text/tokenized_data.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/fingerprint.h"
#include "base/log.h"

namespace hone {
namespace {

// Raised when the same records become other tokens.
constexpr int kEncodingVersion = 1;

std::string hex(uint64_t x) { return fmt::format("{:016x}", x); }

class ToJson final : public OptionVisitor {
 public:
  Json json = Json::object();
  void option(const char* name, int64_t& value, const char*) override { json[name] = value; }
  void option(const char* name, double& value, const char*) override { json[name] = value; }
  void option(const char* name, bool& value, const char*) override { json[name] = value; }
  void option(const char* name, std::string& value, const char*) override { json[name] = value; }
};

Json identity_of(std::span<const fs::path> files, const Tokenizer& tokenizer,
                 const std::string& chat_template, DataOptions options) {
  ToJson visitor;
  options.visit(visitor);
  Json sources = Json::array();
  for (const fs::path& file : files)
    sources.push_back(
        {{"json", DataFile::has_json_name(file)}, {"fingerprint", hex(file_fingerprint(file))}});
  return {{"encoding", kEncodingVersion},
          {"sources", sources},
          {"tokenizer", hex(tokenizer_fingerprint(tokenizer))},
          {"chat_template", hex(bytes_fingerprint(chat_template))},
          {"options", visitor.json}};
}

// The cache, if it is there and of these data.
std::shared_ptr<const TokenCache> open_if_same(const fs::path& path, const Json& identity) {
  std::error_code none;
  if (!fs::exists(path, none)) return nullptr;
  HONE_CHECK(TokenCache::is_cache(path), invalid_argument,
             "{}: it stands where the token cache goes, and is none; move it away", path.string());
  try {
    auto cache = TokenCache::open(path);
    if (cache->identity() == identity) return cache;
    log_info("{}: of other data; tokenising anew", path.string());
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::corrupt) throw;
    log_warning("{}; tokenising anew", e.what());
  }
  return nullptr;
}

}  // namespace

uint64_t tokenizer_fingerprint(const Tokenizer& tokenizer) {
  const TokenizerSpec& s = tokenizer.spec();
  uint64_t sum = 0;
  auto add = [&](std::string_view text) { sum = bytes_fingerprint(text, sum); };
  auto add_values = [&](const auto& list) {
    add({reinterpret_cast<const char*>(list.data()), list.size() * sizeof(list[0])});
  };
  for (const std::string* text : {&s.model, &s.pre, &s.tokenizer_json, &s.tokenizer_config_json})
    add(*text);
  for (std::string_view token : s.tokens) add(token);
  add_values(s.scores);
  add_values(s.token_types);
  for (std::string_view merge : s.merges) add(merge);
  for (const auto& id : {s.bos, s.eos, s.unk, s.pad, s.eot, s.eom})
    add(id ? std::to_string(*id) : "none");
  for (const auto& flag : {s.add_bos, s.add_eos, s.add_space_prefix})
    add(flag ? (*flag ? "yes" : "no") : "none");
  return sum;
}

std::shared_ptr<const TokenCache> open_tokenized(std::span<const fs::path> files,
                                                 const Tokenizer& tokenizer,
                                                 const std::string& chat_template,
                                                 const DataOptions& options, const fs::path& path) {
  HONE_CHECK(!files.empty(), invalid_argument, "training data: no file is named");
  const ExampleEncoder encoder(tokenizer, chat_template, options);
  const Json identity = identity_of(files, tokenizer, chat_template, options);
  if (auto cache = open_if_same(path, identity)) return cache;
  TokenCacheWriter writer(path, tokenizer.vocab_size());
  for (const fs::path& file : files)
    read_examples(file, encoder, [&](const Sequence& s, bool last) {
      writer.append(s.tokens, s.learned);
      if (last) writer.end_example();
    });
  writer.finish(identity);
  return TokenCache::open(path);
}

}  // namespace hone
