// attention: sets which keys the queries of chosen layers see, in the text of Pattern: windows on
// every second layer, or on all but every sixth (Gemma 3), with attention sinks (Xiao et al. 2023,
// "StreamingLLM"). No weight changes. Layers with a window keep no keys behind it and read none.
//
// `every` and `offset` count the layers with softmax attention; several steps of a recipe add up.
// A layer's rotation stays as it is. What the family's config.json can say in its own keys, other
// tools compute the same; the rest only hone reads (models/attention_patterns.h). GGUF has no place
// for it.
#include "models/attention_patterns.h"
#include "nn/linearised_attention.h"
#include "passes/pass.h"

namespace hone {
namespace {

class AttentionPass final : public Pass {
 public:
  PassKind kind() const override { return PassKind::configure; }
  void visit_options(OptionVisitor& v) override {
    v.option("pattern", pattern_, "which keys a query sees");
    v.option("every", every_, "choose one layer of so many");
    v.option("offset", offset_, "the first that is chosen, from 0");
    v.option("keep", keep_, "the chosen layers stay, and the others change");
  }
  void check_options() const override {
    HONE_CHECK(every_ >= 1, invalid_argument, "attention: every {}: expected at least 1", every_);
    HONE_CHECK(offset_ >= 0 && offset_ < every_, invalid_argument,
               "attention: offset {}: expected 0 to {}, below every", offset_, every_ - 1);
    HONE_CHECK(!keep_ || every_ > 1, invalid_argument,
               "attention: keep with every 1 leaves nothing to change");
    check_pattern(parsed(), 1, "attention: pattern");
  }
  void check_model(const Model& m) const override {
    check_pattern(parsed(), m.context, "attention: pattern");
    int64_t softmax = 0, chosen = 0;
    for (const Block& b : m.blocks) {
      if (softmax_of(b) == nullptr) continue;
      chosen += is_chosen(softmax++) ? 1 : 0;
    }
    HONE_CHECK(softmax > 0, unsupported, "attention: {} has no layers with softmax attention",
               m.family);
    HONE_CHECK(chosen > 0, invalid_argument,
               "attention: every {} and offset {} choose none of the {} layers with softmax "
               "attention",
               every_, offset_, softmax);
  }
  void check_layout(const std::string& layout) const override {
    HONE_CHECK(layout != "gguf", unsupported, "{}", kNoPatternsInGguf);
  }
  WeightForm form(int64_t) const override { return {}; }

  void run(PassContext& c) override {
    Model& m = *c.model.model;
    check_model(m);  // a pass before this one may have changed its layers
    ModelConfig& config = c.model.config;
    std::vector<Pattern> patterns;
    bool changed = false;
    int64_t softmax = 0;
    for (int64_t i = 0; i < config.layers; ++i) {
      SoftmaxAttention* a = softmax_of(m.blocks[i]);
      if (a != nullptr && is_chosen(softmax++)) a->spec.pattern = parsed();
      patterns.push_back(a != nullptr ? a->spec.pattern : config.family_pattern(i));
      changed |= !(patterns.back() == config.family_pattern(i));
      if (c.progress) c.progress(i + 1, config.layers, "");
    }
    config.patterns = changed ? patterns : std::vector<Pattern>();
  }

 private:
  Pattern parsed() const {
    try {
      return Pattern::parse(pattern_);
    } catch (const Error& e) {
      fail(e.kind(), "attention: pattern: {}", e.what());
    }
  }
  // Null where there is none, or where it was made linear, with a window of its own.
  static SoftmaxAttention* softmax_of(const Block& b) {
    auto* a = dynamic_cast<SoftmaxAttention*>(b.mixer.get());
    return dynamic_cast<LinearisedAttention*>(a) != nullptr ? nullptr : a;
  }
  bool is_chosen(int64_t layer) const { return (layer % every_ == offset_) != keep_; }

  std::string pattern_ = "causal & (window(1024) | sinks(4))";
  int64_t every_ = 2, offset_ = 0;
  bool keep_ = false;
};

}  // namespace

std::unique_ptr<Pass> make_attention_pass() { return std::make_unique<AttentionPass>(); }

}  // namespace hone
