#include "text/pipeline.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "base/error.h"
#include "text/unicode.h"

namespace hone {
namespace {

// Tokens that end a turn or a text, by the names that chat models give them.
constexpr std::array<std::string_view, 14> kEndTexts = {"<|im_end|>",
                                                        "<|eot_id|>",
                                                        "<|eom_id|>",
                                                        "<|end|>",
                                                        "<|return|>",
                                                        "<|call|>",
                                                        "<|endoftext|>",
                                                        "<|end_of_text|>",
                                                        "<end_of_turn>",
                                                        "<turn|>",
                                                        "<EOT>",
                                                        "_<EOT>",
                                                        "<end_of_utterance>",
                                                        "<｜end▁of▁sentence｜>"};

// What cleanup replaces, in order.
constexpr std::pair<std::string_view, std::string_view> kCleanup[] = {
    {" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
    {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
    {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};

class PipelineTokenizer final : public Tokenizer {
 public:
  explicit PipelineTokenizer(TokenizerParts parts) : parts_(std::move(parts)) {
    const TokenizerSpec& s = parts_.spec;
    HONE_ASSERT(parts_.model && s.token_types.size() == s.tokens.size());
    for (int32_t id = 0; id < vocab_size(); ++id) {
      if (type_of(id) != TokenType::normal) special_ids_.try_emplace(std::string(s.tokens[id]), id);
    }
    find_end_of_generation();
    if (!s.chat_template.empty()) chat_template_ = s.chat_template;
  }

  std::vector<int32_t> encode(std::string_view text, bool add_special,
                              bool parse_special) const override {
    std::string repaired;
    if (!is_valid_utf8(text)) text = repaired = replace_ill_formed(text);
    std::vector<int32_t> out;
    out.reserve(text.size() / 3 + 8);
    if (add_special) out = parts_.prefix;
    const auto on_token = [&](int32_t id) { out.push_back(id); };
    const auto on_section = [&](std::string_view section) {
      const bool at_start = section.data() == text.data() && keeps_first(section);
      const std::string normal =
          parts_.normalizer.empty() ? std::string() : parts_.normalizer.apply(section);
      const std::string_view clean = parts_.normalizer.empty() ? section : normal;
      const auto on_text = [&](std::string_view part) {
        encode_part(part, at_start && part.data() == clean.data(), out);
      };
      if (parts_.normalized_added.empty()) {
        on_text(clean);
      } else {
        parts_.normalized_added.split(clean, parse_special, on_text, on_token);
      }
    };
    if (parts_.raw_added.empty()) {
      on_section(text);
    } else {
      parts_.raw_added.split(text, parse_special, on_section, on_token);
    }
    if (add_special) out.insert(out.end(), parts_.suffix.begin(), parts_.suffix.end());
    return out;
  }

  std::string decode(std::span<const int32_t> ids, bool skip_special) const override {
    std::string out;
    bool at_start = true;
    for (int32_t id : ids) {
      check_id(id);
      if (skip_special && is_special(id)) continue;
      append_bytes(id, at_start, out);
      at_start = false;
    }
    return is_valid_utf8(out) ? out : replace_ill_formed(out);
  }

  std::string token_bytes(int32_t id, bool at_start) const override {
    check_id(id);
    std::string out;
    append_bytes(id, at_start, out);
    return out;
  }

  std::string_view token_text(int32_t id) const override {
    check_id(id);
    return parts_.spec.tokens[id];
  }

  int32_t vocab_size() const override { return static_cast<int32_t>(parts_.spec.tokens.size()); }
  std::optional<int32_t> token_id(std::string_view text) const override {
    if (const auto it = special_ids_.find(text); it != special_ids_.end()) return it->second;
    std::string bytes;
    if (parts_.spelling == Spelling::letters && letters_to_bytes(text, bytes)) text = bytes;
    if (parts_.spelling == Spelling::escapes) text = bytes = unescape_bytes(text);
    const int32_t id = parts_.model->vocabulary().find(text);
    return id < 0 ? std::nullopt : std::optional(id);
  }
  std::optional<int32_t> bos() const override { return parts_.spec.bos; }
  std::optional<int32_t> eos() const override { return parts_.spec.eos; }
  std::optional<int32_t> unk() const override { return parts_.spec.unk; }
  std::optional<int32_t> pad() const override { return parts_.spec.pad; }
  bool is_special(int32_t id) const override {
    check_id(id);
    const TokenType type = type_of(id);
    return type == TokenType::control || type == TokenType::unknown;
  }
  const std::vector<int32_t>& end_of_generation() const override { return end_of_generation_; }
  const std::optional<std::string>& chat_template() const override { return chat_template_; }
  const TokenizerSpec& spec() const override { return parts_.spec; }

 private:
  TokenType type_of(int32_t id) const {
    return static_cast<TokenType>(parts_.spec.token_types[id]);
  }

  void check_id(int32_t id) const {
    HONE_CHECK(id >= 0 && id < vocab_size(), invalid_argument,
               "{}: token id {}; the vocabulary has {} ids", parts_.spec.source, id, vocab_size());
  }

  void find_end_of_generation() {
    std::set<int32_t> ids;
    for (auto id : {parts_.spec.eos, parts_.spec.eot, parts_.spec.eom}) {
      if (id) ids.insert(*id);
    }
    for (std::string_view text : kEndTexts) {
      const auto it = special_ids_.find(text);
      if (it != special_ids_.end()) ids.insert(it->second);
    }
    end_of_generation_.assign(ids.begin(), ids.end());
  }

  // Where the normalizer takes the first character away, what remains does not begin the text, as
  // tokenizers' offsets have it.
  bool keeps_first(std::string_view text) const {
    if (parts_.normalizer.empty() || text.empty()) return true;
    return !parts_.normalizer.apply(text.substr(0, utf8_at(text, 0).size)).empty();
  }

  void encode_part(std::string_view text, bool at_start, std::vector<int32_t>& out) const {
    parts_.pretokenizer.split(text, at_start, [&](std::string_view word) {
      std::string bytes;
      if (parts_.spelled && letters_to_bytes(word, bytes)) word = bytes;
      parts_.model->encode(word, out);
    });
  }

  void append_bytes(int32_t id, bool at_start, std::string& out) const {
    const DecodeRules& rules = parts_.decode;
    const std::string_view text = parts_.spec.tokens[id];
    if (!at_start) out += rules.between;
    if (rules.byte_fallback) {
      if (const int byte = byte_token_value(text); byte >= 0) {
        out += static_cast<char>(byte);
        return;
      }
    }
    const TokenType type = type_of(id);
    const bool added = type == TokenType::control || type == TokenType::user_defined;
    const bool bytes = parts_.spelling == Spelling::escapes ||
                       (parts_.spelling == Spelling::letters && rules.byte_letters);
    if (bytes && !added && rules.replace.empty()) {
      out += parts_.model->vocabulary().text(id);  // the bytes themselves
      return;
    }
    std::string piece;
    if (!rules.byte_letters || added || !letters_to_bytes(text, piece)) piece = text;
    for (const auto& [from, to] : rules.replace) {
      piece = replace_all(piece, from, to);
      HONE_CHECK(!grew_too_much(text.size(), piece.size()), corrupt,
                 "{}: the decoder makes token {} more than {} times as long", parts_.spec.source,
                 id, kMaxGrowth);
    }
    if (at_start && rules.strip_first_token) piece = replace_all(piece, rules.strip_content, "");
    for (int i = 0; at_start && i < rules.strip_start; ++i) {
      if (!piece.starts_with(rules.strip_content)) break;
      piece.erase(0, rules.strip_content.size());
    }
    if (rules.continuing_prefix) join_pieces(at_start, piece);
    out += piece;
  }

  // What the WordPiece decoder does to one token.
  void join_pieces(bool at_start, std::string& piece) const {
    const std::string& prefix = *parts_.decode.continuing_prefix;
    if (!at_start && piece.starts_with(prefix)) {
      piece.erase(0, prefix.size());
    } else if (!at_start) {
      piece.insert(0, " ");
    }
    if (!parts_.decode.cleanup) return;
    for (const auto& [from, to] : kCleanup) piece = replace_all(piece, from, to);
  }

  TokenizerParts parts_;
  std::map<std::string, int32_t, std::less<>> special_ids_;  // of tokens that are not normal
  std::vector<int32_t> end_of_generation_;
  std::optional<std::string> chat_template_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_pipeline_tokenizer(TokenizerParts parts) {
  return std::make_unique<PipelineTokenizer>(std::move(parts));
}

PreTokenizer::Step cut_at_metaspace(const Vocabulary& vocabulary) {
  // A merge across a cut would make a token that holds the two characters side by side.
  std::set<char32_t> joined;  // characters that some token has before a metaspace
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string_view text = vocabulary.text(id);
    char32_t before = 0;
    for (size_t i = 0; i < text.size();) {
      const Utf8Char c = utf8_at(text, i);
      if (i > 0 && text.substr(i, c.size) == kMetaspace) joined.insert(before);
      before = c.code;
      i += c.size;
    }
  }
  const char32_t space = utf8_at(kMetaspace, 0).code;
  if (vocabulary.find(kMetaspace) < 0) {
    return [](std::string_view piece, bool, const EmitPiece& emit) { emit(piece); };
  }
  joined.insert(space);
  return [joined = std::vector<char32_t>(joined.begin(), joined.end())](
             std::string_view piece, bool, const EmitPiece& emit) {
    size_t begin = 0;
    for (size_t at = 0; (at = piece.find(kMetaspace, at + 1)) != piece.npos;) {
      size_t before = at - 1;
      while ((static_cast<unsigned char>(piece[before]) & 0xC0) == 0x80) --before;
      const char32_t code = utf8_at(piece, before).code;
      if (std::binary_search(joined.begin(), joined.end(), code)) continue;
      emit(piece.substr(begin, at - begin));
      begin = at;
    }
    emit(piece.substr(begin));
  };
}

}  // namespace hone
