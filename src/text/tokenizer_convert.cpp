// GGUF metadata written as the tokenizer.json and tokenizer_config.json that give the same ids.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "base/json.h"
#include "text/bpe.h"
#include "text/pretokenizer_names.h"
#include "text/rwkv_vocabulary.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace hone {
namespace {

TokenType type_of(const TokenizerSpec& spec, size_t id) {
  return spec.token_types.empty() ? TokenType::normal
                                  : static_cast<TokenType>(spec.token_types[id]);
}

Json added_tokens(const TokenizerSpec& spec) {
  Json list = Json::array();
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    const TokenType type = type_of(spec, id);
    const bool special = type == TokenType::control || type == TokenType::unknown;
    if ((!special && type != TokenType::user_defined) || spec.tokens[id].empty()) continue;
    list.push_back({{"id", id},
                    {"content", spec.tokens[id]},
                    {"single_word", false},
                    {"lstrip", false},
                    {"rstrip", false},
                    {"normalized", false},
                    {"special", special}});
  }
  return list;
}

// Every token, the added ones too: else their ids would be given out anew when the file is read.
Json vocabulary_of(const TokenizerSpec& spec) {
  Json vocabulary = Json::object();
  auto& object = vocabulary.get_ref<Json::object_t&>();
  std::unordered_map<std::string_view, bool> seen;
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    // An ordered object looks keys up one by one, so it is told apart here and only appended to.
    if (seen.try_emplace(spec.tokens[id], true).second) {
      object.push_back({std::string(spec.tokens[id]), Json(id)});
    }
  }
  return vocabulary;
}

Json post_processor(const TokenizerSpec& spec) {
  Json single = Json::array(), pair = Json::array(), tokens = Json::object();
  const auto special = [&](int32_t id, int type_id) {
    const std::string text(spec.tokens[id]);
    tokens[text] = {{"id", text}, {"ids", {id}}, {"tokens", {text}}};
    return Json{{"SpecialToken", {{"id", text}, {"type_id", type_id}}}};
  };
  const bool bos = spec.add_bos.value_or(false) && spec.bos;
  const bool eos = spec.add_eos.value_or(false) && spec.eos;
  for (int text = 0; text < 2; ++text) {
    Json part = Json::array();
    if (bos) part.push_back(special(*spec.bos, text));
    part.push_back({{"Sequence", {{"id", text == 0 ? "A" : "B"}, {"type_id", text}}}});
    if (eos) part.push_back(special(*spec.eos, text));
    if (text == 0) single = part;
    pair.insert(pair.end(), part.begin(), part.end());
  }
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair", pair},
          {"special_tokens", tokens}};
}

Json model_of(const TokenizerSpec& spec, Json merges, bool llama, bool ignore_merges) {
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", llama && spec.unk ? Json(spec.tokens[*spec.unk]) : Json()},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", llama},
          {"byte_fallback", llama},
          {"ignore_merges", ignore_merges},
          {"vocab", vocabulary_of(spec)},
          {"merges", std::move(merges)}};
}

void describe_gpt2(const TokenizerSpec& spec, Json& out) {
  const PreTokenizerFamily& family = pretokenizer_family(spec.pre, spec.source);
  Json steps = Json::array();
  for (const char* pattern : family.patterns) {
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", pattern}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  }
  Json byte_level = {{"type", "ByteLevel"},
                     {"add_prefix_space", false},
                     {"trim_offsets", true},
                     {"use_regex", false}};
  steps.push_back(byte_level);
  Json merges = Json::array();
  for (std::string_view merge : spec.merges) {
    const size_t space = merge.find(' ', 1);
    merges.push_back({std::string(merge.substr(0, space)), std::string(merge.substr(space + 1))});
  }
  out["normalizer"] = family.nfc ? Json{{"type", "NFC"}} : Json();
  out["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", steps}};
  out["post_processor"] = post_processor(spec);
  out["decoder"] = byte_level;
  out["model"] = model_of(spec, std::move(merges), false, family.ignore_merges);
}

