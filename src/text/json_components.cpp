#include "text/json_components.h"

#include "base/error.h"
#include "text/base64.h"
#include "text/bert_text.h"
#include "text/charsmap.h"
#include "text/pretokenizer_names.h"
#include "text/unicode.h"

namespace hone {
namespace {

constexpr int kMaxComponents = 200;

SplitBehavior behavior_of(const Json& c, const char* fallback, const std::string& source) {
  const auto name = c.value("behavior", std::string(fallback));
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  fail(ErrorKind::unsupported, "{}: split behavior {}", source, printed(name));
}

// The expression of a pattern {"Regex": text} or {"String": text}.
std::string expression(const Json& pattern) {
  if (pattern.contains("String")) return regex_escape(pattern.at("String").get<std::string>());
  return pattern.at("Regex").get<std::string>();
}

PrependScheme scheme_of(const Json& c, const std::string& source) {
  if (!c.value("add_prefix_space", true)) return PrependScheme::never;
  const auto name = c.value("prepend_scheme", std::string("always"));
  if (name == "always") return PrependScheme::always;
  if (name == "first") return PrependScheme::first;
  if (name == "never") return PrependScheme::never;
  fail(ErrorKind::unsupported, "{}: prepend_scheme {}", source, printed(name));
}

std::string replace_matches(const Regex& regex, std::string_view text, std::string_view content) {
  std::string out;
  size_t done = 0;
  for (size_t from = 0; from <= text.size();) {
    const auto match = regex.search(text, from);
    if (!match) break;
    const auto [begin, end] = *match;
    out.append(text, done, begin - done).append(content);
    done = end;
    from = end > begin ? end : end == text.size() ? end + 1 : end + utf8_at(text, end).size;
  }
  return out.append(text.substr(done));
}

void strip_spaces(std::string& text, bool left, bool right) {
  size_t begin = 0, end = 0;
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = utf8_at(text, i);
    if (!is_space(c.code)) {
      end = i + c.size;
    } else if (end == 0) {
      begin = i + c.size;
    }
    i += c.size;
  }
  if (right) text.resize(std::max(begin, end));
  if (left) text.erase(0, begin);
}

}  // namespace

void JsonComponents::refuse(const std::string& what) const {
  fail(ErrorKind::unsupported, "{}: {} is not supported", parts_.spec.source, what);
}

void JsonComponents::dispatch(const char* kind, std::initializer_list<Named> table,
                              const Json& component) {
  if (component.is_null()) return;
  // Steps call each other and rewrite the text each: more than a handful is no tokenizer.
  if (++components_ > kMaxComponents)
    refuse(fmt::format("more than {} components", kMaxComponents));
  const auto name = component.at("type").get<std::string>();
  for (const Named& entry : table) {
    if (name == entry.name) return (this->*entry.build)(component);
  }
  refuse(fmt::format("the {} {}", kind, printed(name)));
}

void JsonComponents::each(const Json& list, Builder build) {
  for (const Json& component : list) (this->*build)(component);
}

// ---- normalizers ----

void JsonComponents::add_normalizer(const Json& component) {
  using J = JsonComponents;
  dispatch("normalizer",
           {{"Sequence", &J::normalizer_sequence},
            {"Prepend", &J::normalizer_prepend},
            {"Replace", &J::normalizer_replace},
            {"NFC", &J::normalizer_form},
            {"NFD", &J::normalizer_form},
            {"NFKC", &J::normalizer_form},
            {"NFKD", &J::normalizer_form},
            {"Lowercase", &J::normalizer_lowercase},
            {"Strip", &J::normalizer_strip},
            {"StripAccents", &J::normalizer_strip_accents},
            {"BertNormalizer", &J::normalizer_bert},
            {"Nmt", &J::normalizer_nmt},
            {"Precompiled", &J::normalizer_precompiled},
            {"ByteLevel", &J::normalizer_byte_level}},
           component);
}

void JsonComponents::normalizer_sequence(const Json& c) {
  each(c.at("normalizers"), &JsonComponents::add_normalizer);
}

void JsonComponents::normalizer_prepend(const Json& c) {
  const auto front = c.at("prepend").get<std::string>();
  if (front == kMetaspace && !spaces_to_metaspace_) {
    puts_space_first_ = true;
  } else {
    inexpressible_.push_back("Prepend");
  }
  parts_.normalizer.add([front](std::string& text) {
    if (!text.empty()) text.insert(0, front);
  });
}

