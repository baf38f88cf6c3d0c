// hone::v1's work on files, over the passes, the exporter and the hub.
#include "hone/optimize.h"

#include "base/files.h"
#include "hub/pull.h"
#include "models/export.h"
#include "passes/optimize.h"

namespace hone::v1 {

void optimize(const OptimizeOptions& options) {
  hone::OptimizeOptions o;
  o.model = options.model;
  o.recipe = parse_recipe(options.recipe, "recipe");
  o.out = options.out;
  o.calibration = options.calibration;
  o.seed = options.seed;
  o.resume = options.resume;
  hone::optimize(o);
}

void convert(const std::string& model, const std::string& layout, const std::string& out,
             const std::string& decode_to) {
  check_new_output(out);
  LoadOptions load;
  load.inference = false;
  LoadedModel m = load_model(model, load);
  ExportOptions o;
  o.layout = layout;
  o.decode_to = decode_to;
  export_model(m, out, o);
}

std::string pull(const PullOptions& options) {
  hone::PullOptions o;
  o.name = options.name;
  o.revision = options.revision;
  o.include = options.include;
  o.exclude = options.exclude;
  o.version = HONE_VERSION;
  return pull_model(HubSettings::from_environment(), o).snapshot.string();
}

}  // namespace hone::v1
