#include "eval/training_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "eval/report_text.h"

namespace hone {
namespace {

using Step = TrainingLog::Step;
using Evaluation = TrainingLog::Evaluation;

constexpr const char* kFormat = "hone training log";
constexpr int64_t kVersion = 1;
constexpr size_t kLargestLog = size_t{1} << 30;  // some seven million steps

// ---- Writing -----------------------------------------------------------------------------------

Json number(double value) {
  if (std::isnan(value)) return nullptr;
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

std::string header_line(const TrainingLog& log) {
  using report_text::valid_utf8;
  Json settings = Json::object(), notes = Json::array();
  for (const auto& [name, value] : log.settings) settings[valid_utf8(name)] = valid_utf8(value);
  for (const auto& note : log.notes) notes.push_back(valid_utf8(note));
  Json header = {{"format", kFormat},
                 {"format_version", kVersion},
                 {"title", valid_utf8(log.title)},
                 {"model", valid_utf8(log.model)},
                 {"method", valid_utf8(log.method)},
                 {"machine", valid_utf8(log.machine)},
                 {"notes", notes},
                 {"settings", settings}};
  return header.dump() + "\n";
}

std::string line_of(const Step& s) {
  Json line = {{"step", s.step},
               {"loss", number(s.loss)},
               {"norm", number(s.norm)},
               {"lr", number(s.lr)},
               {"tokens", s.tokens},
               {"seconds", number(s.seconds)},
               {"loss_scale", number(s.loss_scale)},
               {"skipped", s.skipped}};
  return line.dump() + "\n";
}

std::string line_of(const Evaluation& e) {
  Json line = {{"step", e.step},
               {"eval_loss", number(e.loss)},
               {"perplexity", number(perplexity_of(e.loss))}};
  return line.dump() + "\n";
}

// ---- Reading -----------------------------------------------------------------------------------

/// An object of one line; every getter raises corrupt with its place.
class Line {
 public:
  Line(std::string_view text, std::string where)
      : where_(std::move(where)), json_(parse_json(text, where_)) {
    HONE_CHECK(json_.is_object(), corrupt, "{}: expected an object, got {}", where_,
               json_.type_name());
  }

  const std::string& where() const { return where_; }
  bool has(const char* key) const { return json_.contains(key); }

  int64_t integer(const char* key) const { return json_integer(value(key), key, where_); }
  double number(const char* key) const {
    const Json& v = value(key);
    bool infinite = v == "inf" || v == "-inf";
    HONE_CHECK(v.is_number() || v.is_null() || infinite, corrupt,
               "{}: '{}': expected a number, null, \"inf\" or \"-inf\"", where_, key);
    if (v.is_null()) return std::numeric_limits<double>::quiet_NaN();
    if (infinite) return (v == "inf" ? 1 : -1) * std::numeric_limits<double>::infinity();
    return v.get<double>();
  }
  bool truth(const char* key) const {
    HONE_CHECK(value(key).is_boolean(), corrupt, "{}: '{}': expected true or false", where_, key);
    return value(key).get<bool>();
  }
  std::string text(const char* key) const { return has(key) ? text(value(key), key) : ""; }
  std::string text(const Json& v, std::string_view key) const {
    HONE_CHECK(v.is_string(), corrupt, "{}: '{}': expected a string, got {}", where_, key,
               v.type_name());
    return v.get<std::string>();
  }
  const Json& value(const char* key) const {
    auto found = json_.find(key);
    HONE_CHECK(found != json_.end(), corrupt, "{}: '{}' is missing", where_, key);
    return *found;
  }

 private:
  std::string where_;
  Json json_;
};

TrainingLog read_header(const Line& line) {
  HONE_CHECK(line.text("format") == kFormat, corrupt,
             "{}: not the first line of a training log: expected \"format\": \"{}\"", line.where(),
             kFormat);
  int64_t version = line.integer("format_version");
  HONE_CHECK(version == kVersion, unsupported, "{}: format version {}, this hone reads {}",
             line.where(), version, kVersion);
  TrainingLog log;
  log.title = line.text("title");
  log.model = line.text("model");
  log.method = line.text("method");
  log.machine = line.text("machine");
  if (line.has("notes")) {
    HONE_CHECK(line.value("notes").is_array(), corrupt, "{}: 'notes': expected an array",
               line.where());
    for (const Json& note : line.value("notes")) log.notes.push_back(line.text(note, "notes"));
  }
  if (line.has("settings")) {
    HONE_CHECK(line.value("settings").is_object(), corrupt, "{}: 'settings': expected an object",
               line.where());
    for (const auto& [name, value] : line.value("settings").items())
      log.settings.emplace_back(name, line.text(value, name));
  }
  return log;
}

template <typename Entry>
void push_in_order(std::vector<Entry>& entries, const Entry& entry, const Line& line) {
  int64_t least = entries.empty() ? 0 : entries.back().step + 1;
  HONE_CHECK(entry.step >= least && entry.step < std::numeric_limits<int64_t>::max(), corrupt,
             "{}: step {} out of order, expected {} or a later one", line.where(), entry.step,
             least);
  entries.push_back(entry);
}

void read_entry(const Line& line, TrainingLog& log) {
  if (line.has("eval_loss")) {
    push_in_order(log.evaluations, {line.integer("step"), line.number("eval_loss")}, line);
    return;
  }
  Step s;
  s.step = line.integer("step");
  s.loss = line.number("loss");
  s.norm = line.number("norm");
  s.lr = line.number("lr");
  s.tokens = line.integer("tokens");
  s.seconds = line.number("seconds");
  s.loss_scale = line.number("loss_scale");
  s.skipped = line.truth("skipped");
  HONE_CHECK(s.tokens >= 0 && s.tokens < int64_t{1} << 36, corrupt,
             "{}: 'tokens': expected a count, got {}", line.where(), s.tokens);
  push_in_order(log.steps, s, line);
}

}  // namespace

double perplexity_of(double loss) { return std::exp(loss); }

void TrainingLog::truncate(int64_t step) {
  std::erase_if(steps, [&](const Step& s) { return s.step > step; });
  std::erase_if(evaluations, [&](const Evaluation& e) { return e.step > step; });
}

double TrainingLog::seconds() const {
  double sum = 0;
  for (const Step& s : steps)
    if (std::isfinite(s.seconds)) sum += s.seconds;
  return sum;
}

int64_t TrainingLog::tokens() const {
  int64_t sum = 0;
  for (const Step& s : steps) sum += s.tokens;
  return sum;
}

TrainingLog read_training_log(const fs::path& path) {
  const std::string text = read_text_file(path, kLargestLog);
  HONE_CHECK(!text.empty(), corrupt, "{}: empty, expected a training log", path.string());
  TrainingLog log;
  int64_t line_number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    const std::string_view line = std::string_view(text).substr(at, end - at);
    const std::string where = fmt::format("{}, line {}", path.string(), ++line_number);
    at = end == std::string::npos ? text.size() : end + 1;
    if (line_number == 1) {
      log = read_header(Line(line, where));
    } else if (end == std::string::npos && !line.ends_with('}')) {
      break;  // torn: an interruption came while it was written
    } else {
      read_entry(Line(line, where), log);
    }
  }
  return log;
}

TrainingLogFile::TrainingLogFile(fs::path path, TrainingLog log)
    : path_(std::move(path)), log_(std::move(log)) {
  AtomicFile file(path_);
  file.write(header_line(log_));
  auto evaluation = log_.evaluations.begin();
  auto evaluations_before = [&](int64_t step) {
    for (; evaluation != log_.evaluations.end() && evaluation->step < step; ++evaluation)
      file.write(line_of(*evaluation));
  };
  for (const Step& step : log_.steps) {
    evaluations_before(step.step);
    file.write(line_of(step));
  }
  evaluations_before(std::numeric_limits<int64_t>::max());
  file.commit();
  fd_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  HONE_CHECK(fd_ >= 0, io, "{}: cannot open: {}", path_.string(), std::strerror(errno));
}

TrainingLogFile::~TrainingLogFile() { ::close(fd_); }

void TrainingLogFile::add(const Step& step) {
  HONE_ASSERT(log_.steps.empty() || step.step > log_.steps.back().step);
  append(line_of(step));
  log_.steps.push_back(step);
}

void TrainingLogFile::add(const Evaluation& evaluation) {
  HONE_ASSERT(log_.evaluations.empty() || evaluation.step > log_.evaluations.back().step);
  append(line_of(evaluation));
  log_.evaluations.push_back(evaluation);
}

void TrainingLogFile::append(const std::string& line) {
  for (size_t done = 0; done < line.size();) {
    ssize_t n = ::write(fd_, line.data() + done, line.size() - done);
    if (n < 0 && errno == EINTR) continue;
    HONE_CHECK(n > 0, io, "{}: write failed: {}", path_.string(), std::strerror(errno));
    done += static_cast<size_t>(n);
  }
}

}  // namespace hone
