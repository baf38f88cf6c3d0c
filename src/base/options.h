// One struct of options, many uses: a visitor walks the fields of an options struct, and flags,
// YAML keys, help text and JSON all come from that one walk.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

namespace hone {

class OptionVisitor {
 public:
  virtual ~OptionVisitor() = default;
  /// Called once for each field; an implementation reads it, writes it, or describes it.
  virtual void option(const char* name, int64_t& value, const char* help) = 0;
  virtual void option(const char* name, double& value, const char* help) = 0;
  virtual void option(const char* name, bool& value, const char* help) = 0;
  virtual void option(const char* name, std::string& value, const char* help) = 0;

  /// The options that follow belong to these methods alone, names with ", " between; "": to all.
  void belong_to(std::string_view methods) { methods_ = methods; }
  /// Whose the option is that is being visited.
  std::string_view methods() const { return methods_; }
  bool belongs_to(std::string_view method) const {
    for (std::string_view rest = methods_; !rest.empty();) {
      const size_t end = std::min(rest.find(", "), rest.size());
      if (rest.substr(0, end) == method) return true;
      rest.remove_prefix(std::min(end + 2, rest.size()));
    }
    return methods_.empty();
  }

 private:
  std::string_view methods_;
};

}  // namespace hone
