// One struct of options, many uses: a visitor walks the fields of an options struct, and flags,
// YAML keys, help text and JSON all come from that one walk.
#pragma once

#include <cstdint>
#include <string>

namespace hone {

class OptionVisitor {
 public:
  virtual ~OptionVisitor() = default;
  /// Called once for each field; an implementation reads it, writes it, or describes it.
  virtual void option(const char* name, int64_t& value, const char* help) = 0;
  virtual void option(const char* name, double& value, const char* help) = 0;
  virtual void option(const char* name, bool& value, const char* help) = 0;
  virtual void option(const char* name, std::string& value, const char* help) = 0;
};

}  // namespace hone
