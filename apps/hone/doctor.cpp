// hone doctor: what is wrong with a checkpoint, and a mended copy of it.
#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <algorithm>

#include "base/files.h"
#include "base/log.h"
#include "command.h"
#include "models/doctor.h"
#include "models/export.h"

namespace hone {
namespace doctor_command {

struct DoctorFlags {
  std::string model, out;
};

const char* level_name(const Finding& f) {
  return f.level == Finding::Level::fault ? "fault" : "remark";
}

Json findings_json(const std::vector<Finding>& findings) {
  Json list = Json::array();
  for (const Finding& f : findings)
    list.push_back({{"level", level_name(f)},
                    {"check", f.check},
                    {"module", f.module},
                    {"text", f.text},
                    {"mendable", f.mendable}});
  return list;
}

std::string findings_table(const std::vector<Finding>& findings) {
  std::vector<std::vector<std::string>> rows{{"level", "check", "where", "what"}};
  for (const Finding& f : findings)
    rows.push_back({level_name(f), f.check, f.module.empty() ? "the model" : f.module,
                    f.text + (f.mendable ? " (mendable)" : "")});
  return text_table(rows, Columns::words);
}

// Writes the copy; says what was done to it.
std::vector<Finding> write_mended(const DoctorFlags& f) {
  LoadOptions only_read;
  only_read.inference = false;
  LoadedModel m = load_model(f.model, only_read);
  std::vector<Finding> done = mend(m);
  ExportOptions o;
  o.layout = m.layout;
  export_model(m, f.out, o);
  return done;
}

void run(const DoctorFlags& f, const CommonOptions& common) {
  if (!f.out.empty()) check_new_output(f.out);
  std::unique_ptr<Progress> progress;
  std::vector<Finding> findings = examine(f.model, [&](int64_t done, int64_t total) {
    if (!progress) progress = std::make_unique<Progress>("examining", total);
    progress->update(done);
  });
  progress.reset();
  const auto faults = std::ranges::count(findings, Finding::Level::fault, &Finding::level);
  Json result = {{"faults", faults}, {"findings", findings_json(findings)}};
  if (!common.json) print_text(findings.empty() ? "nothing found\n" : findings_table(findings));
  if (!f.out.empty()) {
    const std::vector<Finding> done = write_mended(f);
    result["mended"] = findings_json(done);
    result["out"] = f.out;
    log_info("wrote {} ({} mended)", f.out, done.size());
  }
  if (common.json) print_json(result);
  // A copy is the answer to the faults; what it could not mend, examining it tells.
  HONE_CHECK(faults == 0 || !f.out.empty(), corrupt, "{}: {} fault{} found", f.model, faults,
             faults == 1 ? "" : "s");
}

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  auto f = std::make_shared<DoctorFlags>();
  add_model(app, f->model);
  app.add_option("--out", f->out, "write a copy in the same layout with what can be mended")
      ->type_name("PATH");
  return [f, &common] { run(*f, common); };
}

}  // namespace doctor_command

extern const Command kDoctorCommand;
const Command kDoctorCommand{"doctor", "find what is wrong with a checkpoint, and mend it",
                             doctor_command::add};

}  // namespace hone