void JsonComponents::normalizer_replace(const Json& c) {
  const Json& pattern = c.at("pattern");
  const auto content = c.at("content").get<std::string>();
  if (pattern.contains("String")) {
    const auto from = pattern.at("String").get<std::string>();
    if (from == " " && content == kMetaspace) {
      spaces_to_metaspace_ = true;
    } else {
      inexpressible_.push_back("Replace");
    }
    if (from.empty()) refuse("a Replace of the empty string");
    parts_.normalizer.add(
        [from, content](std::string& text) { text = replace_all(text, from, content); });
    return;
  }
  inexpressible_.push_back("Replace");
  parts_.normalizer.add([regex = Regex(expression(pattern), parts_.spec.source), content](
                            std::string& text) { text = replace_matches(regex, text, content); });
}

void JsonComponents::normalizer_form(const Json& c) {
  const auto name = c.at("type").get<std::string>();
  const NormalForm form = name == "NFC"    ? NormalForm::nfc
                          : name == "NFD"  ? NormalForm::nfd
                          : name == "NFKC" ? NormalForm::nfkc
                                           : NormalForm::nfkd;
  if (form == NormalForm::nfc) {
    nfc_ = true;
  } else {
    inexpressible_.push_back(name);
  }
  parts_.normalizer.add([form](std::string& text) { text = normalize(text, form); });
}

void JsonComponents::normalizer_lowercase(const Json&) {
  inexpressible_.push_back("Lowercase");
  parts_.normalizer.add([](std::string& text) { text = lowercase(text); });
}

void JsonComponents::normalizer_strip(const Json& c) {
  inexpressible_.push_back("Strip");
  parts_.normalizer.add([left = c.value("strip_left", true), right = c.value("strip_right", true)](
                            std::string& text) { strip_spaces(text, left, right); });
}

void JsonComponents::normalizer_strip_accents(const Json&) {
  inexpressible_.push_back("StripAccents");
  parts_.normalizer.add([](std::string& text) { text = strip_accents(text); });
}

void JsonComponents::normalizer_bert(const Json& c) {
  inexpressible_.push_back("BertNormalizer");
  BertNormalizerOptions options{.clean_text = c.value("clean_text", true),
                                .space_ideographs = c.value("handle_chinese_chars", true),
                                .lowercase = c.value("lowercase", true)};
  // Where it does not say, accents go with upper case.
  const auto strip = c.find("strip_accents");
  options.strip_accents =
      strip == c.end() || strip->is_null() ? options.lowercase : strip->get<bool>();
  parts_.normalizer.add([options](std::string& text) { text = bert_normalize(text, options); });
}

void JsonComponents::normalizer_nmt(const Json&) {
  inexpressible_.push_back("Nmt");
  parts_.normalizer.add([](std::string& text) { text = nmt_normalize(text); });
}

void JsonComponents::normalizer_precompiled(const Json& c) {
  inexpressible_.push_back("Precompiled");
  const auto bytes = base64_decode(c.at("precompiled_charsmap").get<std::string>());
  HONE_CHECK(bytes, corrupt, "{}: the precompiled_charsmap is not base64", parts_.spec.source);
  parts_.normalizer.add([map = std::make_shared<Charsmap>(*bytes, parts_.spec.source)](
                            std::string& text) { text = map->rewrite_graphemes(text); });
}

void JsonComponents::normalizer_byte_level(const Json&) {
  inexpressible_.push_back("the normalizer ByteLevel");
  parts_.normalizer.add([](std::string& text) { text = bytes_to_letters(text); });
}

// ---- pre-tokenizers ----

void JsonComponents::add_pretokenizer(const Json& component) {
  using J = JsonComponents;
  dispatch("pre_tokenizer",
           {{"Sequence", &J::pretokenizer_sequence},
            {"ByteLevel", &J::pretokenizer_byte_level},
            {"Split", &J::pretokenizer_split},
            {"Digits", &J::pretokenizer_digits},
            {"Metaspace", &J::pretokenizer_metaspace},
            {"Whitespace", &J::pretokenizer_whitespace},
            {"WhitespaceSplit", &J::pretokenizer_whitespace_split},
            {"Punctuation", &J::pretokenizer_punctuation},
            {"BertPreTokenizer", &J::pretokenizer_bert},
            {"CharDelimiterSplit", &J::pretokenizer_delimiter}},
           component);
}

