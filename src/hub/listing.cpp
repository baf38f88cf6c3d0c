#include "hub/listing.h"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/glob.h"
#include "base/json.h"
#include "hub/names.h"

namespace hone {
namespace {

// Weights in forms that hone does not read, which repositories keep beside those that it does.
constexpr const char* kForeign =
    "*.bin|*.pt|*.pth|*.ckpt|*.h5|*.msgpack|*.onnx|*.onnx_data|*.ot|*.tflite|*.mlmodel|*.llamafile|"
    "onnx/*|openvino/*|coreml/*|*.mlpackage/*|original/*|flax_model*|tf_model*|metal/*";
constexpr size_t kNamesShown = 6;

bool matches_any(const std::vector<std::string>& globs, const std::string& name) {
  return std::any_of(globs.begin(), globs.end(), [&](const std::string& g) {
    return glob_matches(g.ends_with('/') ? g + "*" : g, name);
  });
}

// "model-00001-of-00003.gguf" and its like are one model: the name without the number.
std::string set_of(const std::string& name) {
  const size_t of = name.rfind("-of-");
  if (of == name.npos || of < 6) return name;
  return name.substr(0, of - 5) + name.substr(of);
}

// Without a choice of the user: all but copies of the weights that hone would not read.
std::vector<std::string> readable(const std::vector<std::string>& files) {
  const bool plain = std::any_of(files.begin(), files.end(), [](const std::string& f) {
    return glob_matches("model*.safetensors", f);
  });
  const bool known = std::any_of(files.begin(), files.end(), [](const std::string& f) {
    return glob_matches("*.safetensors|*.gguf", f);
  });
  std::vector<std::string> out;
  for (const std::string& f : files) {
    if (known && glob_matches(kForeign, f)) continue;
    if (plain && glob_matches("consolidated*.safetensors|*.gguf", f)) continue;
    out.push_back(f);
  }
  return out;
}

void check_one_gguf(const std::vector<std::string>& files, const std::string& source) {
  std::set<std::string> sets;
  std::string names;
  for (const std::string& f : files) {
    if (!f.ends_with(".gguf") || !sets.insert(set_of(f)).second) continue;
    if (sets.size() <= kNamesShown) names += (names.empty() ? "" : ", ") + one_line(f);
  }
  HONE_CHECK(
      sets.size() <= 1, invalid_argument,
      "{} holds {} GGUF models ({}{}): choose with --include, as in --include '*Q4_K_M*', or "
      "take all with --include '*'",
      source, sets.size(), names, sets.size() > kNamesShown ? ", ..." : "");
}

}  // namespace

HubListing parse_hub_listing(std::string_view json, const std::string& source) {
  const Json j = parse_json(json, source);
  HubListing out;
  HONE_CHECK(j.is_object() && j.contains("sha") && j["sha"].is_string(), corrupt,
             "{}: no 'sha', the commit, in the hub's answer", source);
  out.commit = j["sha"].get<std::string>();
  HONE_CHECK(is_commit(out.commit), corrupt, "{}: '{}' is no commit", source, one_line(out.commit));
  HONE_CHECK(j.contains("siblings") && j["siblings"].is_array(), corrupt,
             "{}: no 'siblings', the files, in the hub's answer", source);
  std::set<std::string> seen;
  for (const Json& file : j["siblings"]) {
    HONE_CHECK(file.is_object() && file.contains("rfilename") && file["rfilename"].is_string(),
               corrupt, "{}: a file without a name in the hub's answer", source);
    std::string name = file["rfilename"].get<std::string>();
    check_file_name(name, source);
    if (seen.insert(name).second) out.files.push_back(std::move(name));
  }
  return out;
}

std::vector<std::string> chosen_files(const std::vector<std::string>& files,
                                      const std::vector<std::string>& include,
                                      const std::vector<std::string>& exclude,
                                      const std::string& source) {
  std::vector<std::string> out;
  for (const std::string& f : include.empty() ? readable(files) : files)
    if ((include.empty() || matches_any(include, f)) && !matches_any(exclude, f)) out.push_back(f);
  HONE_CHECK(!files.empty(), invalid_argument, "{} holds no files", source);
  HONE_CHECK(!out.empty(), invalid_argument,
             "none of the {} files of {} matches --include and --exclude", files.size(), source);
  if (include.empty()) check_one_gguf(out, source);
  return out;
}

}  // namespace hone
