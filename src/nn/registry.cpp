#include "nn/registry.h"

namespace hone {

std::span<const MixerKind> mixer_kinds() { return {}; }

std::unique_ptr<Mixer> make_mixer(std::string_view name, const MixerSpec& spec) {
  for (const MixerKind& k : mixer_kinds())
    if (name == k.name) return k.make(spec);
  fail(ErrorKind::internal, "no mixer is called '{}'", name);
}

}  // namespace hone
