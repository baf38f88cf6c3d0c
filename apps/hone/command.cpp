#include "command.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "adapters/adapter.h"
#include "base/log.h"
#include "base/threads.h"
#include "encodings/encoding.h"
#include "kernels/machine.h"
#include "kernels/select.h"
#include "models/adapter_file.h"
#include "models/roofline.h"

namespace hone {
namespace {
const std::string kOneOf = "one_of:";
}

CLI::Validator between(double low, double high) {
  auto check = [low, high](std::string& text) -> std::string {
    double x = 0;
    bool number = CLI::detail::lexical_cast(text, x);
    if (number && x >= low && x <= high) return {};
    return fmt::format("expected {} to {}, got {}", low, high, text);
  };
  return CLI::Validator(check, "");
}

CLI::Validator one_of(const std::vector<std::string>& names) {
  auto check = [names](std::string& text) -> std::string {
    if (std::find(names.begin(), names.end(), text) != names.end()) return {};
    return fmt::format("expected one of {}, got {}", fmt::join(names, ", "), text);
  };
  // The parser shows a validator's description and keeps its name to itself.
  return CLI::Validator(check, "", kOneOf + fmt::format("{}", fmt::join(names, "|")));
}

std::vector<std::string> choices_of(CLI::Option& option) {
  try {
    const std::string name = option.get_validator(0)->get_name();
    if (name.rfind(kOneOf, 0) == 0) return CLI::detail::split(name.substr(kOneOf.size()), '|');
  } catch (const CLI::OptionNotFound&) {
  }
  return {};
}

CLI::Validator encoding_name() {
  auto check = [](std::string& text) -> std::string {
    try {
      WeightParams ignored;
      encoding(encoding_from_shorthand(text, ignored));
      return {};
    } catch (const Error& e) {
      return e.what();
    }
  };
  return CLI::Validator(check, "");
}

CLI::Validator layout_name() {
  std::vector<std::string> names;
  for (const Layout& l : layouts())
    if (l.write != nullptr) names.emplace_back(l.name);
  return one_of(names);
}

std::vector<KvType> CommonOptions::kv_list() const {
  std::vector<KvType> types;
  for (const std::string& name : CLI::detail::split(kv_cache, ','))
    types.push_back(kv_type_from_name(name));
  return types;
}

CLI::Validator kv_cache_types(bool several) {
  auto check = [several](std::string& text) -> std::string {
    CommonOptions o;
    o.kv_cache = text;
    try {
      if (o.kv_list().size() == 1 || several) return {};
      return "several types are for eval, optimize and quantize";
    } catch (const Error& e) {
      return e.what();
    }
  };
  return CLI::Validator(check, "");
}

CLI::Validator decoded_type_name() { return one_of({"f32", "f16", "bf16"}); }

CLI::Option* add_model(CLI::App& app, std::string& path) {
  return app
      .add_option("MODEL", path, "a GGUF file, a Hugging Face directory or a pulled org/name")
      ->required();
}

void ModelArgument::add(CLI::App& app, bool required) {
  add_model(app, path)->required(required);
  app.add_option("--load-as", load_as,
                 "quantise while loading: nf4, fp4, int8, int4, or any encoding's id")
      ->type_name("NAME")
      ->check(encoding_name());
}

AdapterArgument AdapterArgument::parse(const std::string& text) {
  AdapterArgument a{text};
  const size_t at = text.rfind('=');
  if (at == text.npos || at == 0 || std::filesystem::exists(text)) return a;
  a.path = text.substr(0, at);
  const bool number = CLI::detail::lexical_cast(text.substr(at + 1), a.weight);
  if (!number || !std::isfinite(a.weight))
    throw UsageError("--adapter: the weight of " + text + " is no number");
  return a;
}

CLI::Option* add_adapters(CLI::App& app, std::vector<std::string>& texts, const char* what) {
  return app.add_option("--adapter", texts, what)->allow_extra_args(false)->type_name("DIR[=X]");
}

void ModelArgument::add_with_adapters(CLI::App& app, bool required) {
  add(app, required);
  add_adapters(app, adapters, "add a PEFT directory or GGUF LoRA file, X times (repeatable)");
}

LoadedModel ModelArgument::load(bool inference) const {
  LoadOptions options;
  options.inference = inference;
  options.load_as = load_as;
  std::vector<AdapterArgument> chosen;
  for (const std::string& text : adapters) chosen.push_back(AdapterArgument::parse(text));
  LoadedModel m = load_model(path, options);
  for (const AdapterArgument& a : chosen) {
    std::shared_ptr<Adapter> adapter =
        load_adapter(*m.model, read_adapter(a.path, *m.family, m.config), a.path);
    if (a.weight != 1) adapter->set_weight(a.weight);
    m.attached.push_back(std::move(adapter));
  }
  return m;
}

LoadedModel ModelArgument::load(const CommonOptions& common) const {
  LoadedModel m = load(true);
  for (Linear* l : m.model->linears())
    l->set_outlier_threshold(static_cast<float>(common.outlier_threshold));
  return m;
}

void add_generation_flags(CLI::App& app, GenerateOptions& o) {
  app.add_option("--max-tokens", o.max_tokens, "tokens to generate at most")
      ->check(between(0, 1 << 30))
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--stop", o.stop, "end before this text (repeatable)")
      ->allow_extra_args(false)
      ->type_name("TEXT");
  app.add_flag("--ignore-eos", o.ignore_end, "go on past end-of-text tokens");
  SamplerOptions& s = o.sampler;
  auto number = [&](const char* name, auto& field, double low, double high, const char* help) {
    app.add_option(name, field, help)
        ->check(between(low, high))
        ->type_name("X")
        ->capture_default_str()
        ->group("Sampling");
  };
  number("--temperature", s.temperature, 0, 100, "0 = greedy, 1 = the model's own distribution");
  number("--top-k", s.top_k, 0, 1 << 30, "keep the X likeliest tokens, 0 = all");
  number("--top-p", s.top_p, 1e-6, 1, "keep the likeliest tokens up to this probability");
  number("--min-p", s.min_p, 0, 1, "drop tokens below this share of the likeliest one");
  number("--repetition-penalty", s.repetition_penalty, 1e-3, 100,
         "divides the logits of tokens seen, 1 = none");
}

void StreamingFlags::add(CLI::App& app) {
  auto* flag = app.add_flag("--streaming", on, "text without end in constant memory (StreamingLLM)")
                   ->group("Streaming");
  auto number = [&](const char* name, int64_t& field, double low, const char* help) {
    return app.add_option(name, field, help)
        ->check(between(low, 1 << 30))
        ->type_name("N")
        ->needs(flag)
        ->group("Streaming");
  };
  number("--sinks", options.sinks, 0, "first tokens to keep")->capture_default_str();
  number("--window", options.window, 1, "last tokens to keep; else as many as the context leaves");
}

void StreamingFlags::apply(LoadedModel& m) const {
  if (!on) return;
  const Streaming s = set_streaming(*m.model, options);
  if (m.config.has_softmax()) log_info("streaming: {} sinks, the last {}", s.sinks, s.window);
}

const std::optional<kernels::Machine>& known_machine() {
  static const auto machine = kernels::load_machine(kernels::machine_cache());
  return machine;
}

Fractions fractions_of_limit(const Generation& g, LoadedModel& m, const CommonOptions& common) {
  Fractions f;
  if (!known_machine()) return f;
  auto roofs = kernels::roofs_of(*known_machine(), kernels::table().isa);
  if (!roofs) return f;
  Work work = work_of(*m.model, common.precision(), common.kv());
  int64_t fresh = g.prompt_tokens - g.cached_tokens;
  if (fresh > 0 && g.prefill_seconds > 0)
    f.prefill = prefill_limit(work, *roofs, fresh, g.cached_tokens) / g.prefill_seconds;
  // The middle of the decoded tokens stands for all.
  double least = decode_limit(work, *roofs, g.prompt_tokens + g.decode_steps / 2);
  if (g.decode_steps > 0) f.decode = double(g.decode_steps) * least / g.decode_seconds;
  return f;
}

void add_fractions(const Fractions& f, Json& to) {
  if (f.prefill) to["prefill_of_limit"] = *f.prefill;
  if (f.decode) to["decode_of_limit"] = *f.decode;
}

std::string speed_line(const Generation& g, LoadedModel& m, const CommonOptions& common) {
  auto part = [](std::optional<double> fraction) {
    if (!fraction) return std::string();
    // Some codes are faster than the peak that counts for them, but not so much.
    if (*fraction > 1.25)
      return std::string(" (beyond the limit that was measured: run hone bench --machine again)");
    return fmt::format(" ({:.0f} % of the machine's limit)", 100 * *fraction);
  };
  Fractions f = fractions_of_limit(g, m, common);
  std::string prefill = part(f.prefill), decode;
  if (g.decode_steps > 0)
    decode = fmt::format(" at {:.1f} tok/s{}", g.decode_speed(), part(f.decode));
  std::string cached = g.cached_tokens == 0
                           ? ""
                           : fmt::format(", {} of them new", g.prompt_tokens - g.cached_tokens);
  return fmt::format("{} prompt token{}{} at {:.0f} tok/s{}; {} more{}", g.prompt_tokens,
                     g.prompt_tokens == 1 ? "" : "s", cached, g.prefill_speed(), prefill,
                     g.tokens.size(), decode);
}

std::string precision_line(LoadedModel& m, const CommonOptions& common) {
  std::string kv;
  if (common.kv() != KvType::f32) kv = fmt::format("{} KV cache; ", kv_type_name(common.kv()));
  return fmt::format("{} activations; {}{}, {} thread{}",
                     m.model->activations_used(common.precision()), kv, kernels::table().isa,
                     thread_count(), thread_count() == 1 ? "" : "s");
}

void print_json(const Json& object) {
  print_text(object.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
}

void print_text(std::string_view text) {
  bool good = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  HONE_CHECK(std::fflush(stdout) == 0 && good, io, "cannot write to standard output: {}",
             std::strerror(errno));
}

int64_t peak_rss_bytes() {
  // Not getrusage: its maximum is inherited from the process that started this one.
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("VmHWM:", 0) == 0) return std::atoll(line.c_str() + 6) * 1024;
  return 0;
}

namespace {
// Columns of a terminal that a UTF-8 text takes, for text without wide or combining characters.
size_t columns(const std::string& s) {
  size_t n = 0;
  for (unsigned char c : s) n += (c & 0xc0) != 0x80;
  return n;
}
}  // namespace

std::string text_table(const std::vector<std::vector<std::string>>& rows, Columns kind) {
  std::vector<size_t> width;
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) {
      if (i == width.size()) width.push_back(0);
      width[i] = std::max(width[i], columns(row[i]));
    }
  std::string out;
  for (size_t r = 0; r < rows.size(); ++r) {
    std::string line;
    for (size_t i = 0; i < rows[r].size(); ++i) {
      std::string pad(width[i] - columns(rows[r][i]), ' ');
      bool left = i == 0 || kind == Columns::words;
      line += (i == 0 ? "" : "  ") + (left ? rows[r][i] + pad : pad + rows[r][i]);
    }
    out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
    if (r == 0) {
      size_t total = 0;
      for (size_t i = 0; i < width.size(); ++i) total += width[i] + (i == 0 ? 0 : 2);
      for (size_t i = 0; i < total; ++i) out += "─";
      out += "\n";
    }
  }
  return out;
}

}  // namespace hone
