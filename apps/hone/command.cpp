#include "command.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/threads.h"
#include "kernels/select.h"

namespace hone {

void ModelArgument::add(CLI::App& app) {
  app.add_option("model", path, "a GGUF file or a Hugging Face directory")->required();
  app.add_option("--load-as", load_as,
                 "quantise while loading: nf4, fp4, int8, int4, or any encoding's id");
}

LoadedModel ModelArgument::load(bool inference) const {
  LoadOptions options;
  options.inference = inference;
  options.load_as = load_as;
  return load_model(path, options);
}

void add_sampler_flags(CLI::App& app, SamplerOptions& o) {
  app.add_option("--temperature", o.temperature, "0 = greedy")->capture_default_str();
  app.add_option("--top-k", o.top_k, "keep the k likeliest tokens (0 = all)")
      ->capture_default_str();
  app.add_option("--top-p", o.top_p, "keep the likeliest tokens up to this probability")
      ->capture_default_str();
  app.add_option("--min-p", o.min_p, "drop tokens below this share of the likeliest one")
      ->capture_default_str();
  app.add_option("--repetition-penalty", o.repetition_penalty, "1 = none")->capture_default_str();
}

std::string precision_line(LoadedModel& m, Activations a) {
  bool integer = false, other = false;
  for (Linear* l : m.model->linears()) (l->integer_capable() ? integer : other) = true;
  std::string products = a == Activations::f32 || !integer ? "f32 activations"
                         : other ? "int8 activations where weights have an integer form, else f32"
                                 : "int8 activations";
  return fmt::format("{}; {}, {} thread{}", products, kernels::table().isa, thread_count(),
                     thread_count() == 1 ? "" : "s");
}

void print_json(const Json& object) {
  std::string line = object.dump(-1, ' ', false, Json::error_handler_t::replace);
  std::fprintf(stdout, "%s\n", line.c_str());
  std::fflush(stdout);
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

std::string text_table(const std::vector<std::vector<std::string>>& rows) {
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
      line += i == 0 ? rows[r][i] + pad : "  " + pad + rows[r][i];
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
