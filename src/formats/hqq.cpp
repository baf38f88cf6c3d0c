// "hqq": directories of half-quadratic quantisation, as transformers' HqqConfig and the hqq library
// write them.
//
// Of W[N, K] in groups of g, a module X has X.W_q, X.scale, X.zero and, as tensors of one number or
// of the bytes of a text, nbits, group_size, axis, shape, packing, view_as_float and what the
// library keeps for itself. The flat matrix is seen as [N·K/g, g] (axis 1) or [g, N·K/g] (axis 0),
// and its rows are packed in equal parts, the first in the highest bits:
//   8bit_u8   a byte a code (5 and 6 bits, too)     4bit_u8, 2bit_u8, 1bit_u8   2, 4, 8 a byte
//   3bit_32   ten codes an i32, rows padded to a multiple of ten
// scale and zero are [N·K/g, 1] or [1, N·K/g]; w = (code − zero)·scale. view_as_float only names
// another type for W_q's bytes. Written: axis 1, groups that divide rows. Not read: scales that are
// quantised themselves.
#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "formats/bit_matrix.h"
#include "formats/hf_directory.h"
#include "formats/json_fields.h"
#include "formats/printable.h"

namespace hone {
namespace hqq {

constexpr std::string_view kCodes = ".W_q";
constexpr const char* kMeta[] = {".nbits",
                                 ".group_size",
                                 ".axis",
                                 ".shape",
                                 ".packing",
                                 ".view_as_float",
                                 ".unpack_view_dtype",
                                 ".quant_scale",
                                 ".quant_zero",
                                 ".compute_dtype",
                                 ".offload_meta",
                                 ".encoded_state_dict",
                                 ".stores_quant_config",
                                 ".channel_wise",
                                 ".optimize",
                                 ".round_zero"};

/// How codes stand in W_q.
struct Packing {
  const char* name;
  int bits;   ///< of a code in it
  int parts;  ///< codes of one element
  int64_t bytes;
};
constexpr Packing kPackings[] = {{"8bit_u8", 8, 1, 1},
                                 {"4bit_u8", 4, 2, 1},
                                 {"3bit_32", 3, 10, 4},
                                 {"2bit_u8", 2, 4, 1},
                                 {"1bit_u8", 1, 8, 1}};

const Packing& packing_for(int bits) {
  for (const Packing& p : kPackings)
    if (p.bits == bits) return p;
  return kPackings[0];
}

/// Rows of W_q: of the flat matrix's `rows` rows.
int64_t packed_rows(const Packing& p, int64_t rows) { return ceil_div(rows, p.parts); }

/// The code at [row, column] of the flat matrix, `columns` wide.
uint8_t code_at(const uint8_t* packed, const Packing& p, int64_t rows, int64_t columns, int64_t row,
                int64_t column) {
  const int64_t part = packed_rows(p, rows);
  const int64_t at = (row % part) * columns + column;
  uint32_t element = 0;
  std::memcpy(&element, packed + at * p.bytes, static_cast<size_t>(p.bytes));
  const auto shift = p.bits * (p.parts - 1 - static_cast<int>(row / part));
  return static_cast<uint8_t>(element >> shift & ((1u << p.bits) - 1));
}

class HqqCheckpoint final : public HfCheckpoint {
 public:
  explicit HqqCheckpoint(const fs::path& directory) : HfCheckpoint(directory, "hqq") {
    for (const std::string& name : tensors_.names()) {
      if (!name.ends_with(kCodes)) continue;
      const std::string module = name.substr(0, name.size() - kCodes.size());
      for (const char* meta : kMeta) names_.erase(module + meta);
      join(module + ".weight", {name, module + ".scale", module + ".zero"});
    }
  }

  Weight weight(const std::string& name) const override {
    if (!name.ends_with(".weight")) return HfCheckpoint::weight(name);
    const std::string module = module_of(name);
    return tensors_.has(module + std::string(kCodes)) ? quantised(module)
                                                      : HfCheckpoint::weight(name);
  }

