// "bitsandbytes": directories that transformers wrote after load_in_4bit or load_in_8bit.
//
// 4 bits ("nf4", "fp4"), for a weight X.weight of N·K elements in flat blocks:
//   X.weight                  u8 [ceil(NK/2), 1], or the same bytes under a float type
//   X.weight.absmax           f32 [blocks]; u8 where the scales are quantised themselves
//   X.weight.quant_map        f32 [16]
//   X.weight.nested_absmax    f32 [ceil(blocks/256)]  \ double quantisation only
//   X.weight.nested_quant_map f32 [256]               /
//   X.weight.quant_state.bitsandbytes__nf4 (or __fp4)   u8: JSON with block size, shape, offset
// 8 bits ("int8_row"): X.weight i8 [N, K], X.SCB f32 [N], X.weight_format u8 [] = 0.
// This file reads; bitsandbytes_writer.cpp writes.
#include "formats/bitsandbytes.h"

#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "formats/hf_directory.h"
#include "formats/json_fields.h"
#include "formats/printable.h"
#include "tensor/code_tables.h"

namespace hone {
namespace bitsandbytes {

constexpr std::string_view kState = ".quant_state.bitsandbytes__";
constexpr int64_t kMaxState = 65536;
constexpr int64_t kMaxElements = int64_t{1} << 56;

class BitsandbytesCheckpoint final : public HfCheckpoint {
 public:
  explicit BitsandbytesCheckpoint(const fs::path& directory)
      : HfCheckpoint(directory, "bitsandbytes") {
    for (const std::string& name : tensors_.names()) {
      if (size_t at = name.rfind(kState); at != std::string::npos) hide_4bit(name.substr(0, at));
      if (name.ends_with(".SCB")) hide_8bit(name.substr(0, name.size() - 4));
    }
  }

  Weight weight(const std::string& name) const override {
    for (const char* type : {"nf4", "fp4"})
      if (std::string state = name + std::string(kState) + type; tensors_.has(state))
        return four_bit(name, type, state);
    if (name.ends_with(".weight")) {
      std::string module = name.substr(0, name.size() - 7);
      if (tensors_.has(module + ".SCB")) return eight_bit(module);
    }
    return HfCheckpoint::weight(name);
  }

 private:
  void hide_4bit(const std::string& name) {
    for (const char* part : {".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map",
                             ".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4"})
      names_.erase(name + part);
  }
  void hide_8bit(const std::string& module) {
    names_.erase(module + ".SCB");
    names_.erase(module + ".weight_format");
  }

  Weight eight_bit(const std::string& module) const {
    Weight w;
    Tensor codes = part(module + ".weight", {DType::i8}, {-1, -1});
    if (std::string format = module + ".weight_format"; tensors_.has(format)) {
      Tensor t = tensors_.tensor(format);
      HONE_CHECK(t.dtype() == DType::u8 && t.numel() == 1 && t.data<uint8_t>()[0] == 0, unsupported,
                 "{}: tensor {}: only the row-major format (0) is supported", path.string(),
                 printable(format));
    }
    w.shape = codes.shape();
    w.encoding = "int8_row";
    w.params.bits = 8;
    w.planes["codes"] = codes;
    w.planes["scales"] = part(module + ".SCB", {DType::f32}, {codes.dim(0)});
    return w;
  }

  Json read_state(const std::string& state) const {
    Tensor t = part(state, {DType::u8}, {-1});
    HONE_CHECK(t.numel() <= kMaxState, corrupt, "{}: tensor {}: {} bytes of JSON", path.string(),
               printable(state), t.numel());
    Json json = parse_json({reinterpret_cast<const char*>(t.raw()), static_cast<size_t>(t.numel())},
                           path.string() + ": " + state);
    HONE_CHECK(json.is_object(), corrupt, "{}: tensor {}: expected a JSON object", path.string(),
               printable(state));
    return json;
  }