// Every way to make a token of two, better scores first: the merges that merging by score stands
// for.
Json merges_by_score(const TokenizerSpec& spec) {
  const auto joins = [&](int32_t id) {
    const TokenType type = type_of(spec, id);
    return type == TokenType::normal || type == TokenType::user_defined ||
           type == TokenType::unused;
  };
  Vocabulary vocabulary(static_cast<int32_t>(spec.tokens.size()));
  std::vector<int32_t> order;
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    if (!spec.tokens[id].empty() && joins(id) && vocabulary.add(spec.tokens[id], id)) {
      order.push_back(id);
    }
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return spec.scores[a] > spec.scores[b]; });
  Json merges = Json::array();
  for (int32_t id : order) {
    const std::string_view text = spec.tokens[id];
    for (size_t cut = utf8_at(text, 0).size; cut < text.size(); cut += utf8_at(text, cut).size) {
      const std::string_view left = text.substr(0, cut), right = text.substr(cut);
      if (vocabulary.find(left) >= 0 && vocabulary.find(right) >= 0) {
        merges.push_back({std::string(left), std::string(right)});
      }
    }
  }
  return merges;
}

void describe_llama(const TokenizerSpec& spec, Json& out) {
  const bool prefix = spec.add_space_prefix.value_or(true);
  const std::string space(kMetaspace);
  Json to_metaspace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", space}};
  Json to_space = {{"type", "Replace"}, {"pattern", {{"String", space}}}, {"content", " "}};
  Json normalizers = Json::array(), decoders = Json::array();
  if (prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", space}});
  normalizers.push_back(to_metaspace);
  decoders.push_back(to_space);
  decoders.push_back({{"type", "ByteFallback"}});
  decoders.push_back({{"type", "Fuse"}});
  if (prefix) {
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  out["normalizer"] = {{"type", "Sequence"}, {"normalizers", normalizers}};
  out["pre_tokenizer"] = nullptr;
  out["post_processor"] = post_processor(spec);
  out["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
  out["model"] = model_of(spec, merges_by_score(spec), true, false);
}

std::string dump(const Json& json, const std::string& source) {
  try {
    return json.dump(2, ' ', false);
  } catch (const nlohmann::json::exception&) {
    fail(ErrorKind::unsupported, "{}: a token is not UTF-8, which tokenizer.json has to be",
         source);
  }
}

}  // namespace

std::string tokenizer_json_from_spec(const TokenizerSpec& given) {
  if (!given.tokenizer_json.empty()) return given.tokenizer_json;
  // The tokenizer's own copy is checked, and its defaults are filled in.
  const auto tokenizer = tokenizer_from_spec(given);
  const TokenizerSpec& spec = tokenizer->spec();
  Json out = {{"version", "1.0"},
              {"truncation", nullptr},
              {"padding", nullptr},
              {"added_tokens", added_tokens(spec)}};
  if (spec.model == "gpt2") {
    describe_gpt2(spec, out);
  } else if (spec.model == "llama") {
    describe_llama(spec, out);
  } else {
    fail(ErrorKind::unsupported, "{}: hone writes no tokenizer.json of a '{}' tokenizer",
         spec.source, spec.model);
  }
  return dump(out, spec.source);
}

std::string tokenizer_config_json_from_spec(const TokenizerSpec& given) {
  if (!given.tokenizer_json.empty()) return given.tokenizer_config_json;
  const auto tokenizer = tokenizer_from_spec(given);
  const TokenizerSpec& spec = tokenizer->spec();
  Json out = {{"tokenizer_class", "PreTrainedTokenizerFast"},
              {"clean_up_tokenization_spaces", false},
              {"add_bos_token", *spec.add_bos},
              {"add_eos_token", *spec.add_eos}};
  const std::pair<const char*, std::optional<int32_t>> named[] = {{"bos_token", spec.bos},
                                                                  {"eos_token", spec.eos},
                                                                  {"unk_token", spec.unk},
                                                                  {"pad_token", spec.pad}};
  for (const auto& [key, id] : named) {
    if (id) out[key] = spec.tokens[*id];
  }
  if (!spec.chat_template.empty()) out["chat_template"] = spec.chat_template;
  return dump(out, spec.source);
}

std::vector<std::pair<std::string, std::string>> tokenizer_files_from_spec(
    const TokenizerSpec& spec) {
  const bool rwkv = spec.tokenizer_json.empty() && spec.model == "rwkv";
  std::pair<std::string, std::string> main{"tokenizer.json", ""};
  if (rwkv) {
    main = {kRwkvVocabularyFile, rwkv_vocabulary_text(spec)};
  } else {
    main.second = tokenizer_json_from_spec(spec);
  }
  return {std::move(main), {"tokenizer_config.json", tokenizer_config_json_from_spec(spec)}};
}

}  // namespace hone
