#include "train/dwq.h"

#include "encodings/encoding.h"
#include "ops/tape.h"

namespace hone {
namespace {

class TrainedScales final : public WeightSource {
 public:
  explicit TrainedScales(Weight w) : base_(std::move(w)), encoding_(encoding(base_.encoding)) {
    encoding_.validate(base_);
    for (NamedTensor& t : encoding_.scales(base_)) {
      names_.push_back(t.name);
      scales_.push_back(t.value);
      scales_.back().require_gradient();
    }
  }

  Weight weight() override { return encoding_.with_scales(base_, scales_); }

  void backward(const Tensor& dw) override {
    const std::vector<Tensor> gradients = encoding_.decode_vjp(base_, dw);
    for (size_t i = 0; i < scales_.size(); ++i) add_gradient(scales_[i], gradients[i]);
  }

  void append(const std::string& module, std::vector<Parameter>& all) const {
    for (size_t i = 0; i < scales_.size(); ++i)
      all.push_back({module + "." + names_[i], scales_[i], false});
  }

 private:
  Weight base_;  // whose codes they are
  const Encoding& encoding_;
  std::vector<std::string> names_;
  std::vector<Tensor> scales_;
};

}  // namespace

DwqParameters prepare_dwq(Model& model, const std::function<bool(const std::string&)>& select) {
  DwqParameters made;
  for (Linear* l : model.linears()) {
    if (select != nullptr && !select(l->name())) continue;
    const Weight& w = l->weight();
    HONE_ASSERT(w.defined());
    std::string refusal = encoding(w.encoding).scales_refusal(w);
    if (refusal.empty() && l == &model.head && model.tied_head)
      refusal = "it is tied to the embedding";
    if (!refusal.empty()) {
      made.refused.emplace_back(l->name(), w.encoding + ": " + refusal);
      continue;
    }
    auto source = std::make_shared<TrainedScales>(w);
    source->append(l->name(), made.parameters);
    l->set_source(source);
  }
  HONE_CHECK(!made.parameters.empty(), unsupported, "no scales can be trained: {}",
             made.refused.empty() ? "no layer is selected"
                                  : made.refused[0].first + ": " + made.refused[0].second);
  return made;
}

void convert_dwq(Model& model) {
  for (Linear* l : model.linears()) l->set_source(nullptr);
}

}  // namespace hone
