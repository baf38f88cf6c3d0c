#include "passes/optimize.h"

#include <sys/utsname.h>

#include <algorithm>
#include <ctime>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/fingerprint.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/temporary.h"
#include "base/threads.h"
#include "eval/cache_cost.h"
#include "kernels/machine.h"
#include "kernels/select.h"
#include "models/attention_patterns.h"
#include "models/export.h"
#include "models/generate.h"
#include "models/sequence_memory.h"
#include "models/session.h"
#include "passes/journal.h"

namespace hone {
namespace {

constexpr int64_t kBenchPrompt = 256, kBenchDecode = 32;
constexpr int64_t kSampleTokens = 48;

LoadedModel load_in_canonical_form(const fs::path& path) {
  LoadOptions options;
  options.inference = false;
  return load_model(path, options);
}

// Which file it is, by its content.
Json identity_of(const fs::path& p) {
  if (p.empty()) return nullptr;
  if (!fs::is_directory(p)) return fmt::format("{:016x}", file_fingerprint(p));
  std::map<std::string, std::string> all;
  for (const auto& e : fs::directory_iterator(p))
    if (e.is_regular_file())
      all[e.path().filename().string()] = fmt::format("{:016x}", file_fingerprint(e.path()));
  return all;
}

// What the bytes of the output depend on.
Json run_identity(const OptimizeOptions& o) {
  Json calibration;
  if (o.recipe.needs_calibration())
    calibration = {{"file", identity_of(o.calibration)},
                   {"samples", o.recipe.calibration_samples},
                   {"length", o.recipe.calibration_length}};
  return {{"hone version", HONE_VERSION},
          {"steps", o.recipe.main.text},
          {"model", identity_of(o.model)},
          {"calibration", calibration},
          {"seed", o.seed},
          {"instruction set", kernels::table().isa}};
}

// Runs the steps of one variant over `model`.
std::vector<LayerRecord> run_steps(const RecipeVariant& variant, LoadedModel& model,
                                   const Calibration* calibration, uint64_t seed, Journal* journal,
                                   const std::function<void(int64_t)>& unit_stored) {
  std::vector<LayerRecord> records;
  auto blocks = static_cast<int64_t>(model.model->blocks.size());
  for (size_t i = 0; i < variant.steps.size(); ++i) {
    const RecipeStep& step = variant.steps[i];
    auto number = static_cast<int64_t>(i);
    PassContext c{model, step.modules, calibration, seed, &records, nullptr, -1, nullptr};
    bool stored_in_units = journal != nullptr && works_on_modules(step.made->kind());
    if (stored_in_units) c.first_unit = journal->restore(number, model, records);
    if (c.first_unit >= blocks) continue;
    size_t stored = records.size();
    c.unit_done = [&](int64_t unit) {
      if (!stored_in_units) return;
      journal->store(number, unit, model,
                     {records.begin() + static_cast<int64_t>(stored), records.end()});
      stored = records.size();
      if (unit_stored) unit_stored(unit);
    };
    if (journal != nullptr && !stored_in_units) {
      c.store_unit = [&](int64_t block, const std::vector<NamedTensor>& found) {
        journal->store_tensors(number, block, found);
        if (unit_stored) unit_stored(block);
      };
      c.stored_unit = [&](int64_t block) { return journal->stored_tensors(number, block); };
    }
    Progress progress(
        variant.name == step.pass ? step.pass : fmt::format("{}: {}", variant.name, step.pass),
        blocks);
    c.progress = [&](int64_t done, int64_t, const std::string& note) {
      progress.update(std::min(done, blocks), note);
    };
    step.made->run(c);
  }
  return records;
}

class Runner {
 public:
  explicit Runner(const OptimizeOptions& o) : o_(o) {}

