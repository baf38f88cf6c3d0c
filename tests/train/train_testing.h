// What tests of training share: options from JSON, and tensors of
// tests/golden/optimizers.safetensors (tools/golden/make_optimizers.py).
#pragma once

#include <nlohmann/json.hpp>
#include <set>

#include "base/options.h"
#include "formats/safetensors.h"
#include "testing.h"

namespace hone::testing {

/// Sets the fields that a JSON object names.
class JsonOptions final : public OptionVisitor {
 public:
  explicit JsonOptions(nlohmann::json values) : values_(std::move(values)) {}
  ~JsonOptions() override { EXPECT_TRUE(values_.empty()) << "no such options: " << values_; }
  void option(const char* name, int64_t& v, const char*) override { take(name, v); }
  void option(const char* name, double& v, const char*) override { take(name, v); }
  void option(const char* name, bool& v, const char*) override { take(name, v); }
  void option(const char* name, std::string& v, const char*) override { take(name, v); }

 private:
  template <typename T>
  void take(const char* name, T& v) {
    if (!values_.contains(name)) return;
    v = values_[name].get<T>();
    values_.erase(name);
  }
  nlohmann::json values_;
};

template <typename Options>
Options options_from(const nlohmann::json& values) {
  Options o;
  JsonOptions visitor(values);
  o.visit(visitor);
  return o;
}

/// The golden file and the options of its cases.
struct OptimizerGolden {
  SafetensorsFile file = SafetensorsFile::open(golden("optimizers.safetensors"));
  nlohmann::json options = nlohmann::json::parse(file.metadata().at("options"));
  int64_t schedule_steps = std::stoll(file.metadata().at("steps"));
};

/// The message and kind of the Error that f raises.
template <typename F>
std::string error_of(F f) {
  try {
    f();
  } catch (const Error& e) {
    return std::string(error_kind_name(e.kind())) + ": " + e.what();
  }
  return "no error";
}

}  // namespace hone::testing
