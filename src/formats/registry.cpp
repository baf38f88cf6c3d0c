// The table of checkpoint layouts.
#include "formats/checkpoint.h"
#include "formats/file_util.h"
#include "formats/printable.h"

namespace hone {
namespace layout_entry {
const Layout& gguf();
const Layout& awq();
const Layout& compressed_tensors();
const Layout& fp8();
const Layout& modelopt();
const Layout& hqq();
const Layout& gptq();
const Layout& gptq_v2();
const Layout& bitsandbytes();
const Layout& rwkv_cpp();
const Layout& hf();
}  // namespace layout_entry

std::span<const Layout> layouts() {
  // "hf" comes last: it names the quantisation method of a directory that nobody above knows.
  static const Layout kLayouts[] = {
      layout_entry::rwkv_cpp(),           layout_entry::gguf(), layout_entry::hqq(),
      layout_entry::modelopt(),           layout_entry::fp8(),  layout_entry::awq(),
      layout_entry::compressed_tensors(), layout_entry::gptq(), layout_entry::gptq_v2(),
      layout_entry::bitsandbytes(),       layout_entry::hf(),
  };
  return kLayouts;
}

const Layout& layout(std::string_view name) {
  std::string known;
  for (const Layout& l : layouts()) {
    if (l.name == name) return l;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", l.name);
  }
  fail(ErrorKind::unsupported, "no checkpoint layout {}; known: {}", printable(name), known);
}

std::shared_ptr<const Checkpoint> open_checkpoint(const fs::path& path) {
  HONE_CHECK(file_exists(path), io, "{}: no such file or directory", path.string());
  for (const Layout& l : layouts())
    if (l.can_open != nullptr && l.can_open(path)) return l.open(path);
  fail(ErrorKind::unsupported, "{}: neither a GGUF file nor a directory with config.json",
       path.string());
}

void check_contents(std::string_view name, const CheckpointContents& contents) {
  const Layout& l = layout(name);
  HONE_CHECK(l.write != nullptr, unsupported, "the layout {} is only read, not written", name);
  for (const WeightInfo& w : contents.weights) {
    std::string reason = l.refusal(w);
    HONE_CHECK(reason.empty(), unsupported, "weight {} does not fit the layout {}: {}",
               printable(w.name), name, reason);
  }
  if (l.check_together != nullptr) l.check_together(contents);
}

void write_checkpoint(std::string_view name, const fs::path& path,
                      const CheckpointContents& contents) {
  check_contents(name, contents);
  check_new_output(path);
  HONE_CHECK(name != "gguf" || !file_exists(path), invalid_argument,
             "{}: a directory; GGUF is one file", path.string());
  layout(name).write(path, contents);
}

}  // namespace hone