  Report run() {
    LoadedModel model = load_in_canonical_form(o_.model);
    auto plan = check_recipe(o_.recipe.main, model);
    std::vector<std::map<std::string, WeightForm>> plans{plan};
    for (const RecipeVariant& v : o_.recipe.compare) plans.push_back(check_recipe(v, model));
    HONE_CHECK(!fs::exists(o_.out) || (fs::is_directory(o_.out) && fs::is_empty(o_.out)),
               invalid_argument, "{}: it exists already; choose another --out", o_.out.string());
    ExportOptions e;
    e.layout = o_.recipe.layout.empty() ? fitting_layout(model, o_.out, plan) : o_.recipe.layout;
    e.decode_to = o_.recipe.decode_to;
    for (const RecipeStep& step : o_.recipe.main.steps) {
      step.made->check_layout(e.layout);
      if (auto type = step.made->gguf_file_type()) e.gguf_file_type = type;
    }
    e.texts.emplace_back("recipe.yaml", o_.recipe.text);
    check_export(model, e, plan);
    if (!o_.text.empty()) text_ = read_text_file(o_.text);
    if (o_.recipe.needs_calibration()) {
      HONE_CHECK(!o_.calibration.empty(), invalid_argument,
                 "a pass needs a calibration text; give --calibration FILE");
      model.model->set_reach(o_.recipe.calibration_length);
      calibration_ =
          read_calibration(o_.calibration, model, o_.recipe.calibration_samples,
                           std::min(o_.recipe.calibration_length, model.model->context), o_.seed);
    }
    for (const auto& p : plans)
      require_memory(memory_need(model, p), fmt::format("optimising {}", model.path));
    Journal journal(beside_output(".journal"), run_identity(o_), o_.resume, o_.restart);
    describe(model);
    if (!text_.empty()) {
      reference_ = load_in_canonical_form(o_.model);
      measure_original();
      for (const RecipeVariant& v : o_.recipe.compare) {
        LoadedModel other = load_in_canonical_form(o_.model);
        double started = monotonic_seconds();
        run_steps(v, other, calibration_pointer(), o_.seed, nullptr, nullptr);
        add_variant(v.name, other, monotonic_seconds() - started, v.noise_floor, false);
      }
    }
    double started = monotonic_seconds();
    auto records =
        run_steps(o_.recipe.main, model, calibration_pointer(), o_.seed, &journal, o_.unit_stored);
    double seconds = monotonic_seconds() - started;
    note_patterns(model);
    export_model(model, o_.out, e);
    journal.remove();
    log_info("wrote {} ({}, {})", o_.out.string(), e.layout,
             human_bytes(double(weight_bytes(model))));
    add_layers(records);
    if (!text_.empty()) add_variant(o_.recipe.main.name, model, seconds, false, true);
    if (!text_.empty()) add_caches(model);
    if (!o_.report.empty()) write_report();
    return report_;
  }

 private:
  const Calibration* calibration_pointer() const { return calibration_ ? &*calibration_ : nullptr; }
  // New weights are held until they are written; calibration has the widest states, a block's
  // Hessians and one factor; an evaluation runs the original and one variant side by side.
  int64_t memory_need(LoadedModel& m, const std::map<std::string, WeightForm>& plan) const {
    const int64_t stored = planned_bytes(m, plan);
    int64_t running = 0, widest = m.config.width, largest = 0, hessians = 0;
    for (const auto& stage : m.model->blocks[0].stages())
      if (!stage.empty()) hessians += 4 * stage[0]->in_features() * stage[0]->in_features();
    for (Linear* l : m.model->linears()) {
      running += packed_bytes(l->weight());
      widest = std::max(widest, l->in_features());
      largest = std::max(largest, 4 * l->out_features() * l->in_features());
    }
    int64_t need = stored + 3 * largest;
    if (calibration_) need += 4 * (calibration_->tokens() * (m.config.width + widest));
    if (calibration_) need += hessians + 4 * widest * widest;
    if (!text_.empty()) need += running + stored;
    return need;
  }

  fs::path beside_output(const char* suffix) const {
    fs::path p = o_.out;
    if (p.filename().empty()) p = p.parent_path();
    p += suffix;
    return p;
  }

