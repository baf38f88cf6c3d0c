#include "passes/merge.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "adapters/adapter.h"
#include "base/log.h"
#include "base/memory.h"
#include "models/adapter_file.h"
#include "models/export.h"
#include "models/generate.h"
#include "passes/optimize.h"
#include "passes/pass.h"

namespace hone {
namespace {

LoadedModel load_canonical(const fs::path& path) {
  LoadOptions options;
  options.inference = false;
  return load_model(path, options);
}

bool is_float(const std::string& encoding) {
  return encoding == "f32" || encoding == "f16" || encoding == "bf16";
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.byte_size() == b.byte_size() &&
         (a.raw() == b.raw() ||
          std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size())) == 0);
}

bool same_weight(const Weight& a, const Weight& b) {
  if (a.encoding != b.encoding || a.params != b.params || a.planes.size() != b.planes.size())
    return false;
  return std::ranges::all_of(a.planes, [&](const auto& plane) {
    return b.planes.contains(plane.first) && same_bytes(plane.second, b.planes.at(plane.first));
  });
}

double distance(const Tensor& a, const Tensor& b) {
  const float *x = a.data<float>(), *y = b.data<float>();
  double sum = 0;
  for (int64_t i = 0; i < a.numel(); ++i) sum += (double{x[i]} - y[i]) * (double{x[i]} - y[i]);
  return std::sqrt(sum);
}

double length(const Tensor& a) {
  double sum = 0;
  for (int64_t i = 0; i < a.numel(); ++i) sum += double{a.data<float>()[i]} * a.data<float>()[i];
  return std::sqrt(sum);
}

void check_finite(const std::string& module, const Tensor& values) {
  const float* x = values.data<float>();
  HONE_CHECK(std::all_of(x, x + values.numel(), [](float v) { return std::isfinite(v); }), corrupt,
             "{}: a merged value is not finite", module);
}

// The form of a weight that is stored again as it was. Codes of an order of their own (act_order)
// would need a solver; the natural order has none.
WeightForm own_form(const Weight& w) {
  WeightForm form{w.encoding, w.params};
  form.params.act_order = false;
  form.params.nested_offset = 0;
  return form;
}

// No chunk is longer than the model can take.
PerplexityOptions fitting(PerplexityOptions p, const Model& m) {
  p.context = std::min(p.context, m.context - m.virtual_tokens());
  return p;
}

// How a merged model stores its weights.
class Storage {
 public:
  explicit Storage(std::string encoding) : name_(std::move(encoding)) {
    if (name_.empty() || name_ == kOwnEncoding) return;
    named_.encoding = encoding_from_shorthand(name_, named_.params);
    hone::encoding(named_.encoding);
  }
  /// Of a weight that is `w` in the base; nothing where it stays as it is.
  std::optional<WeightForm> form(const Weight& w, bool changed, bool in_block) const {
    if (name_.empty() && !is_float(w.encoding)) return WeightForm{"bf16", {}};
    const bool named = !named_.encoding.empty() && (in_block || is_float(named_.encoding));
    if (named && w.encoding != named_.encoding) return named_;
    if (!changed) return std::nullopt;
    return own_form(w);
  }

 private:
  std::string name_;
  WeightForm named_;
};

// A model with its adapters beside the weights, and models made of it.
class Merger {
 public:
  explicit Merger(const MergeOptions& o) : o_(o), tuned_(load_canonical(o.model)) {
    HONE_CHECK(!o.adapters.empty(), invalid_argument, "no adapter to merge");
    const int sign = o.unmerge ? -1 : 1;
    for (const AdapterSource& source : o.adapters) {
      const std::string path = source.path.string();
      auto adapter = load_adapter(*tuned_.model,
                                  read_adapter(source.path, *tuned_.family, tuned_.config), path);
      if (source.weight != 1) adapter->set_weight(source.weight);
      const std::string refusal = adapter->merge_refusal(sign);
      HONE_CHECK(refusal.empty(), unsupported, "{}: it cannot be {}: {}", path,
                 o.unmerge ? "taken out" : "merged", refusal);
      HONE_CHECK(o.adapters.size() == 1 || adapter->method() == "lora", unsupported,
                 "{}: only LoRA is merged together with others; merge one after the other", path);
      adapters_.push_back(std::move(adapter));
    }
  }