void JsonComponents::add_step(PreTokenizer::Step step) {
  if (spell_next_) {
    parts_.pretokenizer.add(spell_bytes());
    parts_.spelled = true;
    spell_next_ = false;
  }
  parts_.pretokenizer.add(std::move(step));
}

void JsonComponents::add_split(const std::string& pattern, SplitBehavior behavior, bool invert) {
  // The published expressions match every character, so that to keep what they match is the same.
  const bool matches_all =
      behavior == SplitBehavior::removed && invert && pattern.ends_with("|\\s+");
  if (behavior == SplitBehavior::isolated || matches_all) {
    patterns_.push_back(pattern);
  } else {
    inexpressible_.push_back("Split with another behavior than Isolated");
  }
  add_step(split_by_regex(std::make_shared<Regex>(pattern, parts_.spec.source), behavior, invert));
}

void JsonComponents::pretokenizer_sequence(const Json& c) {
  each(c.at("pretokenizers"), &JsonComponents::add_pretokenizer);
}

void JsonComponents::pretokenizer_byte_level(const Json& c) {
  if (byte_level_) refuse("a second ByteLevel pre_tokenizer");
  if (c.value("add_prefix_space", true)) {
    inexpressible_.push_back("ByteLevel with add_prefix_space");
    add_step(add_prefix_space());
  }
  if (c.value("use_regex", true)) add_split(kGpt2Pattern, SplitBehavior::isolated, false);
  byte_level_ = true;
  spell_next_ = true;
}

void JsonComponents::pretokenizer_split(const Json& c) {
  const std::string pattern = expression(c.at("pattern"));
  // After normalizers that leave no space, a split at spaces does nothing: Gemma has one.
  const bool vacuous =
      spaces_to_metaspace_ && inexpressible_.empty() && pattern == regex_escape(" ");
  if (vacuous) return;
  add_split(pattern, behavior_of(c, "Removed", parts_.spec.source), c.value("invert", false));
}

void JsonComponents::pretokenizer_digits(const Json& c) {
  const bool each_digit = c.value("individual_digits", false);
  patterns_.push_back(each_digit ? R"(\p{N})" : R"(\p{N}+)");
  add_step(
      split_by_class(is_number, each_digit ? SplitBehavior::isolated : SplitBehavior::contiguous));
}

void JsonComponents::pretokenizer_metaspace(const Json& c) {
  const auto replacement = c.value("replacement", std::string(kMetaspace));
  if (replacement.empty()) refuse("an empty Metaspace replacement");
  const PrependScheme scheme = scheme_of(c, parts_.spec.source);
  if (replacement == kMetaspace) {
    spaces_to_metaspace_ = true;
    puts_space_first_ = scheme != PrependScheme::never;
  } else {
    inexpressible_.push_back("Metaspace with another character");
  }
  add_step(metaspace(replacement, scheme, c.value("split", true)));
}

void JsonComponents::pretokenizer_whitespace(const Json&) {
  // \w+|[^\w\s]+ as Rust's expressions understand \w.
  constexpr const char* word = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200c}\x{200d})";
  add_split(fmt::format(R"([{}]+|[^{}\s]+)", word, word), SplitBehavior::removed, true);
}

void JsonComponents::pretokenizer_whitespace_split(const Json&) {
  inexpressible_.push_back("WhitespaceSplit");
  add_step(split_by_class(is_space, SplitBehavior::removed));
}

void JsonComponents::pretokenizer_punctuation(const Json& c) {
  const SplitBehavior behavior = behavior_of(c, "Isolated", parts_.spec.source);
  inexpressible_.push_back("Punctuation");
  add_step(split_by_class(is_bert_punctuation, behavior));
}

void JsonComponents::pretokenizer_bert(const Json&) {
  inexpressible_.push_back("BertPreTokenizer");
  add_step(split_as_bert());
}

void JsonComponents::pretokenizer_delimiter(const Json& c) {
  const std::string pattern = regex_escape(c.at("delimiter").get<std::string>());
  add_split(pattern, SplitBehavior::removed, false);
}

// ---- post-processors ----

void JsonComponents::add_post_processor(const Json& component) {
  using J = JsonComponents;
  dispatch("post_processor",
           {{"Sequence", &J::post_sequence},
            {"TemplateProcessing", &J::post_template},
            {"BertProcessing", &J::post_pair},
            {"RobertaProcessing", &J::post_pair},
            {"ByteLevel", &J::post_nothing}},
           component);
}

