// "hf": a Hugging Face directory of plain floats, one tensor a weight, each in its own float type.
#include "formats/file_util.h"
#include "formats/hf_directory.h"
#include "formats/printable.h"

namespace hone {
namespace hf {

bool can_open(const fs::path& path) { return file_exists(path / "config.json"); }

std::unique_ptr<Checkpoint> open(const fs::path& path) {
  std::string source = (path / "config.json").string();
  std::string method = quant_method(read_hf_config(path), source);
  std::string known;
  for (const Layout& l : layouts()) known += fmt::format("{}{}", known.empty() ? "" : ", ", l.name);
  HONE_CHECK(method.empty(), unsupported,
             "{}: the quantisation method {} is not supported; known layouts: {}", source,
             printable(method), known);
  return std::make_unique<HfCheckpoint>(path, "hf");
}

std::string refusal(const WeightInfo& weight) {
  if (is_float_encoding(weight.encoding)) return float_refusal(weight);
  return fmt::format(
      "{} weights have no plain float form; give a float type to decode to (--decode-to), or a "
      "layout "
      "that holds them",
      weight.encoding);
}

void write(const fs::path& path, const CheckpointContents& contents) {
  std::vector<HfPiece> pieces;
  for (const WeightInfo& w : contents.weights) pieces.push_back(float_piece(w));
  write_hf_directory(path, contents, nullptr, pieces);
}

}  // namespace hf

namespace layout_entry {

const Layout& hf() {
  static constexpr Layout kLayout = {
      "hf",         "Hugging Face directory, plain floats in safetensors",
      hf::can_open, hf::open,
      hf::refusal,  hf::write,
      nullptr};
  return kLayout;
}

}  // namespace layout_entry
}  // namespace hone
