#include "text/data_kind.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "text/unicode.h"

namespace hone {
namespace {

struct KindFields {
  DataKind kind;
  const char* name;
  std::vector<std::string> needed, optional;
};

const std::vector<KindFields>& kinds() {
  // Never destroyed: threads may still read it when static objects go.
  static const auto* table = new std::vector<KindFields>{
      {DataKind::messages, "messages", {"messages"}, {"role", "content", "tools"}},
      {DataKind::conversations, "conversations", {"conversations"}, {"from", "value", "system"}},
      {DataKind::instruction, "instruction", {"instruction", "output"}, {"input", "system"}},
      {DataKind::completion, "completion", {"prompt", "completion"}, {"system"}},
      {DataKind::question, "question", {"question", "answer"}, {"system"}},
      {DataKind::text, "text", {"text"}, {}},
      {DataKind::plain, "plain", {}, {}},
  };
  return *table;
}

bool contains(const std::vector<std::string>& list, const std::string& name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

// The names of a record's fields for a message, cut short.
std::string fields_of(const Json& record) {
  if (!record.is_object()) return std::string("a JSON ") + record.type_name();
  std::string list;
  for (const auto& [key, value] : record.items()) {
    if (list.size() > 200) return list + ", ...";
    list += (list.empty() ? "" : ", ") + printed(key);
  }
  return list.empty() ? "no fields" : list;
}

const Json* find(const Json& record, const std::string& key) {
  if (!record.is_object()) return nullptr;
  const auto it = record.find(key);
  return it == record.end() || it->is_null() ? nullptr : &*it;
}

std::string string_field(const Json& record, const std::string& key, const std::string& where) {
  const Json* value = find(record, key);
  HONE_CHECK(value, corrupt, "{}: expected the field {}; found {}", where, printed(key),
             fields_of(record));
  HONE_CHECK(value->is_string(), corrupt, "{}: {}: expected a string, got a JSON {}", where,
             printed(key), value->type_name());
  return value->get<std::string>();
}

std::string optional_field(const Json& record, const std::string& key, const std::string& where) {
  return find(record, key) ? string_field(record, key, where) : std::string();
}

const Json& list_field(const Json& record, const std::string& key, const std::string& where) {
  const Json* value = find(record, key);
  HONE_CHECK(value && value->is_array() && !value->empty(), corrupt,
             "{}: {}: expected a list of at least one message", where, printed(key));
  return *value;
}

std::string sharegpt_role(const std::string& from, const std::string& where) {
  struct Role {
    std::string_view from, role;
  };
  static constexpr Role kRoles[] = {
      {"human", "user"},        {"user", "user"},           {"gpt", "assistant"},
      {"chatgpt", "assistant"}, {"assistant", "assistant"}, {"model", "assistant"},
      {"bot", "assistant"},     {"system", "system"},       {"tool", "tool"},
      {"function", "tool"},     {"observation", "tool"},    {"function_response", "tool"}};
  for (const Role& r : kRoles)
    if (r.from == from) return std::string(r.role);
  fail(ErrorKind::corrupt, "{}: a message is from {}, which is none of human, gpt, system, tool",
       where, printed(from));
}

Json chat_messages(const Json& record, const FieldNames& names, const std::string& where) {
  Json result = Json::array();
  for (const Json& message : list_field(record, names("messages"), where)) {
    HONE_CHECK(message.is_object(), corrupt, "{}: expected each message to be an object, got a {}",
               where, message.type_name());
    const std::string role = string_field(message, names("role"), where);
    Json kept = Json::object();
    kept["role"] = role;
    for (const auto& [key, value] : message.items())
      if (key == names("content")) {
        HONE_CHECK(value.is_string() || value.is_array() || value.is_null(), corrupt,
                   "{}: expected a message's content to be a text or a list of parts, got a {}",
                   where, value.type_name());
        kept["content"] = value;
      } else if (key != names("role"))
        kept[key] = value;
    // A call of tools has no content.
    HONE_CHECK(kept.contains("content") || kept.size() > 1, corrupt,
               "{}: a message of the role {} has no content", where, printed(role));
    result.push_back(std::move(kept));
  }
  return result;
}

Json sharegpt_messages(const Json& record, const FieldNames& names, const std::string& where) {
  Json result = Json::array();
  for (const Json& message : list_field(record, names("conversations"), where)) {
    const std::string from = string_field(message, names("from"), where);
    result.push_back({{"role", sharegpt_role(from, where)},
                      {"content", string_field(message, names("value"), where)}});
  }
  return result;
}

Json pair_messages(std::string prompt, std::string answer) {
  return Json::array(
      {{{"role", "user"}, {"content", prompt}}, {{"role", "assistant"}, {"content", answer}}});
}

}  // namespace

const char* data_kind_name(DataKind kind) {
  for (const KindFields& k : kinds())
    if (k.kind == kind) return k.name;
  return "";
}

DataKind data_kind_of_name(const std::string& name) {
  std::string list;
  for (const KindFields& k : kinds()) {
    if (k.name == name) return k.kind;
    list += std::string(list.empty() ? "" : ", ") + k.name;
  }
  fail(ErrorKind::invalid_argument, "the kind of data {}: expected auto or one of {}",
       printed(name), list);
}

FieldNames::FieldNames(const std::string& spec) {
  for (size_t at = 0; at < spec.size();) {
    const size_t end = std::min(spec.find(',', at), spec.size());
    const std::string item = spec.substr(at, end - at);
    at = end + 1;
    const size_t equals = item.find('=');
    HONE_CHECK(equals != item.npos && equals > 0 && equals + 1 < item.size(), invalid_argument,
               "names of fields: expected usual=actual, got {}", printed(item));
    const std::string usual = item.substr(0, equals);
    bool known = false;
    for (const KindFields& k : kinds())
      known = known || contains(k.needed, usual) || contains(k.optional, usual);
    HONE_CHECK(known, invalid_argument, "names of fields: no kind of data has a field {}",
               printed(usual));
    actual_[usual] = item.substr(equals + 1);
  }
}

const std::string& FieldNames::operator()(const std::string& usual) const {
  const auto it = actual_.find(usual);
  return it == actual_.end() ? usual : it->second;
}

DataKind detect_kind(const Json& record, const FieldNames& names, const std::string& where) {
  if (record.is_string()) return DataKind::text;
  std::string wanted;
  for (const KindFields& k : kinds()) {
    if (k.needed.empty()) continue;
    const bool all = std::all_of(k.needed.begin(), k.needed.end(), [&](const std::string& usual) {
      return find(record, names(usual)) != nullptr;
    });
    if (all) return k.kind;
    wanted += wanted.empty() ? "" : "; ";
    for (size_t i = 0; i < k.needed.size(); ++i) wanted += (i ? ", " : "") + names(k.needed[i]);
  }
  fail(ErrorKind::corrupt, "{}: unknown kind of data: found {}; expected one of: {}", where,
       fields_of(record), wanted);
}

std::string record_text(const Json& record, const FieldNames& names, const std::string& where) {
  if (record.is_string()) return record.get<std::string>();
  return string_field(record, names("text"), where);
}

Json record_messages(const Json& record, DataKind kind, const FieldNames& names,
                     const std::string& where) {
  // In the order of the table, so that the first that is missing is named.
  auto pair = [&](const char* usual_prompt, const char* usual_answer) {
    std::string prompt = string_field(record, names(usual_prompt), where);
    return pair_messages(std::move(prompt), string_field(record, names(usual_answer), where));
  };
  Json messages;
  switch (kind) {
    case DataKind::messages:
      return chat_messages(record, names, where);
    case DataKind::conversations:
      messages = sharegpt_messages(record, names, where);
      break;
    case DataKind::instruction: {
      messages = pair("instruction", "output");
      const std::string input = optional_field(record, names("input"), where);
      if (!input.empty()) messages[0]["content"].get_ref<std::string&>() += "\n\n" + input;
      break;
    }
    case DataKind::completion:
      messages = pair("prompt", "completion");
      break;
    case DataKind::question:
      messages = pair("question", "answer");
      break;
    case DataKind::text:
    case DataKind::plain:
      HONE_ASSERT(!"a conversation");
  }
  const std::string system = optional_field(record, names("system"), where);
  if (!system.empty() && messages[0]["role"] != "system")
    messages.insert(messages.begin(), Json{{"role", "system"}, {"content", system}});
  return messages;
}

Json record_tools(const Json& record, const FieldNames& names) {
  const Json* tools = find(record, names("tools"));
  return tools && tools->is_array() ? *tools : Json();
}

}  // namespace hone
