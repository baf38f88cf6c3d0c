// Adapter files beside a model: PEFT directories and GGUF LoRA files, and what makes one of the
// other.
//
// Names come from the family's slots. Between the two, the rows of B follow the base's (permuted
// for Q and K of the llama architecture), an embedding's A is transposed, and factors are said in
// another way: PEFT's s is α/r or α/√r with an α and r for each module, llama.cpp's is α/r with one
// α and r taken from the tensor. Where one α cannot say all factors, B is multiplied by the rest.
#pragma once

#include "formats/gguf_adapter.h"
#include "formats/peft.h"
#include "models/config.h"
#include "models/family.h"

namespace hone {

/// Whether a path looks like an adapter and not like a model: a directory with adapter_config.json,
/// or a GGUF file that calls itself one.
bool is_adapter(const fs::path& path);

/// A PEFT directory, or a GGUF LoRA file as one. `family` and `config` are the base's. Raises io,
/// corrupt or unsupported, naming the file and the key or tensor.
PeftAdapter read_adapter(const fs::path& path, const Family& family, const ModelConfig& config);

/// A PEFT directory of an adapter in hone's row order, which read_adapter gives.
void write_adapter_directory(const fs::path& path, const PeftAdapter& adapter, const Family& family,
                             const ModelConfig& config);

/// Rows of HF's order, where the base's matrices have another one than hone, in hone's; or, with
/// `to_hf`, back. Raises corrupt where a tensor does not fit the base, unsupported for a prefix on
/// keys of another order.
PeftAdapter reordered(PeftAdapter adapter, const Family& family, const ModelConfig& config,
                      bool to_hf, const std::string& source);

/// A LoRA file as PEFT has it; `source` names it in errors. Block types become f32. Raises
/// unsupported for another architecture or a tensor that the family has not, corrupt where rows do
/// not fit the heads.
PeftAdapter peft_from_gguf(const GgufAdapter& adapter, const Family& family,
                           const ModelConfig& config, const std::string& source);

/// The reverse. Raises unsupported, with the reason, for what a LoRA file cannot say: other
/// methods, DoRA, whole parameters, an adapted head that is the embedding.
GgufAdapter gguf_from_peft(const PeftAdapter& adapter, const Family& family,
                           const ModelConfig& config, const std::string& source);

}  // namespace hone
