// GGUF LoRA files, the adapters of llama.cpp.
//
//   general.type = "adapter", general.architecture = the base's, adapter.type = "lora",
//   adapter.lora.alpha = α (f32)
//   <tensor of the base>.lora_a [r, in], .lora_b [out, r]
//   token_embd.weight.lora_a [vocabulary, r], .lora_b [width, r]
//
// The reader scales by α/r, r being each pair's own, and by 1 where α is 0: rsLoRA's α/√r is a file
// whose α is α·√r, where all ranks are the same. Rows of B stand in the order of the base's rows in
// GGUF (permuted for Q and K of the llama architecture); this file moves tensors as they are. Not
// read: adapters other than LoRA, aLoRA, and tensors that are no half of a pair (adapted norms).
#pragma once

#include <string>
#include <vector>

#include "formats/gguf.h"

namespace hone {

struct GgufLoraPair {
  std::string name;  ///< of the base's tensor: "blk.0.attn_q.weight"
  Weight a, b;       ///< floats or block types, of the shapes above
  /// A is looked up by token; its rows are the vocabulary, not the rank.
  bool embedding() const;
  int64_t rank() const;
};

struct GgufAdapter {
  std::string architecture;  ///< "llama", ...
  float alpha = 0;
  /// The file's metadata in order, for an adapter that was read; may be empty.
  std::vector<GgufEntry> metadata;
  std::vector<GgufLoraPair> pairs;  ///< in file order

  /// What B·A of a pair is multiplied by.
  double scale(const GgufLoraPair& pair) const;
};

/// Whether the file calls itself an adapter ("general.type").
bool is_gguf_adapter(const GgufFile& file);

/// Raises io, corrupt or unsupported, naming the file and the key or tensor. Weights borrow the
/// map. The pairs are whole and agree in their rank; whether they fit a model is not known here.
GgufAdapter read_gguf_adapter(const fs::path& path);

/// Writes the file, complete and synced, or nothing. The metadata keep their order, the four keys
/// above get their values from the adapter, those of alignment and splits are left out. Raises what
/// reading it would, before anything is written.
void write_gguf_adapter(const fs::path& path, const GgufAdapter& adapter);

}  // namespace hone
