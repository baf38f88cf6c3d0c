#include "eval/precision.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/log.h"

namespace hone {
namespace {

// Beyond this share of the parameters in f32 a conversion is not worth its name.
constexpr double kMostKept = 0.5;
// Longer keep lists are not tried module by module.
constexpr size_t kMostStruckOff = 12;

struct Module {
  std::string name;
  int64_t parameters = 0;
  double error = 0;
  bool overflows = false;
};

// Parts of a fused matrix have one name.
std::vector<Module> by_name(const std::vector<ModuleError>& errors) {
  std::vector<Module> all;
  std::map<std::string, size_t> at;
  for (const ModuleError& e : errors) {
    auto [it, fresh] = at.try_emplace(e.module, all.size());
    if (fresh) all.push_back({e.module});
    Module& m = all[it->second];
    m.parameters += e.parameters;
    m.error = std::max(m.error, e.output_error);
    m.overflows = m.overflows || e.overflow > 0;
  }
  return all;
}

bool within(const Predictions& p, double limit) {
  return p.non_finite == 0 && p.scores.kl_mean <= limit;
}

// Looks for the modules to keep.
class Repair {
 public:
  Repair(PrecisionWalk& walk, const FloatTarget& target, std::vector<Module> modules, double limit)
      : walk_(walk),
        target_(target),
        modules_(std::move(modules)),
        limit_(limit),
        most_runs_(
            static_cast<int64_t>(3 + std::log2(double(modules_.size() + 1)) + kMostStruckOff)),
        progress_(fmt::format("repairing {}", target.name), most_runs_) {}

  void run(TypeReport& report) {
    Judgement& j = report.cast;
    int64_t total = 0, budget = 0;
    std::vector<const Module*> forced, rest;
    for (const Module& m : modules_) {
      total += m.parameters;
      (m.overflows ? forced : rest).push_back(&m);
    }
    budget = static_cast<int64_t>(kMostKept * double(total));
    for (const Module* m : forced) budget -= m->parameters;
    if (forced.empty() && within(j.converted, limit_)) {
      j.verdict = Verdict::safe;
      return;
    }
    std::vector<const Module*> kept = forced;
    std::optional<Predictions> found;
    if (budget >= 0 && !forced.empty()) found = attempt(kept);
    if (budget >= 0 && (!found || !within(*found, limit_)))
      found = search(forced, rest, budget, kept);
    j.repaired = found;
    if (runs_ > 0) progress_.update(most_runs_);
    if (!found || !within(*found, limit_)) return;
    j.verdict = Verdict::safe_with;
    int64_t parameters = 0;
    for (const Module& m : modules_)
      if (std::find(kept.begin(), kept.end(), &m) != kept.end()) {
        j.keep.push_back(m.name);
        parameters += m.parameters;
      }
    report.kept_share = total > 0 ? double(parameters) / double(total) : 0;
  }

 private:
  Predictions attempt(const std::vector<const Module*>& kept) {
    PrecisionVariant v{target_, {}, false, {}};
    for (const Module* m : kept) v.keep.insert(m->name);
    Predictions p = walk_.run({&v, 1}, nullptr)[0];
    progress_.update(++runs_, fmt::format("{} kept, KL {:.2g}", kept.size(), p.scores.kl_mean));
    return p;
  }

  // What helps most is kept first. Keeping more is taken to never make it worse.
  Predictions search(const std::vector<const Module*>& forced, std::vector<const Module*> rest,
                     int64_t budget, std::vector<const Module*>& kept) {
    std::stable_sort(rest.begin(), rest.end(),
                     [](const Module* a, const Module* b) { return a->error > b->error; });
    std::vector<const Module*> order;
    for (const Module* m : rest)
      if (m->parameters <= budget && m->error > 0) {
        order.push_back(m);
        budget -= m->parameters;
      }
    auto first = [&](size_t n) {
      std::vector<const Module*> some = forced;
      for (size_t i = 0; i < n; ++i) some.push_back(order[i]);
      return some;
    };
    Predictions best = attempt(first(order.size()));
    kept = first(order.size());
    if (order.empty() || !within(best, limit_)) return best;
    size_t bad = 0, enough = order.size();
    while (enough - bad > 1) {
      size_t middle = (bad + enough) / 2;
      Predictions p = attempt(first(middle));
      (within(p, limit_) ? enough : bad) = middle;
      if (within(p, limit_)) best = p;
    }
    kept = first(enough);
    if (kept.size() - forced.size() > kMostStruckOff) return best;
    for (size_t i = kept.size() - 1; i-- > forced.size();) {
      std::vector<const Module*> fewer;
      for (const Module* m : kept)
        if (m != kept[i]) fewer.push_back(m);
      Predictions p = attempt(fewer);
      if (!within(p, limit_)) continue;
      kept = fewer;
      best = p;
    }
    return best;
  }

