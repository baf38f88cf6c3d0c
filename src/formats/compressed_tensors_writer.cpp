#include <algorithm>
#include <map>
#include <optional>

#include "base/checked.h"
#include "formats/bit_matrix.h"
#include "formats/compressed_tensors.h"
#include "formats/hf_directory.h"
#include "formats/printable.h"
#include "formats/scaled_floats.h"

namespace hone {
namespace compressed_tensors_writer {

bool is_int(const WeightInfo& w) { return w.encoding == "int_group"; }
bool is_f8(const WeightInfo& w) { return w.encoding == "f8_e4m3" && w.params.row_scaled; }
bool is_quantised(const WeightInfo& w) {
  return is_int(w) || is_f8(w) || w.encoding == "nvfp4_ct" || w.encoding == "mxfp4";
}

int64_t group_count(const WeightInfo& w) {
  return w.params.group == 0 ? 1 : ceil_div(w.shape[1], w.params.group);
}

/// 8-bit codes with one scale a row stand as plain integers, which readers multiply by 8-bit
/// activations; all others are packed.
bool is_plain_int(const WeightInfo& w) {
  return is_int(w) && w.params.bits == 8 && w.params.symmetric && group_count(w) == 1;
}

Tensor pack_codes(const Weight& w) {
  const Tensor& codes = w.plane("codes");
  const int64_t n = w.rows(), row = codes.dim(1), words = ceil_div(w.cols() * w.params.bits, 32);
  Tensor out = Tensor::zeros({n, words}, DType::i32);
  for (int64_t r = 0; r < n; ++r)
    std::copy_n(codes.raw() + r * row, row, out.mutable_raw() + r * words * 4);
  return out;
}

Tensor pack_zeros(const Weight& w) {
  const int bits = w.params.bits;
  const Tensor& zeros = w.plane("zeros");
  const int64_t n = w.rows(), groups = zeros.dim(1), words = ceil_div(n * bits, 32);
  Tensor out = Tensor::empty({words, groups}, DType::i32);
  std::vector<uint32_t> column(static_cast<size_t>(words));
  for (int64_t g = 0; g < groups; ++g) {
    std::fill(column.begin(), column.end(), 0);
    for (int64_t r = 0; r < n; ++r)
      stream_set(reinterpret_cast<uint8_t*>(column.data()), r, bits,
                 zeros.data<uint8_t>()[r * groups + g]);
    for (int64_t i = 0; i < words; ++i)
      out.mutable_data<int32_t>()[i * groups + g] =
          static_cast<int32_t>(column[static_cast<size_t>(i)]);
  }
  return out;
}

Tensor signed_codes(const Weight& w) {
  Tensor out = Tensor::empty(w.shape, DType::i8);
  const auto* codes = w.plane("codes").data<uint8_t>();
  for (int64_t i = 0; i < out.numel(); ++i)
    out.mutable_data<int8_t>()[i] = static_cast<int8_t>(codes[i] ^ 0x80);
  return out;
}

/// Of MXFP4's blocks (compressed_tensors.cpp): the nibbles with the even column low.
Tensor mxfp4_codes(const Weight& w) {
  Tensor out = Tensor::empty({w.rows(), w.cols() / 2}, DType::u8);
  for (int64_t b = 0; b < w.numel() / 32; ++b) {
    const uint8_t* in = w.plane("blocks").data<uint8_t>() + b * 17 + 1;
    uint8_t* to = out.mutable_data<uint8_t>() + b * 16;
    for (int i = 0; i < 8; ++i) {
      to[i] = static_cast<uint8_t>((in[2 * i] & 15) | (in[2 * i + 1] & 15) << 4);
      to[8 + i] = static_cast<uint8_t>(in[2 * i] >> 4 | (in[2 * i + 1] & 0xf0));
    }
  }
  return out;
}

Tensor mxfp4_exponents(const Weight& w) {
  Tensor out = Tensor::empty({w.rows(), w.cols() / 32}, DType::u8);
  for (int64_t b = 0; b < out.numel(); ++b)
    out.mutable_data<uint8_t>()[b] = w.plane("blocks").data<uint8_t>()[b * 17];
  return out;
}

auto plane(const char* name) {
  return [name](const Weight& w) { return w.plane(name); };
}

Tensor shape_tensor(const Weight& w) { return Tensor::from<int64_t>({w.shape[0], w.shape[1]}); }

void add_pieces(const WeightInfo& w, std::vector<HfPiece>& pieces) {
  if (!is_quantised(w)) return pieces.push_back(float_piece(w));
  const std::string module = module_of(w.name);
  const int64_t n = w.shape[0], k = w.shape[1];
  auto add = [&](const char* suffix, DType dtype, Shape shape, auto make) {
    pieces.push_back({module + suffix, dtype, std::move(shape), &w, make});
  };
  if (is_f8(w)) {
    const Shape shape = one_f8_scale(w) ? Shape{1} : f8_scale_shape(w);
    add(".weight", DType::f8_e4m3, w.shape, plane("values"));
    add(".weight_scale", DType::f32, shape,
        [&w, shape](const Weight& weight) { return f8_scale(w, weight).reshape(shape); });
  } else if (w.encoding == "nvfp4_ct") {
    add(".weight_packed", DType::u8, {n, k / 2}, plane("codes"));
    add(".weight_scale", DType::f8_e4m3, {n, k / 16}, plane("scales"));
    add(".weight_global_scale", DType::f32, {1}, plane("global"));
  } else if (w.encoding == "mxfp4") {
    add(".weight_packed", DType::u8, {n, k / 2}, mxfp4_codes);
    add(".weight_scale", DType::u8, {n, k / 32}, mxfp4_exponents);
  } else {
    const int64_t bits = w.params.bits, groups = group_count(w);
    add(".weight_scale", w.params.scale_type, {n, groups}, plane("scales"));
    if (is_plain_int(w)) return add(".weight", DType::i8, w.shape, signed_codes);
    add(".weight_packed", DType::i32, {n, ceil_div(k * bits, 32)}, pack_codes);
    add(".weight_shape", DType::i64, {2}, shape_tensor);
    if (w.params.symmetric) return;
    add(".weight_zero_point", DType::i32, {ceil_div(n * bits, 32), groups}, pack_zeros);
  }
}

std::string format_of(const WeightInfo& w) {
  if (is_f8(w)) return "float-quantized";
  if (!is_int(w)) return w.encoding == "mxfp4" ? "mxfp4-pack-quantized" : "nvfp4-pack-quantized";
  return is_plain_int(w) ? "int-quantized" : "pack-quantized";
}

/// Arguments of one quantisation, all keys that the library writes.
Json arguments(int64_t bits, const char* type, bool symmetric, const char* strategy) {
  return {{"num_bits", bits},
          {"type", type},
          {"symmetric", symmetric},
          {"strategy", strategy},
          {"group_size", nullptr},
          {"block_structure", nullptr},
          {"dynamic", false},
          {"actorder", nullptr},
          {"scale_dtype", nullptr},
          {"zp_dtype", nullptr},
          {"observer", "memoryless_minmax"},
          {"observer_kwargs", Json::object()}};
}

Json dynamic_arguments(const char* type, const char* strategy) {
  Json j = arguments(8, type, true, strategy);
  j["dynamic"] = true;
  j["observer"] = nullptr;
  return j;
}

/// A config group but for its targets.
Json scheme(const WeightInfo& w) {
  const WeightParams& p = w.params;
  Json weights, input = nullptr;
  if (is_f8(w)) {
    const bool rows = p.block <= 1 && p.group == 0, one = one_f8_scale(w);
    weights = arguments(8, "float", true, one ? "tensor" : rows ? "channel" : "block");
    if (!one && !rows) weights["block_structure"] = {p.block, p.group};
    input = dynamic_arguments("float", one || rows ? "token" : "group");
    if (!one && !rows) input["group_size"] = p.group;
  } else if (is_int(w)) {
    const bool row = group_count(w) == 1;
    weights = arguments(p.bits, "int", p.symmetric, row ? "channel" : "group");
    if (!row) weights["group_size"] = p.group;
    if (is_plain_int(w)) input = dynamic_arguments("int", "token");
  } else {
    const bool nv = w.encoding == "nvfp4_ct";
    weights = arguments(4, "float", true, nv ? "tensor_group" : "group");
    weights["group_size"] = nv ? 16 : 32;
    weights["scale_dtype"] = weights["zp_dtype"] = nv ? "torch.float8_e4m3fn" : "torch.uint8";
  }
  return {{"weights", weights},
          {"input_activations", input},
          {"output_activations", nullptr},
          {"format", format_of(w)}};
}

Json quantization_config(const CheckpointContents& contents) {
  std::map<std::string, std::pair<Json, Json>> schemes;  // text → scheme, its modules
  Json ignored = Json::array();
  std::map<std::string, int> formats;
  for (const WeightInfo& w : contents.weights) {
    if (!is_quantised(w)) {
      if (w.shape.size() == 2 && w.name.ends_with(".weight")) ignored.push_back(module_of(w.name));
      continue;
    }
    const Json s = scheme(w);
    auto& entry = schemes[s.dump()];
    entry.first = s;
    entry.second.push_back(module_of(w.name));
    ++formats[format_of(w)];
  }
  if (std::find(ignored.begin(), ignored.end(), "lm_head") == ignored.end() &&
      std::none_of(contents.weights.begin(), contents.weights.end(),
                   [](const WeightInfo& w) { return w.name == "lm_head.weight"; }))
    ignored.push_back("lm_head");  // one that is tied has no tensor
  Json groups = Json::object();
  for (auto& [text, entry] : schemes) {
    Json group = entry.first;
    group["targets"] = schemes.size() == 1 ? Json::array({"Linear"}) : entry.second;
    groups[fmt::format("group_{}", groups.size())] = group;
  }
  Json config = {{"quant_method", "compressed-tensors"},
                 {"format", formats.empty()       ? "dense"
                            : formats.size() == 1 ? formats.begin()->first
                                                  : "mixed-precision"},
                 {"quantization_status", "compressed"},
                 {"global_compression_ratio", nullptr},
                 {"kv_cache_scheme", nullptr},
                 {"ignore", ignored},
                 {"config_groups", groups}};
  if (contents.quantization_notes.is_object()) config["hone"] = contents.quantization_notes;
  return config;
}

}  // namespace compressed_tensors_writer

std::string compressed_tensors_refusal(const WeightInfo& w) {
  if (!compressed_tensors_writer::is_quantised(w)) {
    if (is_float_encoding(w.encoding)) return float_refusal(w);
    return fmt::format(
        "compressed-tensors holds int_group, f8_e4m3, nvfp4_ct, mxfp4 and floats, not {}",
        w.encoding);
  }
  if (w.shape.size() != 2) return "compressed-tensors holds matrices, not " + shape_string(w.shape);
  const WeightParams& p = w.params;
  if (compressed_tensors_writer::is_f8(w) && p.block <= 1 && p.group != 0 && w.shape[0] > 1)
    return "8-bit floats have one scale, one for each row, or one for each block of rows";
  if (!compressed_tensors_writer::is_int(w)) return {};
  if (p.act_order) return "the library no longer knows act-order's groups of columns";
  if (p.group != 0 && w.shape[1] % p.group != 0)
    return fmt::format("groups of {} columns do not divide {}", p.group, w.shape[1]);
  return {};
}

void write_compressed_tensors(const fs::path& path, const CheckpointContents& contents) {
  std::vector<HfPiece> pieces;
  for (const WeightInfo& w : contents.weights) compressed_tensors_writer::add_pieces(w, pieces);
  write_hf_directory(path, contents, compressed_tensors_writer::quantization_config(contents),
                     pieces);
}

}  // namespace hone
