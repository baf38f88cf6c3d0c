#include "base/json.h"

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <vector>

#include "base/error.h"

namespace hone {
namespace {

// Builds the value from parser events. The library's own builder looks a key up before it adds it,
// which in an ordered object is a linear search: quadratic time for a large file. Here duplicates
// are found in a hash set, and members are appended.
class Builder : public nlohmann::json_sax<Json> {
 public:
  Builder(const std::string& source, int max_depth) : source_(source), max_depth_(max_depth) {}

  Json take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(int64_t value) override { return add(value); }
  bool number_unsigned(uint64_t value) override { return add(value); }
  bool number_float(double value, const std::string&) override { return add(value); }
  bool string(std::string& value) override { return add(std::move(value)); }
  bool binary(Json::binary_t& value) override { return add(std::move(value)); }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& name) override {
    HONE_CHECK(open_.back().keys.insert(name).second, corrupt, "{}: the key '{}' appears twice",
               source_, name.substr(0, 200));
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const Json::exception& e) override {
    // Without the library's own "[json.exception.parse_error.101] " in front.
    std::string why = e.what();
    if (const size_t end = why.find("] "); why.starts_with('[') && end != std::string::npos)
      why.erase(0, end + 2);
    if (why.size() > 300) why.resize(300);
    fail(ErrorKind::corrupt, "{}: not valid JSON: {}", source_, why);
  }

 private:
  struct Container {
    Json* value;  // stays put: only the innermost container grows
    std::unordered_set<std::string> keys;
  };

  Json* place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back().value;
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    auto& members = parent.get_ref<Json::object_t&>();
    members.emplace_back(std::move(key_), std::move(value));
    return &members.back().second;
  }
  bool add(Json value) {
    place(std::move(value));
    return true;
  }
  bool open(Json value) {
    HONE_CHECK(static_cast<int>(open_.size()) < max_depth_, corrupt,
               "{}: JSON nested deeper than {} levels", source_, max_depth_);
    open_.push_back({place(std::move(value)), {}});
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  const std::string& source_;
  int max_depth_;
  Json root_;
  std::string key_;
  std::vector<Container> open_;
};

}  // namespace

Json parse_json(std::string_view text, const std::string& source, int max_depth) {
  Builder builder(source, max_depth);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

int64_t json_integer(const Json& value, std::string_view what, const std::string& source) {
  bool whole = value.is_number_integer() &&
               (!value.is_number_unsigned() || value.get<uint64_t>() <= uint64_t{INT64_MAX});
  HONE_CHECK(whole, corrupt, "{}: {}: expected an integer", source, what);
  return value.get<int64_t>();
}

Json json_float(float x) { return std::strtod(fmt::format("{}", x).c_str(), nullptr); }

}  // namespace hone