  LoadedModel& tuned() { return tuned_; }
  int64_t adapter_bytes() const {
    int64_t n = 0;
    for (const auto& a : adapters_)
      for (const auto& [name, t] : a->save().tensors) n += t.byte_size();
    return n;
  }

  /// What is to be stored anew in `target`, a model without the adapters.
  std::map<std::string, WeightForm> plan(LoadedModel& target, const Storage& storage) {
    std::map<std::string, WeightForm> forms;
    auto add = [&](const std::string& name, const Weight& w, bool touched, bool in_block) {
      if (auto form = storage.form(w, touched, in_block)) forms[name] = *form;
    };
    Model &from = *tuned_.model, &to = *target.model;
    add(to.embedding.name(), to.embedding.weight(), touched(from.embedding, to.embedding), false);
    const std::vector<Linear*> sources = from.linears(), targets = to.linears();
    for (size_t i = 0; i < sources.size(); ++i)
      add(targets[i]->name(), targets[i]->weight(), touched(*sources[i], *targets[i]),
          targets[i] != &to.head);
    return forms;
  }

  /// Raises out_of_memory where the new weights do not fit.
  void require_room(LoadedModel& target, const std::map<std::string, WeightForm>& forms) const {
    int64_t largest = 4 * target.model->embedding.weight().numel();
    for (Linear* l : target.model->linears()) largest = std::max(largest, 4 * l->weight().numel());
    require_memory(planned_bytes(target, forms) + 4 * largest,
                   fmt::format("merging into {}", target.path));
  }

  /// Merges into `target`; what changed goes to `layers`.
  void run(LoadedModel& target, const Storage& storage, std::vector<MergedLayer>& layers) {
    Model &from = *tuned_.model, &to = *target.model;
    copy_vectors(from, to);
    const std::vector<Linear*> sources = from.linears(), targets = to.linears();
    const bool tied = to.tied_head && from.tied_head && from.embedding.adapters.empty() &&
                      from.head.adapters.empty();
    if (!tied) to.tied_head = false;
    run_embedding(target, storage, tied, layers);
    Progress progress("merging", std::ssize(sources));
    for (size_t i = 0; i < sources.size(); ++i) {
      const bool head = targets[i] == &to.head;
      if (!head || !tied) run_linear(*sources[i], *targets[i], storage, !head, layers);
      progress.update(static_cast<int64_t>(i) + 1);
    }
  }

 private:
  template <typename Layer>
  static bool touched(const Layer& from, const Layer& to) {
    return !from.adapters.empty() || !same_weight(from.weight(), to.weight());
  }

  // Norms and positions that an adapter's file holds; else they are the same.
  static void copy_vectors(Model& from, Model& to) {
    to.position_table = from.position_table;
    auto copy = [](const Norm& a, Norm& b) {
      b.weight = a.weight;
      b.bias = a.bias;
    };
    copy(from.final_norm, to.final_norm);
    for (size_t i = 0; i < from.blocks.size(); ++i) {
      const std::vector<Norm*> a = from.blocks[i].norms(), b = to.blocks[i].norms();
      for (size_t j = 0; j < a.size(); ++j) copy(*a[j], *b[j]);
    }
  }

  template <typename F>
  void each_adapter(F f) const {
    const auto n = std::ssize(adapters_);
    for (int64_t i = 0; i < n; ++i) f(*adapters_[size_t(o_.unmerge ? n - 1 - i : i)]);
  }
  int sign() const { return o_.unmerge ? -1 : 1; }

  void run_embedding(LoadedModel& target, const Storage& storage, bool tied,
                     std::vector<MergedLayer>& layers) {
    Embedding &from = tuned_.model->embedding, &to = target.model->embedding;
    const bool touches = touched(from, to);
    if (!touches && !storage.form(to.weight(), false, false)) return;
    const Tensor before = decode_weight(to.weight());
    Tensor values = before;
    if (touches) {
      values = decode_weight(from.weight()).clone();
      each_adapter([&](const Adapter& a) { a.merge_embedding(values, sign()); });
    }
    Weight w = stored(from.name(), to.weight(), before, values, storage, false, layers);
    if (tied) target.model->head.set_weight(w);
    to.set_weight(std::move(w));
  }

