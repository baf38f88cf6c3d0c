// Adapter: a fine-tuning method's parameters in one model, and its files.
//
// A new method is one file that subclasses Adapter and one line in registry.cpp. It hooks into the
// model's layers (nn/adapter.h), lists what is trained, and knows how PEFT names and stores it.
// Several adapters may be in one model; each has a weight that its contribution is multiplied by,
// so that they are switched and mixed while the model runs.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/options.h"
#include "formats/peft.h"
#include "nn/model.h"

namespace hone {

struct AdapterOptions {
  int64_t rank = 16;
  double alpha = 16;
  double dropout = 0;
  bool rslora = false;
  std::string targets = "all-linear";  ///< names with commas between, or all-linear
  int64_t virtual_tokens = 20;
  bool projection = false;  ///< prefix: trained through an MLP, which is dropped afterwards
  int64_t hidden = 512;     ///< width of that MLP
  int64_t reduction = 16;   ///< bottleneck: width of the model / width of the adapter
  std::string nonlinearity = "relu";
  /// prefix, prompt: begin with the keys and values, or the embeddings, of these tokens, again and
  /// again; empty: with random values, or embeddings of random tokens.
  std::vector<int32_t> first_tokens;
  uint64_t seed = 0;

  void visit(OptionVisitor& v);
  /// Raises invalid_argument on what makes no sense.
  void check() const;
  PeftModules modules() const;
};

class Adapter {
 public:
  virtual ~Adapter() = default;
  /// As in the registry: "lora".
  virtual std::string_view method() const = 0;
  /// What is trained, under the names of its file; it requires gradients from now on.
  virtual std::vector<NamedTensor> train() = 0;
  /// The values were written to: what is made of them is made anew.
  virtual void values_changed() = 0;
  /// Multiplies what it adds; 0 switches it off. Raises unsupported where a method has no such
  /// factor and the weight is not 0 or 1.
  virtual void set_weight(float weight) = 0;
  /// As PEFT keeps it.
  virtual PeftAdapter save() const = 0;
  /// Why it cannot be merged into the weights (sign 1) or taken out again (−1); empty where it can.
  virtual std::string merge_refusal(int /*sign*/) const { return {}; }
  /// Puts what it does to `layer` into values [out, in] and bias ([out] or an empty handle); takes
  /// it out with sign −1. Nothing where it does not touch the layer.
  virtual void merge(const Linear&, Tensor&, Tensor&, int /*sign*/) const {}
  /// The same for the embedding's table, values [V, D]. A head that is tied to it is not meant: it
  /// multiplies by the plain table.
  virtual void merge_embedding(Tensor&, int /*sign*/) const {}
};

struct AdapterMethod {
  const char* name;
  const char* summary;
  /// Whether a PEFT directory holds this method.
  bool (*reads)(const PeftConfig& config);
  /// A new one with its published initial values, hooked into the model.
  std::unique_ptr<Adapter> (*make)(Model& model, const AdapterOptions& options);
  /// The one in a PEFT directory; raises corrupt or unsupported naming the tensor or key.
  std::unique_ptr<Adapter> (*load)(Model& model, const PeftAdapter& files);
};

std::span<const AdapterMethod> adapter_methods();
/// Raises invalid_argument naming the known ones.
const AdapterMethod& adapter_method(std::string_view name);
/// Finds the method of a PEFT directory and hooks it into the model. Parameters that the files hold
/// whole (adapters/parameters.h) take the place of the model's. Raises corrupt or unsupported
/// naming `source` and the tensor or key.
std::unique_ptr<Adapter> load_adapter(Model& model, const PeftAdapter& files,
                                      const std::string& source = {});

/// A Linear as PEFT sees it: the module's name, and which rows of that module's weight it has (a
/// fused q, k and v is three Linears here).
struct PeftModule {
  std::string name;
  std::vector<Linear*> parts;
  int64_t in_features() const { return parts[0]->in_features(); }
  int64_t out_features() const;
};
/// In model order; the head last.
std::vector<PeftModule> peft_modules(Model& model);

/// Raises corrupt where the files hold fewer numbers than their configuration asks for: before
/// memory is taken for them.
void check_elements(const PeftAdapter& files, double wanted);

/// The tensors of a method in a PEFT directory, each to be used once.
class TensorsOnce {
 public:
  explicit TensorsOnce(const PeftAdapter& files);
  /// Copies one, of any float type, to `to` (f32); raises corrupt where it is missing or has
  /// another number of elements.
  void copy(const PeftTensorName& name, Tensor& to);
  /// Raises unsupported, naming one that nobody asked for.
  void check_all_used() const;

 private:
  std::map<std::string, Tensor> tensors_;
};

}  // namespace hone
