// The table of passes.
#include "passes/pass.h"

namespace hone {

std::unique_ptr<Pass> make_rotate_pass();
std::unique_ptr<Pass> make_gqa_pass();
std::unique_ptr<Pass> make_linearise_pass();
std::unique_ptr<Pass> make_attention_pass();
std::unique_ptr<Pass> make_cast_pass();
std::unique_ptr<Pass> make_magnitude_pass();
std::unique_ptr<Pass> make_wanda_pass();
std::unique_ptr<Pass> make_sparsegpt_pass();
std::unique_ptr<Pass> make_rtn_pass();
std::unique_ptr<Pass> make_gguf_pass();
std::unique_ptr<Pass> make_gptq_pass();
std::unique_ptr<Pass> make_hqq_pass();
std::unique_ptr<Pass> make_awq_pass();
std::unique_ptr<Pass> make_smoothquant_pass();
std::unique_ptr<Pass> make_nf4_pass();
std::unique_ptr<Pass> make_fp4_pass();
std::unique_ptr<Pass> make_int8_pass();

std::span<const PassEntry> pass_registry() {
  static const PassEntry kPasses[] = {
      {"rotate", "fuse random orthogonal rotations: the same function, without outliers",
       make_rotate_pass},
      {"gqa", "merge key/value heads: MHA to GQA or MQA (Ainslie et al. 2023)", make_gqa_pass},
      {"linearise", "a window and linear attention behind it (Zhang et al. 2024, LoLCATs)",
       make_linearise_pass},
      {"attention", "set which keys layers see: windows, sinks, local and global layers",
       make_attention_pass},
      {"cast", "store weights in another float type", make_cast_pass},
      {"magnitude", "set the smallest weights to zero", make_magnitude_pass},
      {"wanda", "set to zero what is small times its inputs (Sun et al. 2023)", make_wanda_pass},
      {"sparsegpt", "set to zero with error feedback (Frantar and Alistarh 2023)",
       make_sparsegpt_pass},
      {"rtn", "round to nearest in any encoding", make_rtn_pass},
      {"gguf", "llama.cpp's file types: a block type for each tensor", make_gguf_pass},
      {"gptq", "integers with error feedback from calibration (Frantar et al. 2023)",
       make_gptq_pass},
      {"hqq", "integers with float zero points, no calibration (Badri and Shaji 2023)",
       make_hqq_pass},
      {"awq", "scales and clips by activations, then integers (Lin et al. 2023)", make_awq_pass},
      {"smoothquant", "int8 weights for int8 activations without outliers (Xiao et al. 2023)",
       make_smoothquant_pass},
      {"nf4", "bitsandbytes' 4-bit normal float (Dettmers et al. 2023)", make_nf4_pass},
      {"fp4", "bitsandbytes' 4-bit float", make_fp4_pass},
      {"int8", "bitsandbytes' row-wise int8 (Dettmers et al. 2022)", make_int8_pass},
  };
  return kPasses;
}

}  // namespace hone
