#include "nn/registry.h"

namespace hone {

std::unique_ptr<Mixer> make_eagle(const MixerSpec& spec);
std::unique_ptr<Mixer> make_finch(const MixerSpec& spec);
std::unique_ptr<Mixer> make_goose(const MixerSpec& spec);
std::unique_ptr<Mixer> make_mamba2(const MixerSpec& spec);
std::unique_ptr<Mixer> make_gated_delta(const MixerSpec& spec);
std::unique_ptr<Mixer> make_gated_rwkv_channels(const MixerSpec& spec);
std::unique_ptr<Mixer> make_rwkv_channels(const MixerSpec& spec);
std::unique_ptr<Mixer> make_segment(const MixerSpec& spec);
std::unique_ptr<Mixer> make_transformer_xl(const MixerSpec& spec);
std::unique_ptr<Mixer> make_infini(const MixerSpec& spec);

std::span<const MixerKind> mixer_kinds() {
  static constexpr MixerKind kKinds[] = {
      {"eagle", make_eagle},
      {"finch", make_finch},
      {"goose", make_goose},
      {"mamba2", make_mamba2},
      {"gated_delta", make_gated_delta},
      {"gated_rwkv_channels", make_gated_rwkv_channels},
      {"rwkv_channels", make_rwkv_channels},
      {"segment", make_segment},
      {"transformer_xl", make_transformer_xl},
      {"infini", make_infini},
  };
  return kKinds;
}

std::unique_ptr<Mixer> make_mixer(std::string_view name, const MixerSpec& spec) {
  for (const MixerKind& k : mixer_kinds())
    if (name == k.name) return k.make(spec);
  fail(ErrorKind::internal, "no mixer is called '{}'", name);
}

}  // namespace hone