  void run_linear(const Linear& from, Linear& to, const Storage& storage, bool in_block,
                  std::vector<MergedLayer>& layers) {
    const bool touches = touched(from, to);
    if (!from.bias().empty_handle()) to.set_bias(from.bias());
    if (!touches && !storage.form(to.weight(), false, in_block)) return;
    const Tensor before = decode_weight(to.weight());
    Tensor values = before;
    if (touches) {
      values = decode_weight(from.weight()).clone();
      Tensor bias = from.bias().empty_handle() ? Tensor() : from.bias().clone();
      each_adapter([&](const Adapter& a) { a.merge(from, values, bias, sign()); });
      if (!bias.empty_handle()) {
        check_finite(to.name(), bias);
        to.set_bias(bias);
      }
    }
    Weight w = stored(to.name(), to.weight(), before, values, storage, in_block, layers);
    for (const auto& [name, plane] : to.weight().planes) plane.release_pages();
    to.set_weight(std::move(w));
  }

  // `values` in their form; `own` and `before` are what the base has.
  Weight stored(const std::string& module, const Weight& own, const Tensor& before,
                const Tensor& values, const Storage& storage, bool in_block,
                std::vector<MergedLayer>& layers) const {
    const bool changed = distance(values, before) > 0;  // −0 is no change of 0
    HONE_CHECK(!changed || !o_.unmerge || is_float(own.encoding), unsupported,
               "{}: it is stored as {}; adapters are taken out of floats only", module,
               own.encoding);
    check_finite(module, values);
    const auto form = storage.form(own, changed, in_block);
    if (!form) return own;
    Weight w = encode_module(module, values, *form);
    if (!changed) return w;
    MergedLayer layer;
    layer.module = module;
    layer.before = own.encoding;
    layer.after = w.encoding;
    layer.bytes_before = own.byte_size();
    layer.bytes_after = w.byte_size();
    const Tensor got = decode_weight(w);
    const double change = distance(values, before), base = length(before);
    layer.change = base > 0 ? change / base : std::numeric_limits<double>::infinity();
    layer.ratio = distance(got, values) / change;
    layer.error = relative_error(values, got);
    layers.push_back(std::move(layer));
    return w;
  }

  const MergeOptions& o_;
  LoadedModel tuned_;
  std::vector<std::unique_ptr<Adapter>> adapters_;
};

// The encoding of most values of the blocks.
std::string main_encoding(LoadedModel& m) {
  std::map<std::string, int64_t> counts;
  for (Linear* l : m.model->linears())
    if (l != &m.model->head) counts[l->weight().encoding] += l->weight().numel();
  return std::ranges::max_element(counts, {}, [](const auto& c) { return c.second; })->first;
}

void write_report(const MergeOptions& o, LoadedModel& model, const MergeChoice& merged) {
  Report r;
  r.title = o.unmerge ? "Adapters taken out" : "Merge report";
  r.model = model.name;
  r.architecture = fmt::format("{}, {} layers, width {}", model.family->name, model.config.layers,
                               model.config.width);
  r.parameters = model.model->parameter_count();
  r.machine = machine_description();
  r.text = o.text.filename().string();
  r.context = fitting(o.evaluate, *model.model).context;
  r.convention = convention_name(o.evaluate.convention);
  r.hone_version = HONE_VERSION;
  ReportVariant v;
  v.name = merged.name;
  v.is_output = true;
  v.model_bytes = static_cast<double>(merged.bytes);
  v.bits_per_weight = 8 * v.model_bytes / static_cast<double>(r.parameters);
  if (merged.quality) {
    const Perplexity& q = *merged.quality;
    ReportVariant tuned;
    tuned.name = "unmerged";
    tuned.is_original = true;
    tuned.perplexity = q.reference_perplexity;
    r.variants.push_back(tuned);
    v.perplexity = q.perplexity;
    v.perplexity_stderr = q.standard_error;
    v.bits_per_byte = q.bits_per_byte;
    v.kl_mean = q.kl_mean;
    v.kl_median = q.kl_median;
    v.kl_p99 = q.kl_p99;
    v.top1_agreement = q.top1_agreement;
    v.rms_dp = q.rms_dp;
    v.max_dp = q.max_dp;
  }
  r.variants.push_back(v);
  r.notes.push_back(fmt::format(
      "Rounding is up to {:.3g} times the adapters' change of a weight, {:.3g} times on average; "
      "in {} of {} weights it is as large as the change or larger, and the tune is lost there.",
      merged.worst_ratio(), merged.mean_ratio(), merged.erased(), merged.layers.size()));
  for (const MergedLayer& l : merged.layers)
    r.layers.push_back({l.module, l.before, l.after, double(l.bytes_before), double(l.bytes_after),
                        l.error, kNotMeasured, merged.name, false});
  fs::path json = o.report;
  json.replace_extension(".json");
  write_text_file(o.report, report_html(r));
  write_text_file(json, report_json(r).dump(2) + "\n");
  log_info("wrote {} and {}", o.report.string(), json.string());
}

