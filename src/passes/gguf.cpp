// gguf: llama.cpp's file types ("Q4_K_M"): each matrix gets the block type that llama.cpp's rules
// (formats/gguf_file_type.h) give to it, the embedding and the head included.
//
// With `importance`, the encoders that search weigh each column by the mean square of the inputs
// that it multiplies over the calibration, llama.cpp's importance matrix; here a stage sees the
// inputs that the encoded earlier ones give, so that a resumed run needs no more than the model.
// With `imatrix`, the weights come from a file of llama.cpp's. The embedding has no inputs, and the
// head is left without weights, as llama.cpp leaves it.
#include <map>

#include "base/log.h"
#include "encodings/encoding.h"
#include "formats/file_util.h"
#include "formats/gguf_file_type.h"
#include "formats/imatrix.h"
#include "models/export_gguf.h"
#include "passes/calibration_walk.h"
#include "passes/pass.h"

namespace hone {
namespace {

class Gguf final : public Pass {
 public:
  PassKind kind() const override { return PassKind::encode; }
  bool needs_calibration() const override { return importance_; }
  bool ends_by_default() const override { return true; }
  void visit_options(OptionVisitor& v) override {
    v.option("type", type_, "a file type of llama.cpp: Q4_K_M, IQ4_XS, ...");
    v.option("embeddings", embeddings_, "encoding of the embedding, if not the type's choice");
    v.option("head", head_, "encoding of an untied head, if not the type's choice");
    v.option("importance", importance_, "weigh columns by their inputs over the calibration");
    v.option("imatrix", imatrix_, "weigh columns by this importance matrix of llama.cpp (GGUF)");
  }
  void check_options() const override {
    HONE_CHECK(find_gguf_file_type(type_) != nullptr, invalid_argument, "gguf: {}",
               unknown_gguf_file_type(type_));
    for (const std::string& id : {embeddings_, head_}) {
      WeightParams ignored;
      if (!id.empty()) encoding(encoding_from_shorthand(id, ignored));
    }
    HONE_CHECK(!importance_ || imatrix_.empty(), invalid_argument,
               "gguf: importance and imatrix: one of them");
    HONE_CHECK(imatrix_.empty() || file_exists(imatrix_), invalid_argument,
               "gguf: imatrix {}: no such file", imatrix_);
  }
  std::optional<uint32_t> gguf_file_type() const override { return file_type().number; }

  WeightForm form(int64_t k) const override { return {gguf_fallback(file_type().base, k), {}}; }
  WeightForm form_of(const LoadedModel& m, const std::string& module, int64_t k) const override {
    const Model& model = *m.model;
    WeightForm chosen;
    if (!embeddings_.empty() && module == model.embedding.name()) {
      chosen.encoding = encoding_from_shorthand(embeddings_, chosen.params);
      return chosen;
    }
    if (!head_.empty() && module == model.head.name()) {
      chosen.encoding = encoding_from_shorthand(head_, chosen.params);
      return chosen;
    }
    GgufMixModel mix;
    if (!m.family->gguf_architectures.empty()) mix.architecture = m.family->gguf_architectures[0];
    mix.layers = m.config.layers;
    mix.queries_per_value = m.config.kv_heads > 0 ? m.config.heads / m.config.kv_heads : 1;
    mix.tied_head = model.tied_head;
    mix.importances = importance_ || !imatrix_.empty();
    return {gguf_tensor_type(file_type(), mix, gguf_tensor_name(m, module), k), {}};
  }

  void run(PassContext& c) override;

 private:
  const GgufFileType& file_type() const { return *find_gguf_file_type(type_); }
  void warn_of_fallbacks(const PassContext& c) const;
  void run_weighed(PassContext& c);
  void encode_stage(PassContext& c, CalibrationWalk& walk, const std::vector<Linear*>& selected);

  std::string type_ = "Q4_K_M", embeddings_, head_, imatrix_;
  bool importance_ = false;
};

void Gguf::warn_of_fallbacks(const PassContext& c) const {
  const std::string base(file_type().base);
  int64_t fallen = 0, all = 0;
  std::string example;
  for (Linear* l : c.model.model->linears()) {
    ++all;
    const int64_t k = l->in_features();
    if (gguf_fallback(base, k) == base) continue;
    if (fallen++ == 0)
      example = fmt::format("{} has rows of {}, which {} cannot hold, and becomes {}", l->name(), k,
                            base, form_of(c.model, l->name(), k).encoding);
  }
  if (fallen > 0)
    log_warning("{} of {} matrices fall back to other types: {}", fallen, all, example);
}

void Gguf::run(PassContext& c) {
  warn_of_fallbacks(c);
  if (importance_) return run_weighed(c);
  if (imatrix_.empty()) return encode_each(c, *this, "gguf");
  const ImportanceMatrix matrix = read_imatrix(imatrix_);
  encode_each(c, *this, "gguf", nullptr, [&](const std::string& module) -> std::span<const float> {
    const std::string tensor = gguf_tensor_name(c.model, module);
    auto found = matrix.find(tensor);
    if (found == matrix.end()) return {};
    int64_t k = 0;
    for (Linear* l : c.model.model->linears())
      if (l->name() == module) k = l->in_features();
    if (module == c.model.model->embedding.name()) k = c.model.model->width();
    HONE_CHECK(std::ssize(found->second) == k, corrupt,
               "{}: {} has {} columns, {} has {} importances", imatrix_, module, k, tensor,
               found->second.size());
    return found->second;
  });
}

// What the linears of a stage multiply, its mean square by column; they may share it.
void Gguf::encode_stage(PassContext& c, CalibrationWalk& walk,
                        const std::vector<Linear*>& selected) {
  Block& block = c.model.model->blocks[walk.block()];
  const auto all = block.stages();
  const auto& stage = all[walk.stage()];
  const bool shared = block.shares_input(walk.stage());
  std::vector<float> importance;
  for (size_t i = 0; i < stage.size(); ++i) {
    if (std::ranges::find(selected, stage[i]) == selected.end()) continue;
    if (!shared || importance.empty()) {
      std::vector<double> sums(static_cast<size_t>(stage[i]->in_features()), 0.0);
      walk.visit_inputs(i, [&](const Tensor& x) {
        const int64_t k = std::ssize(sums);
        const float* v = x.data<float>();
        for (int64_t at = 0; at < x.numel(); ++at)
          sums[static_cast<size_t>(at % k)] += double{v[at]} * double{v[at]};
      });
      importance.clear();
      const auto tokens = static_cast<double>(c.calibration->tokens());
      for (double s : sums) importance.push_back(static_cast<float>(s / tokens));
    }
    Linear* l = stage[i];
    Tensor values = decode_weight(l->weight());
    const WeightForm form = form_of(c.model, l->name(), values.dim(1));
    replace_weight(c, *l, encode_module(l->name(), values, form, importance), values, "gguf");
  }
}

void Gguf::run_weighed(PassContext& c) {
  if (c.first_unit < 0) {
    encode_ends(c, *this, "gguf");
    if (c.unit_done) c.unit_done(-1);
  }
  each_calibrated_block(c, [&](CalibrationWalk& walk) {
    const std::vector<Linear*> selected = c.selected(walk.block(), false);
    const bool last = walk.in_last_block();
    for (int stage = 0; stage < Block::kStages; ++stage) {
      encode_stage(c, walk, selected);
      if (stage + 1 < Block::kStages || !last) walk.advance();
    }
  });
}

}  // namespace

std::unique_ptr<Pass> make_gguf_pass() { return std::make_unique<Gguf>(); }

}  // namespace hone
