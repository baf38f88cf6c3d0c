#include "base/json.h"

#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "base/error.h"

namespace hone {

Json parse_json(std::string_view text, const std::string& source, int max_depth) {
  // One key set for each open object: duplicate keys are how two readers of one file disagree.
  std::vector<std::set<std::string>> keys;
  auto callback = [&](int depth, Json::parse_event_t event, Json& parsed) {
    HONE_CHECK(depth <= max_depth, corrupt, "{}: JSON nested deeper than {} levels", source,
               max_depth);
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      HONE_CHECK(keys.back().insert(key).second, corrupt, "{}: the key '{}' appears twice", source,
                 key.substr(0, 200));
    }
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), callback);
  } catch (const nlohmann::json::exception& e) {
    std::string why = e.what();
    if (why.size() > 300) why.resize(300);
    fail(ErrorKind::corrupt, "{}: not valid JSON: {}", source, why);
  }
}

}  // namespace hone
