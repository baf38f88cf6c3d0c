#include "passes/pass.h"

#include <cmath>

#include "base/error.h"
#include "base/glob.h"
#include "passes/calibration_walk.h"

namespace hone {
bool ModuleFilter::matches(std::string_view module) const { return glob_matches(glob_, module); }

std::vector<Linear*> PassContext::selected(int64_t block, bool head) const {
  std::vector<Linear*> out;
  Model& m = *model.model;
  if (block < 0) {
    // A tied head is the embedding under another name; it changes with it.
    bool wanted = modules.empty() ? head : modules.matches(m.head.name());
    if (wanted && !m.tied_head) out.push_back(&m.head);
    return out;
  }
  for (auto& stage : m.blocks[block].stages())
    for (Linear* l : stage)
      if (modules.empty() || modules.matches(l->name())) out.push_back(l);
  return out;
}

bool PassContext::embedding_selected(bool by_default) const {
  const Model& m = *model.model;
  if (modules.empty()) return by_default;
  return modules.matches(m.embedding.name()) || (m.tied_head && modules.matches(m.head.name()));
}

const PassEntry& pass_named(const std::string& name) {
  std::string known;
  for (const PassEntry& e : pass_registry()) {
    if (name == e.name) return e;
    known += (known.empty() ? "" : ", ") + std::string(e.name);
  }
  fail(ErrorKind::invalid_argument, "no pass is called '{}'; there are {}", name, known);
}

double relative_error(const Tensor& a, const Tensor& b) {
  const float *x = a.data<float>(), *y = b.data<float>();
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    double d = double{x[i]} - y[i];
    difference += d * d;
    norm += double{x[i]} * x[i];
  }
  return norm > 0 ? difference / norm : 0;
}

Weight encode_module(const std::string& module, const Tensor& values, const WeightForm& form,
                     std::span<const float> importance) {
  const Encoding& e = encoding(form.encoding);
  int64_t n = values.dim(0), k = values.dim(1);
  std::string refusal = e.encode_refusal(n, k, form.params);
  HONE_CHECK(refusal.empty(), unsupported, "{}: cannot be stored as {}: {}", module, form.encoding,
             refusal);
  EncodeOptions options;
  options.params = form.params;
  options.importance = importance;
  return e.encode(values.data<float>(), n, k, options);
}

namespace {

LayerRecord record_of(const std::string& module, const Weight& before, const Weight& after,
                      const Tensor& values, const char* kept) {
  LayerRecord r;
  r.module = module;
  r.before = before.encoding;
  r.bytes_before = before.byte_size();
  r.after = after.encoding;
  r.bytes_after = after.byte_size();
  r.error = relative_error(values, decode_weight(after));
  r.rtn_error = std::nan("");
  r.kept = kept;
  return r;
}

}  // namespace

void each_calibrated_block(PassContext& c,
                           const std::function<void(CalibrationWalk& walk)>& change) {
  HONE_ASSERT(c.calibration != nullptr);
  const auto blocks = static_cast<int64_t>(c.model.model->blocks.size());
  CalibrationWalk walk(*c.model.model, *c.calibration);
  for (int64_t b = 0; b < blocks; ++b) {
    if (b < c.first_unit) {
      walk.finish_block();
    } else {
      change(walk);
      if (c.unit_done) c.unit_done(b);
    }
    if (c.progress) c.progress(b + 1, blocks, fmt::format("block {} of {}", b + 1, blocks));
  }
}

WeightForm integer_form(int64_t bits, int64_t group, bool symmetric, int64_t k) {
  WeightForm f{"int_group", {}};
  f.params.bits = static_cast<int>(bits);
  f.params.group = group == k ? 0 : group;
  f.params.symmetric = symmetric;
  return f;
}

void replace_weight(PassContext& c, Linear& l, Weight w, const Tensor& values, const char* kept) {
  if (c.records) c.records->push_back(record_of(l.name(), l.weight(), w, values, kept));
  for (const auto& [name, plane] : l.weight().planes) plane.release_pages();
  l.set_weight(std::move(w));
}

namespace {

// The modules of one unit, each encoded by `encoded`.
void encode_unit(PassContext& c, const Pass& pass, const char* kept, int64_t unit,
                 const EncodeModule& encoded) {
  Model& m = *c.model.model;
  if (unit == -1 && c.embedding_selected(pass.ends_by_default())) {
    const std::string& name = m.embedding.name();
    Tensor values = decode_weight(m.embedding.weight());
    Weight w = encoded(name, values);
    if (c.records) c.records->push_back(record_of(name, m.embedding.weight(), w, values, kept));
    m.embedding.set_weight(w);
    if (m.tied_head) m.head.set_weight(std::move(w));
  }
  for (Linear* l : c.selected(unit, pass.ends_by_default())) {
    Tensor values = decode_weight(l->weight());
    replace_weight(c, *l, encoded(l->name(), values), values, kept);
  }
}

}  // namespace

void encode_each_by(PassContext& c, const Pass& pass, const char* kept,
                    const EncodeModule& encoded) {
  auto blocks = static_cast<int64_t>(c.model.model->blocks.size());
  for (int64_t unit = std::max<int64_t>(c.first_unit, -1); unit < blocks; ++unit) {
    encode_unit(c, pass, kept, unit, encoded);
    if (c.unit_done) c.unit_done(unit);
    if (c.progress) c.progress(unit + 2, blocks + 1, "");
  }
}

void encode_each(PassContext& c, const Pass& pass, const char* kept,
                 const std::function<void(Tensor& values)>& adjust,
                 const std::function<std::span<const float>(const std::string&)>& importance) {
  encode_each_by(c, pass, kept, [&](const std::string& module, const Tensor& values) {
    WeightForm form = pass.form_of(c.model, module, values.dim(1));
    std::span<const float> weights;
    if (importance) weights = importance(module);
    if (!adjust) return encode_module(module, values, form, weights);
    Tensor changed = values.clone();
    adjust(changed);
    return encode_module(module, changed, form, weights);
  });
}

void encode_ends(PassContext& c, const Pass& pass, const char* kept) {
  encode_unit(c, pass, kept, -1, [&](const std::string& module, const Tensor& values) {
    return encode_module(module, values, pass.form_of(c.model, module, values.dim(1)));
  });
}

}  // namespace hone