  void describe(LoadedModel& m) {
    report_.title = "Optimisation report";
    report_.model = m.name;
    report_.architecture =
        fmt::format("{}, {} layers, width {}", m.family->name, m.config.layers, m.config.width);
    report_.parameters = m.model->parameter_count();
    report_.recipe = o_.recipe.text;
    report_.machine = machine_description();
    report_.threads = thread_count();
    report_.isa = kernels::table().isa;
    report_.text = o_.text.filename().string();
    report_.context = std::min(o_.recipe.evaluate_context, m.model->context);
    report_.kv_cache = kv_type_name(o_.kv);
    report_.sequence_length = m.model->context;
    report_.convention = convention_name(PerplexityConvention::llama_cpp);
    report_.hone_version = HONE_VERSION;
    std::time_t now = std::time(nullptr);
    char date[32];
    std::strftime(date, sizeof(date), "%Y-%m-%d", std::gmtime(&now));
    report_.date = date;
    if (on_a_grid(m) && !rotates_everything())
      report_.notes.push_back(
          "The original's weights lie on a quantised grid already: methods that use a similar grid "
          "look better on it than they would on a full-precision original.");
    if (calibration_ && calibration_->source == o_.text.string())
      report_.notes.push_back("Calibration and evaluation use the same text: the figures flatter.");
  }

  // Who loads the output elsewhere must know what it does not say there.
  void note_patterns(const LoadedModel& m) {
    if (m.config.patterns.empty()) return;
    for (const LayerGroup& g : layer_groups(*m.model))
      report_.notes.push_back(
          fmt::format("Layers {}: {}.", layers_text(g.layers, m.config.layers), g.mixing));
    if (!hides_patterns(m.config, *m.family)) return;
    report_.notes.push_back(
        "Which keys each layer sees stands under a key of config.json that only hone reads: other "
        "tools would show every layer what its family's own keys say.");
    log_warning("{}: {}", o_.out.string(), report_.notes.back());
  }

  static bool on_a_grid(LoadedModel& m) {
    for (Linear* l : m.model->linears())
      for (const auto& [name, plane] : l->weight().planes)
        if (name != "values" || dtype_size(plane.dtype()) < 2) return true;
    return false;
  }

  // Every variant leaves the original's grid before anything is quantised.
  bool rotates_everything() const {
    auto rotates = [](const RecipeVariant& v) {
      return v.noise_floor || (!v.steps.empty() && v.steps[0].made->kind() == PassKind::transform);
    };
    const auto& others = o_.recipe.compare;
    return rotates(o_.recipe.main) && std::all_of(others.begin(), others.end(), rotates);
  }

  PerplexityOptions perplexity_options() const {
    PerplexityOptions p;
    p.context = std::min(o_.recipe.evaluate_context, reference_->model->context);
    p.max_tokens = o_.recipe.evaluate_tokens;
    p.activations = o_.activations;
    p.kv = o_.kv;
    return p;
  }

  ReportVariant variant_of(const std::string& name, LoadedModel& m, const Perplexity& p) {
    ReportVariant v;
    v.name = name;
    v.model_bytes = double(weight_bytes(m));
    v.bits_per_weight = 8 * v.model_bytes / double(m.model->parameter_count());
    v.perplexity = p.perplexity;
    v.perplexity_stderr = p.standard_error;
    v.bits_per_byte = p.bits_per_byte;
    v.activations = m.model->activations_used(o_.activations);
    const SequenceMemory memory = sequence_memory(*m.model, o_.kv, report_.sequence_length);
    v.kv_bytes_per_token = memory.kv_bytes_per_token;
    v.sequence_bytes = memory.bytes();
    v.state_bytes = double(memory.state_bytes);
    return v;
  }

  void measure_original() {
    Perplexity p = measure_perplexity(*reference_, text_, perplexity_options());
    ReportVariant v = variant_of("original", *reference_, p);
    v.is_original = true;
    measure_run(o_.model, v);
    report_.variants.push_back(v);
    add_samples("original", *reference_);
  }