  PrecisionWalk& walk_;
  const FloatTarget& target_;
  std::vector<Module> modules_;
  double limit_;
  int64_t most_runs_, runs_ = 0;
  Progress progress_;
};

std::string percent(double share) { return fmt::format("{:.3g} %", 100 * share); }

void find_departure(const std::vector<ActivationSite>& sites, size_t type, double departure,
                    Judgement& j) {
  for (const ActivationSite& s : sites) {
    double d = s.departure[type];
    if (!s.result || d <= departure) continue;
    j.first_site = s.name;
    j.first_reason = std::isnan(d) ? "not finite" : "departs by " + percent(d);
    return;
  }
}

Judgement judge_held(PrecisionWalk& walk, const std::vector<ActivationSite>& sites, size_t type,
                     const TypeReport& report, double limit) {
  Judgement j;
  const FloatTarget& target = report.target;
  PrecisionVariant v{target, {report.cast.keep.begin(), report.cast.keep.end()}, true, {}};
  j.converted = walk.run({&v, 1}, nullptr)[0];
  for (const ActivationSite& s : sites) {
    if (s.held[type].overflow == 0) continue;
    if (j.first_site.empty()) {
      j.first_site = s.name;
      j.first_reason = fmt::format("reaches {:.5g}, beyond {:.5g}", s.absmax, target.largest);
    }
    v.keep_held.insert(s.name);
  }
  bool lost = !v.keep_held.empty() && !target.saturates;
  if (within(j.converted, limit) && !lost) {
    j.verdict = Verdict::safe;
    return j;
  }
  if (v.keep_held.empty()) return j;
  j.repaired = walk.run({&v, 1}, nullptr)[0];
  if (!within(*j.repaired, limit)) return j;
  j.verdict = Verdict::safe_with;
  for (const ActivationSite& s : sites)
    if (v.keep_held.contains(s.name)) j.keep.push_back(s.name);
  return j;
}

}  // namespace

const char* verdict_name(Verdict v) {
  if (v == Verdict::safe) return "safe";
  return v == Verdict::safe_with ? "safe with these in f32" : "not safe";
}

PrecisionReport measure_precision(LoadedModel& model,
                                  const std::vector<std::vector<int32_t>>& samples,
                                  const PrecisionOptions& options) {
  HONE_CHECK(!options.types.empty(), invalid_argument, "no type to convert to");
  std::vector<PrecisionVariant> variants;
  for (const std::string& type : options.types)
    variants.push_back({float_target(type, options.row_scaled), {}, false, {}});
  variants.push_back({last_bit_target(), {}, false, {}});

  PrecisionWalk walk(*model.model, samples);
  PrecisionRecord record;
  std::vector<Predictions> predictions;
  {
    Progress progress("comparing the casts", std::ssize(model.model->blocks) + 2);
    predictions =
        walk.run(variants, &record, [&](int64_t done, int64_t) { progress.update(done); });
  }
  PrecisionReport report;
  report.samples = std::ssize(samples);
  report.noise = predictions.back();
  report.tokens = report.noise.scores.tokens;
  report.perplexity = report.noise.scores.reference_perplexity;
  report.limit = std::max(
      options.max_kl, std::isnan(report.noise.scores.kl_mean) ? 0.0 : report.noise.scores.kl_mean);
  report.sites = std::move(record.sites);
  for (size_t i = 0; i < options.types.size(); ++i) {
    TypeReport t;
    t.target = variants[i].target;
    t.tensors = std::move(record.tensors[i]);
    for (const TensorCast& c : t.tensors) t.weights.add(c.counts);
    t.cast.converted = predictions[i];
    find_departure(report.sites, i, options.departure, t.cast);
    Repair(walk, t.target, by_name(record.modules[i]), report.limit).run(t);
    if (t.cast.verdict != Verdict::not_safe)
      t.held = judge_held(walk, report.sites, i, t, report.limit);
    report.types.push_back(std::move(t));
  }
  // What is left is the noise.
  for (ActivationSite& s : report.sites) {
    s.held.pop_back();
    s.departure.pop_back();
  }
  return report;
}

}  // namespace hone
