#include "passes/pass.h"

#include <cmath>

#include "base/error.h"

namespace hone {
namespace {

// '*' any text, '?' one character.
bool glob_match(std::string_view glob, std::string_view text) {
  size_t g = 0, t = 0, star = std::string_view::npos, mark = 0;
  while (t < text.size()) {
    if (g < glob.size() && (glob[g] == '?' || glob[g] == text[t])) {
      ++g;
      ++t;
    } else if (g < glob.size() && glob[g] == '*') {
      star = g++;
      mark = t;
    } else if (star != std::string_view::npos) {
      g = star + 1;
      t = ++mark;
    } else {
      return false;
    }
  }
  while (g < glob.size() && glob[g] == '*') ++g;
  return g == glob.size();
}

}  // namespace

bool ModuleFilter::matches(std::string_view module) const {
  std::string_view rest = glob_;
  while (true) {
    size_t bar = rest.find('|');
    if (glob_match(rest.substr(0, bar), module)) return true;
    if (bar == std::string_view::npos) return false;
    rest.remove_prefix(bar + 1);
  }
}

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

Weight encode_module(const std::string& module, const Tensor& values, const std::string& id,
                     const EncodeOptions& options) {
  const Encoding& e = encoding(id);
  int64_t n = values.dim(0), k = values.dim(1);
  std::string refusal = e.encode_refusal(n, k, options.params);
  HONE_CHECK(refusal.empty(), unsupported, "{}: cannot be stored as {}: {}", module, id, refusal);
  return e.encode(values.data<float>(), n, k, options);
}

void replace_weight(PassContext& c, Linear& l, Weight w, const Tensor& values, const char* kept) {
  LayerRecord r;
  r.module = l.name();
  r.before = l.weight().encoding;
  r.bytes_before = l.weight().byte_size();
  r.after = w.encoding;
  r.bytes_after = w.byte_size();
  r.error = relative_error(values, decode_weight(w));
  r.rtn_error = std::nan("");
  r.kept = kept;
  if (c.records) c.records->push_back(r);
  for (const auto& [name, plane] : l.weight().planes) plane.release_pages();
  l.set_weight(std::move(w));
}

void for_each_weight(PassContext& c, bool embedding_by_default, bool head_by_default,
                     const char* kept,
                     const std::function<Weight(const std::string&, const Tensor&)>& change) {
  Model& m = *c.model.model;
  auto blocks = static_cast<int64_t>(m.blocks.size());
  for (int64_t unit = std::max<int64_t>(c.first_unit, -1); unit < blocks; ++unit) {
    if (unit == -1 && c.embedding_selected(embedding_by_default)) {
      Tensor values = decode_weight(m.embedding.weight());
      LayerRecord r;
      r.module = m.embedding.name();
      r.before = m.embedding.weight().encoding;
      r.bytes_before = m.embedding.weight().byte_size();
      Weight w = change(m.embedding.name(), values);
      r.after = w.encoding;
      r.bytes_after = w.byte_size();
      r.error = relative_error(values, decode_weight(w));
      r.rtn_error = std::nan("");
      r.kept = kept;
      if (c.records) c.records->push_back(r);
      m.embedding.set_weight(w);
      if (m.tied_head) m.head.set_weight(std::move(w));
    }
    for (Linear* l : c.selected(unit, head_by_default)) {
      Tensor values = decode_weight(l->weight());
      replace_weight(c, *l, change(l->name(), values), values, kept);
    }
    if (c.unit_done) c.unit_done(unit);
    if (c.progress) c.progress(unit + 2, blocks + 1, "");
  }
}

}  // namespace hone
