// Prompt tuning (Lester et al. 2021): trained embeddings E [n, D] in front of every sequence. They
// begin as the embeddings of a text, or of random tokens.
#include <algorithm>
#include <utility>

#include "adapters/adapter.h"
#include "base/random.h"
#include "ops/dense.h"

namespace hone {
namespace prompt {

class PromptAdapter : public Adapter {
 public:
  PromptAdapter(PeftAdapter files, Model& model, Tensor values)
      : files_(std::move(files)), model_(model), values_(std::move(values)) {
    model_.prompt = values_;
  }

  std::string_view method() const override { return "prompt"; }
  std::vector<NamedTensor> train() override {
    values_.require_gradient();
    model_.prompt = values_;
    return {{"prompt_embeddings", values_}};
  }
  void values_changed() override {}
  void set_weight(float weight) override {
    HONE_CHECK(weight == 0 || weight == 1, unsupported,
               "prompt tuning is on or off: it has no weight {}", weight);
    model_.prompt = weight == 0 ? Tensor() : values_;
  }
  PeftAdapter save() const override {
    PeftAdapter out = files_;
    out.tensors["prompt_embeddings"] = values_.detached();
    return out;
  }
  std::string merge_refusal(int) const override {
    return "a prompt is embeddings, not a change of weights";
  }

 private:
  PeftAdapter files_;
  Model& model_;
  Tensor values_;
};

std::unique_ptr<Adapter> make(Model& model, const AdapterOptions& o) {
  const int64_t n = o.virtual_tokens;
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i)
    ids.push_back(o.first_tokens.empty()
                      ? static_cast<int32_t>(random_uniform(o.seed, uint64_t(i)) *
                                             static_cast<double>(model.vocabulary()))
                      : o.first_tokens[size_t(i) % o.first_tokens.size()]);
  Tensor values = model.embedding.forward(ids).detached();
  if (model.embedding_scale != 1) values = ops::scale(values, model.embedding_scale);
  PeftAdapter files;
  PeftConfig& c = files.config;
  c.peft_type = "PROMPT_TUNING";
  c.task_type = "CAUSAL_LM";
  c.num_virtual_tokens = n;
  c.num_layers = std::ssize(model.blocks);
  c.token_dim = model.width();
  return std::make_unique<PromptAdapter>(std::move(files), model, values);
}

std::unique_ptr<Adapter> load(Model& model, const PeftAdapter& files) {
  const PeftConfig& c = files.config;
  HONE_CHECK(c.num_virtual_tokens > 0 && c.num_virtual_tokens <= 65536, corrupt,
             "the adapter's num_virtual_tokens is {}", c.num_virtual_tokens);
  Tensor values = Tensor::empty({c.num_virtual_tokens, model.width()}, DType::f32);
  TensorsOnce tensors(files);
  tensors.copy({"", "prompt_embeddings"}, values);
  tensors.check_all_used();
  return std::make_unique<PromptAdapter>(files, model, values);
}

bool reads(const PeftConfig& c) { return c.peft_type == "PROMPT_TUNING"; }

}  // namespace prompt

extern const AdapterMethod kPromptMethod;
const AdapterMethod kPromptMethod{"prompt", "embeddings in front of every sequence", prompt::reads,
                                  prompt::make, prompt::load};

}  // namespace hone
