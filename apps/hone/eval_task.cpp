#include "eval_task.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/log.h"
#include "eval/task_result.h"

namespace hone {
namespace {

struct Answered {
  Task task;
  TaskResult result;
  std::optional<TaskResult> reference;
  std::optional<TaskComparison> comparison;
};

std::string percent(const TaskFigure& f, bool sign = false) {
  return sign ? fmt::format("{:+.2f} ± {:.2f} %", 100 * f.value, 100 * f.standard_error)
              : fmt::format("{:.2f} ± {:.2f} %", 100 * f.value, 100 * f.standard_error);
}
std::string percent(const std::optional<TaskFigure>& f, bool sign = false) {
  return f ? percent(*f, sign) : "–";
}

void print_tables(const std::vector<Answered>& all) {
  std::vector<std::vector<std::string>> rows{
      {"task", "items", "accuracy", "per character", "perplexity", "time"}};
  for (const Answered& a : all) {
    const TaskResult& r = a.result;
    rows.push_back({a.task.kind->name, fmt::format("{}", r.answers.size()), percent(r.accuracy),
                    percent(r.accuracy_norm),
                    r.perplexity ? fmt::format("{:.3f} ± {:.3f}", r.perplexity->value,
                                               r.perplexity->standard_error)
                                 : "–",
                    human_seconds(r.seconds)});
  }
  std::string text = text_table(rows);
  if (all[0].reference) {
    rows = {{"task", "reference", "difference", "gained", "lost", "other answers", "McNemar p"}};
    for (const Answered& a : all)
      rows.push_back(
          {a.task.kind->name, percent(a.reference->accuracy),
           percent(a.comparison->difference, true), fmt::format("{}", a.comparison->gained),
           fmt::format("{}", a.comparison->lost), fmt::format("{}", a.comparison->changed),
           fmt::format("{:.3g}", a.comparison->mcnemar_p)});
    text += "\n" + text_table(rows);
  }
  print_text(text);
}

void add_figure(Json& j, const std::string& name, const std::optional<TaskFigure>& f) {
  if (!f) return;
  j[name] = f->value;
  j[name + "_stderr"] = f->standard_error;  // null of one item
}

void add_figures(Json& j, const std::string& prefix, const TaskResult& r) {
  add_figure(j, prefix + "accuracy", r.accuracy);
  add_figure(j, prefix + "accuracy_norm", r.accuracy_norm);
  add_figure(j, prefix + "accuracy_bytes", r.accuracy_bytes);
  add_figure(j, prefix + "perplexity", r.perplexity);
}

Json to_json(const Answered& a, const TaskFlags& f) {
  Json j;
  j["task"] = a.task.kind->name;
  j["file"] = a.task.path;
  j["items"] = a.result.answers.size();
  j["shots"] = f.shots;
  add_figures(j, "", a.result);
  if (a.reference) {
    add_figures(j, "reference_", *a.reference);
    add_figure(j, "accuracy_difference", a.comparison->difference);
    add_figure(j, "accuracy_norm_difference", a.comparison->difference_norm);
    j["gained"] = a.comparison->gained;
    j["lost"] = a.comparison->lost;
    j["flips"] = a.comparison->gained + a.comparison->lost;
    j["changed_answers"] = a.comparison->changed;
    j["mcnemar_p"] = a.comparison->mcnemar_p;
  }
  j["truncated"] = a.result.truncated;
  j["tokens_asked"] = a.result.tokens.asked;
  j["tokens_run"] = a.result.tokens.run;
  j["seconds"] = a.result.seconds;
  return j;
}

Task load_task(const TaskFlags& f, const std::string& file) {
  Task task = read_task(file, f.kind, f.limit);
  if (f.shots == 0) return task;
  const Task pool = read_task(f.shots_file.empty() ? file : f.shots_file, task.kind->name);
  add_shots(task, pool.items, f.shots_file.empty(), f.shots);
  return task;
}

void talk(const std::vector<Answered>& all, const TaskFlags& f, const std::string& precision) {
  for (const Answered& a : all) {
    if (a.result.truncated > 0)
      log_warning("{}: {} requests did not fit the model's context and lost their beginning",
                  a.task.path, a.result.truncated);
    log_info("{}: {} of {} tokens were run", a.task.path, a.result.tokens.run,
             a.result.tokens.asked);
  }
  log_info("{} examples in front; {}", f.shots, precision);
}

}  // namespace

void TaskFlags::add(CLI::App& app) {
  CLI::Option* task = app.add_option("--task", files, "questions to answer, JSON lines; repeatable")
                          ->type_name("FILE")
                          ->group("Tasks");
  std::vector<std::string> names;
  for (const TaskKind& k : task_kinds()) names.push_back(k.name);
  auto goes_with = [&](CLI::Option* o) { return o->needs(task)->group("Tasks"); };
  goes_with(app.add_option("--task-kind", kind,
                           "what they are; else found from the fields or the file's name"))
      ->check(one_of(names))
      ->type_name("NAME");
  goes_with(app.add_option("--limit", limit, "answer so many items, 0 = all"))
      ->check(between(0, 1 << 30))
      ->type_name("N");
  CLI::Option* count = goes_with(app.add_option("--shots", shots, "examples in front of each item"))
                           ->check(between(0, 1000))
                           ->type_name("N")
                           ->capture_default_str();
  app.add_option("--shots-file", shots_file, "where they come from; the task's other items")
      ->needs(count)
      ->group("Tasks")
      ->type_name("FILE");
  goes_with(app.add_option("--samples", samples, "write what was asked and answered, JSON lines"))
      ->type_name("FILE");
}

void run_tasks(const TaskFlags& f, const ModelArgument& argument, const std::string& reference,
               bool exact_reference, const CommonOptions& common) {
  if (common.kv_list().size() > 1) throw UsageError("--task takes one type of --kv-cache");
  if (f.files.size() > 1 && !f.shots_file.empty())
    throw UsageError("--shots-file goes with one --task");
  if (!f.samples.empty()) check_new_output(f.samples);
  std::vector<Answered> all;
  for (const std::string& file : f.files) all.push_back({load_task(f, file), {}, {}, {}});
  const TaskRunOptions options{common.precision(), common.kv()};
  std::string precision, activations;
  // One model at a time: their answers are compared, not their logits.
  {
    LoadedModel model = argument.load(common);
    for (Answered& a : all) a.result = measure_task(model, a.task, options);
    precision = precision_line(model, common);
    activations = model.model->activations_used(options.activations);
  }
  if (!reference.empty()) {
    LoadedModel model = load_model(reference);
    for (Answered& a : all) {
      a.reference = measure_task(
          model, a.task, exact_reference ? TaskRunOptions{Activations::f32, KvType::f32} : options);
      a.comparison = compare_tasks(a.result, *a.reference);
    }
  }
  if (!f.samples.empty()) {
    std::string text;
    for (const Answered& a : all)
      text += task_samples(a.task, a.result, a.reference ? &*a.reference : nullptr);
    write_text_file(f.samples, text);
  }
  talk(all, f, precision);
  if (!common.json) return print_tables(all);
  Json j;
  if (all.size() == 1)
    j = to_json(all[0], f);
  else
    for (const Answered& a : all) j["tasks"].push_back(to_json(a, f));
  j["activations"] = activations;
  j["precision"] = precision;
  j["peak_rss_bytes"] = peak_rss_bytes();
  print_json(j);
}

}  // namespace hone