 private:
  std::string where(const std::string& module) const {
    return path.string() + ": module " + printable(module);
  }

  int64_t number(const std::string& module, const char* key, int64_t missing) const {
    const std::string name = module + key;
    if (!tensors_.has(name)) return missing;
    const Tensor t = tensors_.tensor(name);
    HONE_CHECK(t.numel() == 1, corrupt, "{}: {} is {}", where(module), key + 1,
               shape_string(t.shape()));
    switch (t.dtype()) {
      case DType::i32:
        return t.data<int32_t>()[0];
      case DType::i64:
        return t.data<int64_t>()[0];
      case DType::u8:
        return t.data<uint8_t>()[0];
      default:
        fail(ErrorKind::corrupt, "{}: {} is of type {}", where(module), key + 1,
             dtype_name(t.dtype()));
    }
  }

  Packing packing(const std::string& module, int bits) const {
    const std::string name = module + ".packing";
    if (!tensors_.has(name)) return packing_for(bits);
    const Tensor t = part(name, {DType::u8}, {-1});
    const std::string_view text(reinterpret_cast<const char*>(t.raw()),
                                static_cast<size_t>(t.numel()));
    for (const Packing& p : kPackings)
      if (p.name == text && bits <= p.bits) return p;
    fail(ErrorKind::unsupported, "{}: the packing {} of {} bits", where(module),
         printable(std::string(text)), bits);
  }

  Weight quantised(const std::string& module) const {
    HONE_CHECK(number(module, ".quant_scale", 0) == 0 && number(module, ".quant_zero", 0) == 0,
               unsupported, "{}: scales that are quantised themselves are not supported",
               where(module));
    const Tensor shape = part(module + ".shape", {DType::i64}, {2});
    const int64_t n = shape.data<int64_t>()[0], k = shape.data<int64_t>()[1];
    const int64_t bits = number(module, ".nbits", 4), axis = number(module, ".axis", 1);
    const int64_t group = number(module, ".group_size", axis == 1 ? k : n);
    HONE_CHECK(n > 0 && k > 0 && bits >= 1 && bits <= 8 && (axis == 0 || axis == 1), corrupt,
               "{}: {} bits, axis {}, shape [{}, {}]", where(module), bits, axis, n, k);
    const int64_t numel = checked_mul(n, k, "hqq");
    HONE_CHECK(group > 0 && numel % group == 0, corrupt, "{}: groups of {} in [{}, {}]",
               where(module), group, n, k);
    const int64_t groups = numel / group;
    const Packing p = packing(module, static_cast<int>(bits));
    const int64_t rows = axis == 1 ? groups : group, columns = axis == 1 ? group : groups;
    const Tensor codes = tensors_.tensor(module + std::string(kCodes));
    const int64_t expected =
        checked_mul(checked_mul(packed_rows(p, rows), columns, "W_q"), p.bytes, "W_q");
    HONE_CHECK(codes.byte_size() == expected, corrupt, "{}: W_q has {} bytes, expected {}",
               where(module), codes.byte_size(), expected);

    Weight w;
    w.shape = {n, k};
    w.encoding = "hqq";
    w.params.bits = static_cast<int>(bits);
    w.params.group = group;
    w.params.block = axis == 1 ? 0 : groups;
    const Shape planes = axis == 1 && k % group == 0 ? Shape{n, k / group} : Shape{groups};
    add_floats(w, module, groups, planes);
    w.planes["codes"] = unpacked(codes, p, rows, columns, w);
    return w;
  }

