#include "passes/calibration.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/log.h"
#include "text/text_file.h"

namespace hone {
namespace {

std::string record_text(const Json& record, const std::string& source) {
  if (record.is_string()) return record.get<std::string>();
  HONE_CHECK(record.is_object(), corrupt, "{}: expected an object or a string on each line",
             source);
  std::string text;
  auto add = [&](const Json& value) {
    if (value.is_string()) text += value.get<std::string>() + "\n";
  };
  for (const char* key :
       {"text", "content", "question", "prompt", "completion", "answer", "response"})
    if (record.contains(key)) add(record[key]);
  if (record.contains("messages") && record["messages"].is_array())
    for (const Json& m : record["messages"])
      if (m.is_object() && m.contains("content")) add(m["content"]);
  HONE_CHECK(!text.empty(), corrupt, "{}: a line has none of text, content, prompt, messages",
             source);
  return text;
}

std::string calibration_text(const fs::path& path) {
  std::string raw = read_utf8_file(path);
  if (path.extension() != ".jsonl") return raw;
  std::string text;
  size_t at = 0;
  for (int64_t line = 1; at < raw.size(); ++line) {
    size_t end = std::min(raw.find('\n', at), raw.size());
    std::string_view part(raw.data() + at, end - at);
    at = end + 1;
    if (part.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    std::string source = fmt::format("{}:{}", path.string(), line);
    text += record_text(parse_json(part, source), source) + "\n";
  }
  return text;
}

}  // namespace

int64_t Calibration::tokens() const {
  int64_t n = 0;
  for (const auto& s : samples) n += static_cast<int64_t>(s.size());
  return n;
}

Calibration read_calibration(const fs::path& path, const LoadedModel& model, int64_t samples,
                             int64_t length, uint64_t seed) {
  HONE_CHECK(samples > 0 && samples <= 1 << 20, invalid_argument,
             "calibration samples {}: expected 1 to {}", samples, 1 << 20);
  HONE_CHECK(length > 1 && length <= 1 << 20, invalid_argument,
             "calibration length {}: expected 2 to {} tokens", length, 1 << 20);
  std::vector<int32_t> ids = model.encode(calibration_text(path), true, false);
  auto n = static_cast<int64_t>(ids.size());
  HONE_CHECK(n >= length, invalid_argument,
             "{}: {} tokens of text, fewer than one calibration sample of {}", path.string(), n,
             length);
  Calibration c;
  c.source = path.string();
  int64_t count = std::min(samples, n / length);
  if (count < samples)
    log_warning("{}: {} tokens make {} calibration samples of {}, not {}", path.string(), n, count,
                length, samples);
  // Evenly spaced, shifted by the seed within the slack that is left between windows.
  int64_t room = n - count * length, gap = count > 0 ? room / count : 0;
  int64_t shift = gap > 0 ? static_cast<int64_t>(seed % static_cast<uint64_t>(gap + 1)) : 0;
  for (int64_t i = 0; i < count; ++i) {
    auto first = ids.begin() + i * (length + gap) + shift;
    c.samples.emplace_back(first, first + length);
  }
  return c;
}

}  // namespace hone