// What the tuned model itself says, where there is no text to measure on.
std::string written_text(LoadedModel& m, const MergeOptions& o, int64_t tokens) {
  if (m.tokenizer == nullptr) return {};
  Session session(*m.model, o.evaluate.activations, o.evaluate.kv);
  GenerateOptions g;
  g.max_tokens = tokens;
  g.sampler.temperature = 1;
  g.sampler.seed = o.seed;
  g.ignore_end = true;
  const std::vector<int32_t> start{m.tokenizer->bos().value_or(m.tokenizer->eos().value_or(0))};
  return generate(m, session, start, g, nullptr).text;
}

std::string times(double x) { return fmt::format("{:.{}f}", x, x < 10 ? 1 : 0); }

}  // namespace

double MergeChoice::worst_ratio() const {
  double worst = 0;
  for (const MergedLayer& l : layers) worst = std::max(worst, l.ratio);
  return worst;
}

double MergeChoice::mean_ratio() const {
  double sum = 0;
  for (const MergedLayer& l : layers) sum += l.ratio;
  return layers.empty() ? 0 : sum / static_cast<double>(layers.size());
}

int64_t MergeChoice::erased() const {
  return std::ranges::count_if(layers, [](const MergedLayer& l) { return l.ratio >= 1; });
}

MergeChoice merge_adapters(const MergeOptions& o) {
  Merger merger(o);
  LoadedModel target = load_canonical(o.model);
  const Storage storage(o.encoding);
  const auto plan = merger.plan(target, storage);
  ExportOptions e;
  e.layout = o.layout.empty() ? fitting_layout(target, o.out, plan) : o.layout;
  check_export(target, e, plan);
  merger.require_room(target, plan);
  const std::string text = o.text.empty() ? "" : read_text_file(o.text);
  MergeChoice merged;
  merger.run(target, storage, merged.layers);
  if (merged.layers.empty()) log_warning("the adapters change no weight");
  merged.name = o.unmerge ? "taken out" : "merged";
  merged.bytes = weight_bytes(target);
  if (!text.empty()) merged.quality = measure_perplexity(target, text, o.evaluate, &merger.tuned());
  export_model(target, o.out, e);
  log_info("wrote {} ({}, {})", o.out.string(), e.layout, human_bytes(double(merged.bytes)));
  if (!o.report.empty()) write_report(o, target, merged);
  return merged;
}