  Weight four_bit(const std::string& name, const std::string& type,
                  const std::string& state) const {
    Json json = read_state(state);
    std::string source = path.string() + ": " + state;
    const Json* shape = find_field(json, "shape");
    bool matrix = shape != nullptr && shape->is_array() && shape->size() == 2;
    for (size_t i = 0; matrix && i < 2; ++i)
      matrix = (*shape)[i].is_number_unsigned() && (*shape)[i].get<uint64_t>() < (1ull << 40);
    HONE_CHECK(matrix, corrupt, "{}: \"shape\": expected two sizes", source);
    HONE_CHECK(string_field(json, "quant_type", type, source) == type, corrupt,
               "{}: \"quant_type\": expected {}", source, type);

    Weight w;
    w.shape = shape->get<Shape>();
    w.encoding = type;
    w.params.bits = 4;
    w.params.block = int_field(json, "blocksize", 0, source);
    int64_t numel = checked_mul(w.shape[0], w.shape[1], name.c_str());
    HONE_CHECK(w.params.block > 0 && w.params.block <= (1 << 20) && w.params.block % 2 == 0 &&
                   numel > 0 && numel <= kMaxElements,
               corrupt, "{}: blocks of {} elements for {}", source, w.params.block,
               shape_string(w.shape));
    int64_t blocks = ceil_div(numel, w.params.block);
    w.planes["codes"] = flat_bytes(name, ceil_div(numel, 2));
    check_table(name + ".quant_map", type == "nf4" ? nf4_table() : fp4_table());
    w.params.double_quant = tensors_.has(name + ".nested_absmax");
    if (w.params.double_quant) {
      w.planes["absmax"] = part(name + ".absmax", {DType::u8}, {blocks});
      add_nested(w, name, blocks, json, source);
    } else {
      w.planes["absmax"] = part(name + ".absmax", {DType::f32}, {blocks});
    }
    return w;
  }

  void add_nested(Weight& w, const std::string& name, int64_t blocks, const Json& json,
                  const std::string& source) const {
    HONE_CHECK(int_field(json, "nested_blocksize", 256, source) == 256, unsupported,
               "{}: only a \"nested_blocksize\" of 256 is supported", source);
    w.params.nested_offset = static_cast<float>(float_field(json, "nested_offset", 0, source));
    HONE_CHECK(std::isfinite(w.params.nested_offset), corrupt, "{}: \"nested_offset\": not finite",
               source);
    w.planes["nested_absmax"] =
        part(name + ".nested_absmax", {DType::f32}, {ceil_div(blocks, 256)});
    // Maps made on other machines may differ in the last bit: then the file's own is kept.
    if (check_table(name + ".nested_quant_map", signed_dynamic_table())) return;
    w.planes["nested_map"] = tensors_.tensor(name + ".nested_quant_map");
  }

  /// The bytes of a tensor of any type, which must number `size`.
  Tensor flat_bytes(const std::string& name, int64_t size) const {
    HONE_CHECK(tensors_.has(name), corrupt, "{}: the tensor {} is missing", path.string(),
               printable(name));
    Tensor t = tensors_.tensor(name);
    HONE_CHECK(t.byte_size() >= size && t.byte_size() - size < dtype_size(t.dtype()), corrupt,
               "{}: tensor {}: expected {} bytes, got {}", path.string(), printable(name), size,
               t.byte_size());
    if (!t.borrowed()) {
      Tensor copy = Tensor::empty({size}, DType::u8);
      std::memcpy(copy.mutable_raw(), t.raw(), static_cast<size_t>(size));
      return copy;
    }
    return Tensor::borrow({size}, DType::u8, {t.raw(), static_cast<size_t>(size)},
                          std::make_shared<Tensor>(t));
  }

  /// Whether the stored table equals the standard one bit for bit; corrupt where it is another.
  template <size_t kSize>
  bool check_table(const std::string& name, const std::array<float, kSize>& standard) const {
    Tensor t = part(name, {DType::f32}, {static_cast<int64_t>(kSize)});
    bool equal = true;
    for (size_t i = 0; i < kSize; ++i) {
      float value = t.data<float>()[i];
      HONE_CHECK(std::fabs(value - standard[i]) <= 1e-6f, unsupported,
                 "{}: tensor {}: entry {} is {}, expected {}", path.string(), printable(name), i,
                 value, standard[i]);
      equal = equal && value == standard[i];
    }
    return equal;
  }
};

bool can_open(const fs::path& path) { return is_hf_directory(path, "bitsandbytes"); }

std::unique_ptr<Checkpoint> open(const fs::path& path) {
  return std::make_unique<BitsandbytesCheckpoint>(path);
}

}  // namespace bitsandbytes

namespace layout_entry {

const Layout& bitsandbytes() {
  static constexpr Layout kLayout = {
      "bitsandbytes",         "directory of transformers' load_in_4bit or load_in_8bit",
      bitsandbytes::can_open, bitsandbytes::open,
      bitsandbytes_refusal,   write_bitsandbytes,
      check_bitsandbytes};
  return kLayout;
}

}  // namespace layout_entry
}  // namespace hone