  void add_floats(Weight& w, const std::string& module, int64_t groups, const Shape& shape) const {
    auto floats = [&](const char* key) {
      const std::string name = module + key;
      HONE_CHECK(tensors_.has(name), corrupt, "{}: the tensor {} is missing", path.string(),
                 printable(name));
      const Tensor t = tensors_.tensor(name);
      const bool known =
          t.dtype() == DType::f16 || t.dtype() == DType::bf16 || t.dtype() == DType::f32;
      HONE_CHECK(known && t.numel() == groups, corrupt, "{}: {} is {} {}, for {} groups",
                 where(module), key + 1, dtype_name(t.dtype()), shape_string(t.shape()), groups);
      return t.reshape(shape);
    };
    Tensor scales = floats(".scale"), zeros = floats(".zero");
    if (scales.dtype() != zeros.dtype()) {
      scales = scales.to(DType::f32);
      zeros = zeros.to(DType::f32);
    }
    w.params.scale_type = scales.dtype();
    w.planes["scales"] = scales;
    w.planes["zeros"] = zeros;
  }

  static Tensor unpacked(const Tensor& packed, const Packing& p, int64_t rows, int64_t columns,
                         const Weight& w) {
    const int64_t n = w.rows(), k = w.cols(), row = ceil_div(k * w.params.bits, 8);
    const auto* in = reinterpret_cast<const uint8_t*>(packed.raw());
    const unsigned mask = (1u << w.params.bits) - 1;
    Tensor codes = Tensor::zeros({n, row}, DType::u8);
    for (int64_t r = 0; r < n; ++r)
      for (int64_t i = 0; i < k; ++i) {
        const int64_t flat = r * k + i;
        const unsigned code = code_at(in, p, rows, columns, flat / columns, flat % columns);
        stream_set(codes.mutable_data<uint8_t>() + r * row, i, w.params.bits,
                   static_cast<uint8_t>(code & mask));
      }
    return codes;
  }
};

bool is_quantised(const WeightInfo& w) { return w.encoding == "hqq"; }

Tensor pack(const Weight& w) {
  const Packing& p = packing_for(w.params.bits);
  const int64_t group = w.params.group, k = w.cols(), row = ceil_div(k * w.params.bits, 8);
  const int64_t rows = w.numel() / group, part = packed_rows(p, rows);
  const auto* codes = w.plane("codes").data<uint8_t>();
  Tensor out = Tensor::zeros({part, group}, p.bytes == 4 ? DType::i32 : DType::u8);
  auto* to = reinterpret_cast<uint8_t*>(out.mutable_raw());
  for (int64_t flat = 0; flat < w.numel(); ++flat) {
    const int64_t r = flat / group, at = ((r % part) * group + flat % group) * p.bytes;
    const uint32_t code = stream_get(codes + flat / k * row, flat % k, w.params.bits);
    uint32_t element = 0;
    std::memcpy(&element, to + at, static_cast<size_t>(p.bytes));
    element |= code << (p.bits * (p.parts - 1 - static_cast<int>(r / part)));
    std::memcpy(to + at, &element, static_cast<size_t>(p.bytes));
  }
  return out;
}

std::string refusal(const WeightInfo& w) {
  if (is_float_encoding(w.encoding)) return float_refusal(w);
  if (!is_quantised(w)) return fmt::format("hqq holds hqq and floats, not {}", w.encoding);
  const WeightParams& p = w.params;
  if (p.group <= 0)
    return "hqq needs groups of columns: quantise by another pass, or with --load-as";
  if (p.block != 0 || w.shape[1] % p.group != 0)
    return fmt::format("groups of {} should divide the rows of {}", p.group, shape_string(w.shape));
  const Packing& packing = packing_for(p.bits);
  // The library pads threes alone.
  if (p.bits != 3 && w.shape[0] * w.shape[1] / p.group % packing.parts != 0)
    return fmt::format("the groups of {} are no multiple of {}, which {} needs",
                       shape_string(w.shape), packing.parts, packing.name);
  if (p.bits == 7) return "the library knows no 7 bits";
  return {};
}

const char* torch_name(DType dtype) {
  return dtype == DType::f16    ? "torch.float16"
         : dtype == DType::bf16 ? "torch.bfloat16"
                                : "torch.float32";
}

void add_pieces(const WeightInfo& w, std::vector<HfPiece>& pieces) {
  if (!is_quantised(w)) return pieces.push_back(float_piece(w));
  const std::string module = module_of(w.name);
  const WeightParams& p = w.params;
  const Packing& packing = packing_for(p.bits);
  const int64_t groups = w.shape[0] * w.shape[1] / p.group;
  auto add = [&](const char* suffix, DType dtype, Shape shape, auto make) {
    pieces.push_back({module + suffix, dtype, std::move(shape), &w, make});
  };
  auto constant = [&](const char* suffix, const Tensor& t) {
    add(suffix, t.dtype(), t.shape(), [t](const Weight&) { return t; });
  };
  auto text = [&](const char* suffix, const std::string& s) {
    constant(suffix, Tensor::from(std::vector<uint8_t>(s.begin(), s.end())));
  };
  auto number = [&](const char* suffix, int64_t value) {
    constant(suffix, Tensor::from<int32_t>({static_cast<int32_t>(value)}).reshape(Shape{}));
  };
  auto flag = [&](const char* suffix, bool value) {
    constant(suffix, Tensor::from<uint8_t>({uint8_t{value}}).reshape(Shape{}));
  };
  auto floats = [groups](const char* name) {
    return [name, groups](const Weight& weight) { return weight.plane(name).reshape({groups, 1}); };
  };
  add(".W_q", packing.bytes == 4 ? DType::i32 : DType::u8, {packed_rows(packing, groups), p.group},
      pack);
  add(".scale", p.scale_type, {groups, 1}, floats("scales"));
  add(".zero", p.scale_type, {groups, 1}, floats("zeros"));
  constant(".shape", Tensor::from<int64_t>({w.shape[0], w.shape[1]}));
  number(".nbits", p.bits);
  number(".group_size", p.group);
  number(".axis", 1);
  text(".packing", packing.name);
  text(".unpack_view_dtype", packing.bytes == 4 ? "torch.int32" : "torch.uint8");
  text(".compute_dtype", torch_name(p.scale_type));
  flag(".view_as_float", false);
  flag(".quant_scale", false);
  flag(".quant_zero", false);
  flag(".offload_meta", false);
  flag(".encoded_state_dict", true);
  flag(".stores_quant_config", true);
  flag(".channel_wise", true);
  flag(".optimize", true);
  flag(".round_zero", p.bits == 4);
}

void write(const fs::path& path, const CheckpointContents& contents) {
  std::vector<HfPiece> pieces;
  Json skipped = Json::array();
  const WeightInfo* first = nullptr;
  for (const WeightInfo& w : contents.weights) {
    add_pieces(w, pieces);
    if (is_quantised(w))
      first = first == nullptr ? &w : first;
    else if (w.shape.size() == 2 && w.name.ends_with(".weight"))
      skipped.push_back(module_of(w.name));
  }
  // Each module's own numbers stand beside it.
  const int bits = first == nullptr ? 4 : first->params.bits;
  const Json weights = {{"nbits", bits},
                        {"channel_wise", true},
                        {"group_size", first == nullptr ? 64 : first->params.group},
                        {"optimize", true},
                        {"round_zero", bits == 4},
                        {"axis", 1},
                        {"view_as_float", false}};
  Json config = {{"quant_method", "hqq"},
                 {"quant_config",
                  {{"weight_quant_params", weights},
                   {"scale_quant_params", nullptr},
                   {"zero_quant_params", nullptr},
                   {"offload_meta", false}}},
                 {"skip_modules", skipped}};
  if (contents.quantization_notes.is_object()) config["hone"] = contents.quantization_notes;
  write_hf_directory(path, contents, config, pieces);
}

bool can_open(const fs::path& path) { return is_hf_directory(path, "hqq"); }

std::unique_ptr<Checkpoint> open(const fs::path& path) {
  return std::make_unique<HqqCheckpoint>(path);
}

}  // namespace hqq

namespace layout_entry {

const Layout& hqq() {
  static constexpr Layout kLayout = {"hqq",         "directory of half-quadratic quantisation",
                                     hqq::can_open, hqq::open,
                                     hqq::refusal,  hqq::write,
                                     nullptr};
  return kLayout;
}

}  // namespace layout_entry
}  // namespace hone