int32_t JsonComponents::checked_id(const Json& id) const {
  const auto size = static_cast<int64_t>(parts_.spec.tokens.size());
  const auto value = json_integer(id, "post_processor id", parts_.spec.source);
  HONE_CHECK(value >= 0 && value < size, corrupt,
             "{}: the post_processor has token id {}; the vocabulary has {} ids",
             parts_.spec.source, value, size);
  return static_cast<int32_t>(value);
}

void JsonComponents::surround(std::vector<int32_t> prefix, const std::vector<int32_t>& suffix) {
  prefix.insert(prefix.end(), parts_.prefix.begin(), parts_.prefix.end());
  parts_.prefix = std::move(prefix);
  parts_.suffix.insert(parts_.suffix.end(), suffix.begin(), suffix.end());
}

void JsonComponents::post_sequence(const Json& c) {
  each(c.at("processors"), &JsonComponents::add_post_processor);
}

void JsonComponents::post_template(const Json& c) {
  std::vector<int32_t> around[2];
  int texts = 0;
  for (const Json& part : c.at("single")) {
    if (part.contains("Sequence")) {
      if (++texts > 1 || part.at("Sequence").at("id") != "A") refuse("a template of two texts");
      continue;
    }
    const auto name = part.at("SpecialToken").at("id").get<std::string>();
    for (const Json& id : c.at("special_tokens").at(name).at("ids")) {
      around[texts].push_back(checked_id(id));
    }
  }
  if (texts != 1) refuse("a template without the text");
  surround(std::move(around[0]), around[1]);
}

void JsonComponents::post_pair(const Json& c) {
  surround({checked_id(c.at("cls").at(1))}, {checked_id(c.at("sep").at(1))});
}

void JsonComponents::post_nothing(const Json&) {}

// ---- decoders ----

void JsonComponents::add_decoder(const Json& component) {
  using J = JsonComponents;
  dispatch("decoder",
           {{"Sequence", &J::decoder_sequence},
            {"ByteLevel", &J::decoder_byte_level},
            {"ByteFallback", &J::decoder_byte_fallback},
            {"Fuse", &J::decoder_fuse},
            {"Metaspace", &J::decoder_metaspace},
            {"Replace", &J::decoder_replace},
            {"Strip", &J::decoder_strip},
            {"WordPiece", &J::decoder_wordpiece}},
           component);
}

void JsonComponents::decoder_sequence(const Json& c) {
  each(c.at("decoders"), &JsonComponents::add_decoder);
}
void JsonComponents::decoder_byte_level(const Json&) { parts_.decode.byte_letters = true; }
void JsonComponents::decoder_byte_fallback(const Json&) { parts_.decode.byte_fallback = true; }
void JsonComponents::decoder_fuse(const Json&) { fused_ = true; }

void JsonComponents::decoder_metaspace(const Json& c) {
  const auto replacement = c.value("replacement", std::string(kMetaspace));
  if (replacement.empty()) refuse("an empty Metaspace replacement");
  parts_.decode.replace.emplace_back(replacement, " ");
  parts_.decode.strip_first_token = scheme_of(c, parts_.spec.source) != PrependScheme::never;
}

void JsonComponents::decoder_replace(const Json& c) {
  if (!c.at("pattern").contains("String")) refuse("a Replace decoder with a regular expression");
  const auto from = c.at("pattern").at("String").get<std::string>();
  // Across tokens only a single character is found token by token too.
  const bool single = !from.empty() && utf8_at(from, 0).size == static_cast<int>(from.size());
  if (from.empty() || (fused_ && !single)) refuse("a Replace decoder of several characters");
  parts_.decode.replace.emplace_back(from, c.at("content").get<std::string>());
}

void JsonComponents::decoder_strip(const Json& c) {
  auto count = [&](const char* key) {
    return c.contains(key) ? json_integer(c.at(key), key, parts_.spec.source) : 0;
  };
  const int64_t start = count("start");
  if (!fused_ || count("stop") != 0 || start < 0 || start > 1000) {
    refuse("a Strip decoder before Fuse, or at the end of a text,");
  }
  parts_.decode.strip_content = c.at("content").get<std::string>();
  parts_.decode.strip_start = parts_.decode.strip_content.empty() ? 0 : static_cast<int>(start);
}

void JsonComponents::decoder_wordpiece(const Json& c) {
  parts_.decode.continuing_prefix = c.value("prefix", std::string("##"));
  parts_.decode.cleanup = c.value("cleanup", true);
}

}  // namespace hone
