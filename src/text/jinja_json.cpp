#include "text/jinja_json.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "text/jinja_strings.h"
#include "text/unicode.h"

namespace hone::jinja {
namespace {

Value read(Runtime& runtime, const Json& json, int depth) {
  if (depth > kMaxNesting) unsupported("values nested deeper than {}", kMaxNesting);
  switch (json.type()) {
    case Json::value_t::boolean:
      return json.get<bool>();
    case Json::value_t::number_integer:
      return json.get<int64_t>();
    case Json::value_t::number_unsigned:
      if (json.get<uint64_t>() > INT64_MAX) unsupported("an integer needs more than 64 bits");
      return json.get<int64_t>();
    case Json::value_t::number_float:
      return json.get<double>();
    case Json::value_t::string: {
      const auto& text = json.get_ref<const std::string&>();
      if (!is_valid_utf8(text)) fault("a string of the chat is not UTF-8");
      return runtime.text(text);
    }
    case Json::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const Json& item : json) items.push_back(read(runtime, item, depth + 1));
      return runtime.list(std::move(items));
    }
    case Json::value_t::object: {
      std::vector<std::pair<Value, Value>> entries;
      for (const auto& [key, value] : json.items()) {
        if (!is_valid_utf8(key)) fault("a key of the chat is not UTF-8");
        entries.emplace_back(runtime.text(key), read(runtime, value, depth + 1));
      }
      return runtime.dict(entries);
    }
    default:
      return None{};
  }
}

std::string json_string(const std::string& text, bool ascii) {
  std::string out = "\"";
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = utf8_at(text, i);
    i += c.size;
    auto code = static_cast<uint32_t>(c.code);
    constexpr std::string_view kSpecial = "\"\\\n\r\t\f\b", kLetters = "\"\\nrtfb";
    const size_t at = code < 0x80 ? kSpecial.find(static_cast<char>(code)) : kSpecial.npos;
    if (at != kSpecial.npos) {
      out += '\\';
      out += kLetters[at];
    } else if (code >= 0x10000 && ascii) {
      code -= 0x10000;
      out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (code >> 10), 0xDC00 + (code & 0x3FF));
    } else if (code < 0x20 || (code >= 0x7F && ascii && code != 0x7F)) {
      out += fmt::format("\\u{:04x}", code);
    } else {
      append_utf8(out, c.code);
    }
  }
  return out += '"';
}

std::string json_number(double d) {
  if (std::isnan(d)) return "NaN";
  if (std::isinf(d)) return d < 0 ? "-Infinity" : "Infinity";
  return real_repr(d);
}

class Writer {
 public:
  Writer(Runtime& runtime, const JsonStyle& style)
      : runtime_(runtime), style_(style), out_(runtime) {}

  void write(const Value& v, int depth) {
    runtime_.step();
    switch (v.type()) {
      case Type::none:
        out_ << "null";
        return;
      case Type::boolean:
        out_ << (v.boolean() ? "true" : "false");
        return;
      case Type::integer:
        out_ << fmt::format("{}", v.integer());
        return;
      case Type::real:
        out_ << json_number(v.real());
        return;
      case Type::text:
        write_string(v.str());
        return;
      case Type::dict:
        write_dict(v.dict(), depth);
        return;
      case Type::sequence:
        if (v.sequence().kind <= SequenceKind::tuple) {
          write_list(v.items(), depth);
          return;
        }
        [[fallthrough]];
      default:
        fault("Object of type {} is not JSON serializable", type_name(v));
    }
  }

  std::string take() { return out_.take(); }

 private:
  void write_string(const std::string& text) {
    runtime_.check_room(text.size() * 6);
    out_ << json_string(text, style_.ascii);
  }

  void new_line(int depth) {
    if (!style_.indent) return;
    out_ << "\n";
    for (int i = 0; i < depth; ++i) out_ << *style_.indent;
  }

  void write_list(const std::vector<Value>& items, int depth) {
    if (items.empty()) {
      out_ << "[]";
      return;
    }
    out_ << "[";
    for (size_t i = 0; i < items.size(); ++i) {
      if (i) out_ << style_.item_separator;
      new_line(depth + 1);
      write(items[i], depth + 1);
    }
    new_line(depth);
    out_ << "]";
  }

  std::string key_text(const Value& key) const {
    switch (key.type()) {
      case Type::none:
        return "null";
      case Type::boolean:
        return key.boolean() ? "true" : "false";
      case Type::integer:
        return fmt::format("{}", key.integer());
      case Type::real:
        return json_number(key.real());
      case Type::text:
        return key.str();
      default:
        fault("keys must be str, int, float, bool or None, not {}", type_name(key));
    }
  }

  void write_dict(const Dict& dict, int depth) {
    if (dict.entries.empty()) {
      out_ << "{}";
      return;
    }
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(), [&](const auto* a, const auto* b) {
        return compare(runtime_, a->first, b->first, "<") == -1;
      });
    }
    out_ << "{";
    bool first = true;
    for (const auto* entry : entries) {
      if (!first) out_ << style_.item_separator;
      first = false;
      new_line(depth + 1);
      write_string(key_text(entry->first));
      out_ << style_.key_separator;
      write(entry->second, depth + 1);
    }
    new_line(depth);
    out_ << "}";
  }

  Runtime& runtime_;
  const JsonStyle& style_;
  TextBuilder out_;
};

}  // namespace

Value from_json(Runtime& runtime, const Json& json) { return read(runtime, json, 0); }

std::string to_json(Runtime& runtime, const Value& value, const JsonStyle& style) {
  Writer writer(runtime, style);
  writer.write(value, 0);
  return writer.take();
}

}  // namespace hone::jinja