MergeAdvice advise_merge(const MergeOptions& o) {
  HONE_CHECK(!o.unmerge, invalid_argument, "there is nothing to choose in taking adapters out");
  Merger merger(o);
  MergeAdvice advice;
  PerplexityOptions evaluate = fitting(o.evaluate, *merger.tuned().model);
  std::string text;
  if (!o.text.empty()) {
    text = read_text_file(o.text);
    advice.measured_on = o.text.filename().string();
  } else {
    constexpr int64_t kTokens = 256;
    evaluate.context = std::min(kTokens, evaluate.context - 1);
    evaluate.convention = PerplexityConvention::hf;
    text = written_text(merger.tuned(), o, evaluate.context);
    if (!text.empty()) advice.measured_on = "a text that the tuned model wrote";
  }
  auto measure = [&](LoadedModel& m) -> std::optional<Perplexity> {
    if (text.empty()) return std::nullopt;
    return measure_perplexity(m, text, evaluate, &merger.tuned());
  };
  LoadedModel base = load_canonical(o.model);
  const std::string own = main_encoding(base);
  MergeChoice separate, untuned;
  separate.name = "separate";
  untuned.name = "untuned";
  untuned.bytes = weight_bytes(base);
  untuned.quality = measure(base);
  separate.bytes = untuned.bytes + merger.adapter_bytes();
  if (!text.empty()) {
    LoadedModel& tuned = merger.tuned();
    separate.quality = measure_perplexity(tuned, text, evaluate, &tuned);
  }
  advice.choices.push_back(separate);
  std::vector<std::string> encodings{"bf16", "f16", "q8_0"};
  if (std::ranges::find(encodings, own) == encodings.end()) encodings.push_back(kOwnEncoding);
  for (const std::string& encoding : encodings) {
    MergeChoice c;
    const bool is_own = encoding == own || encoding == kOwnEncoding;
    c.name = is_own ? own + ", the base's own" : encoding;
    log_info("trying {}", c.name);
    try {
      LoadedModel target = load_canonical(o.model);
      const Storage storage(is_own ? kOwnEncoding : encoding);
      merger.require_room(target, merger.plan(target, storage));
      merger.run(target, storage, c.layers);
      c.bytes = weight_bytes(target);
      c.quality = measure(target);
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::unsupported) throw;
      c = {c.name, e.what(), 0, {}, std::nullopt};
    }
    advice.choices.push_back(std::move(c));
  }
  advice.choices.push_back(untuned);
  advice.recommendation = merge_recommendation(advice.choices);
  return advice;
}

std::string merge_recommendation(const std::vector<MergeChoice>& choices) {
  // What the rounding may take from a tune: of its effect on the predictions where that was
  // measured, else of its change of any weight.
  constexpr double kOfEffect = 0.05, kOfChange = 0.25;
  HONE_ASSERT(choices.size() >= 2);
  const MergeChoice &separate = choices.front(), &untuned = choices.back();
  const double effect = untuned.quality ? untuned.quality->kl_mean : 0;
  auto lost = [&](const MergeChoice& c) {
    return effect > 0 && c.quality ? c.quality->kl_mean / effect : c.worst_ratio();
  };
  const bool measured = effect > 0;
  const double limit = measured ? kOfEffect : kOfChange;
  const MergeChoice *best = nullptr, *erasing = nullptr;
  for (size_t i = 1; i + 1 < choices.size(); ++i) {
    const MergeChoice& c = choices[i];
    if (!c.refusal.empty()) continue;
    const bool better = best == nullptr || c.bytes < best->bytes ||
                        (c.bytes == best->bytes && lost(c) < lost(*best));
    if (lost(c) <= limit && better) best = &c;
    if (c.erased() > 0 && (erasing == nullptr || c.erased() > erasing->erased())) erasing = &c;
  }
  auto loses = [&](const MergeChoice& c) {
    if (measured) return fmt::format("it loses {:.2g} % of the tune's effect", 100 * lost(c));
    return fmt::format("rounding is at most {} times the change", times(c.worst_ratio()));
  };
  std::string text;
  const double more = best == nullptr ? 0 : double(best->bytes) / double(separate.bytes);
  if (best == nullptr)
    text = "Keep the adapter separate: every merged form loses too much of the tune.";
  else if (more <= 1.05)
    text = fmt::format("Merge into {}: {}, and it is the smallest that keeps the tune.", best->name,
                       loses(*best));
  else
    text = fmt::format(
        "Keep the adapter separate: merging loses little only in {} ({}), at {} times the bytes.",
        best->name, loses(*best), times(more));
  if (erasing != nullptr)
    text += fmt::format(
        " {} would erase it in {} of {} weights, where rounding is up to {} times the change.",
        erasing->name, erasing->erased(), erasing->layers.size(), times(erasing->worst_ratio()));
  return text;
}

}  // namespace hone