  void add_variant(const std::string& name, LoadedModel& m, double seconds, bool noise,
                   bool output) {
    log_info("measuring {}", name);
    Perplexity p = measure_perplexity(m, text_, perplexity_options(), &*reference_);
    ReportVariant v = variant_of(name, m, p);
    v.kl_mean = p.kl_mean;
    v.kl_median = p.kl_median;
    v.kl_p99 = p.kl_p99;
    v.top1_agreement = p.top1_agreement;
    v.rms_dp = p.rms_dp;
    v.max_dp = p.max_dp;
    v.noise_floor = noise;
    v.is_output = output;
    v.seconds_to_make = seconds;
    if (output)
      measure_run(o_.out, v);
    else
      measure_unwritten(m, v);
    report_.variants.push_back(v);
    if (output) add_samples(name, m);
  }

  void add_caches(LoadedModel& m) {
    if (o_.compared_caches.empty()) return;
    log_info("measuring KV caches");
    report_.caches = cache_costs(m, text_, perplexity_options(), o_.compared_caches);
  }

  void measure_run(const fs::path& path, ReportVariant& v) {
    if (!o_.measure) return;
    int64_t prompt = std::min(kBenchPrompt, reference_->model->context / 2);
    try {
      RunFigures f = o_.measure(path, prompt, std::min(kBenchDecode, prompt));
      v.prefill_tokens_per_second = f.prefill_tokens_per_second;
      v.decode_tokens_per_second = f.decode_tokens_per_second;
      v.peak_rss_bytes = f.peak_rss_bytes;
      v.prefill_of_limit = f.prefill_of_limit;
      v.decode_of_limit = f.decode_of_limit;
    } catch (const Error& e) {
      // The figures are missing from the report then; the model that was made is not lost for it.
      log_warning("{}: neither speed nor memory is measured: {}", v.name, e.what());
    }
  }

  // A variant that is only compared is written for the time of its measurement; one that no layout
  // holds has no figures.
  void measure_unwritten(LoadedModel& m, ReportVariant& v) {
    if (!o_.measure) return;
    Temporary scratch(beside_output(".variant"), Temporary::Kind::directory);
    fs::path path = scratch.path() / "model";
    ExportOptions e;
    e.layout = fitting_layout(m, o_.out, {});
    try {
      export_model(m, path, e);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::unsupported) throw;
      log_info("{}: neither speed nor memory is measured: {}", v.name, error.what());
      return;
    }
    measure_run(path, v);
  }

  void add_samples(const std::string& name, LoadedModel& m) {
    for (const std::string& prompt : o_.recipe.prompts) {
      Session session(*m.model, o_.activations, o_.kv);
      GenerateOptions g;
      g.max_tokens = kSampleTokens;
      g.sampler.temperature = 0;
      std::vector<int32_t> ids = m.encode(prompt);
      if (ids.empty()) continue;
      report_.samples.push_back({name, prompt, generate(m, session, ids, g, nullptr).text});
    }
  }

  void add_layers(const std::vector<LayerRecord>& records) {
    for (const LayerRecord& r : records)
      report_.layers.push_back({r.module, r.before, r.after, double(r.bytes_before),
                                double(r.bytes_after), r.error, r.rtn_error, r.kept,
                                r.from_inputs});
  }

  void write_report() const {
    fs::path json = o_.report;
    json.replace_extension(".json");
    write_text_file(o_.report, report_html(report_));
    write_text_file(json, report_json(report_).dump(2) + "\n");
    log_info("wrote {} and {}", o_.report.string(), json.string());
  }

  const OptimizeOptions& o_;
  std::string text_;
  std::optional<Calibration> calibration_;
  std::optional<LoadedModel> reference_;
  Report report_;
};

}  // namespace

std::string machine_description() {
  std::string line;
  std::ifstream memory("/proc/meminfo");
  double kilobytes = 0;
  if (std::getline(memory, line))
    kilobytes = std::atof(line.c_str() + line.find_first_of("0123456789"));
  utsname system{};
  ::uname(&system);
  return fmt::format("{}, {} threads, {}, {}", kernels::cpu_name(), thread_count(),
                     human_bytes(kilobytes * 1024), system.sysname);
}

Report optimize(const OptimizeOptions& options) { return Runner(options).run(); }

}  // namespace hone
