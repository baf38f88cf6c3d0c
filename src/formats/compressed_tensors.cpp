// "compressed-tensors": directories of llm-compressor, which vLLM and transformers load.
//
// Of W[N, K] in a module X, in the library's formats:
//   pack-quantized   X.weight_packed i32 [N, ceil(K·bits/32)]: codes along K, an offset binary
//                    little-endian bit stream; X.weight_shape i64 [2] = (N, K);
//                    X.weight_scale [N, G] or [1]; of asymmetric ones X.weight_zero_point i32
//                    [ceil(N·bits/32), G], packed along N; X.weight_g_idx i32 [K] of act-order.
//                    Until 2025 no code straddled a word: [N, ceil(K/(32/bits))].
//   int-quantized    X.weight i8 [N, K]; X.weight_scale [1], [N, 1], [N, G] or by blocks;
//                    X.weight_zero_point i8 of the same shape
//   float-quantized  X.weight E4M3 [N, K]; X.weight_scale as above; mxfp8-quantized: u8 exponents
//   nvfp4-, mxfp4-pack-quantized   X.weight_packed u8 [N, K/2], the even column in the low nibble;
//                    X.weight_scale E4M3 [N, K/16] and X.weight_global_scale f32 [1], or u8
//                    exponents [N, K/32]
//   sparse-24-bitmask, sparse-bitmask (until 2025)   X.compressed, X.bitmask, X.shape (and
//                    X.row_offsets), of floats or of the two formats with one tensor above
// What a module has is told by its tensors; the config is asked for bits and blocks. Scales of
// activations and of KV caches are left aside: weights are what is read. Sparse weights become
// dense. This file reads; compressed_tensors_writer.cpp writes. Not read: marlin-24, rotations at
// run time.
#include "formats/compressed_tensors.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "formats/bit_matrix.h"
#include "formats/hf_directory.h"
#include "formats/json_fields.h"
#include "formats/printable.h"
#include "formats/scaled_floats.h"

namespace hone {
namespace compressed_tensors {

constexpr const char* kActivationParts[] = {
    ".input_scale",  ".input_zero_point",  ".input_global_scale",
    ".output_scale", ".output_zero_point", ".k_scale",
    ".v_scale",      ".q_scale",           ".k_zero_point",
    ".v_zero_point", ".weight_observer"};

/// Code i of a row of words: dense, or as many whole codes a word as fit.
uint8_t code_at(const uint8_t* row, int64_t i, int bits, bool dense) {
  if (dense) return stream_get(row, i, bits);
  const int64_t each = 32 / bits;
  return stream_get(row + i / each * 4, i % each, bits);
}

int64_t words_of(int64_t count, int bits, bool dense) {
  return dense ? ceil_div(checked_mul(count, bits, "packed codes"), 32)
               : ceil_div(count, 32 / bits);
}

/// What one config group says of weights.
struct Scheme {
  int64_t bits = 0, group = 0, block_rows = 0, block_columns = 0;
};

class CompressedCheckpoint final : public HfCheckpoint {
 public:
  explicit CompressedCheckpoint(const fs::path& directory)
      : HfCheckpoint(directory, "compressed-tensors"),
        source_((directory / "config.json").string()) {
    const Json& q = config["quantization_config"];
    read_schemes(q);
    refuse_rotations(q);
    old_packing_ = is_old(string_field(q, "version", "", source_));
    for (const std::string& name : tensors_.names()) {
      for (const char* part : kActivationParts)
        if (name.ends_with(part)) names_.erase(name);
      HONE_CHECK(!name.ends_with(".scale_packed"), unsupported,
                 "{}: tensor {}: the format marlin-24 is not supported", path.string(),
                 printable(name));
      for (const char* own : {".weight_packed", ".weight_scale", ".compressed"})
        if (name.ends_with(own)) join_module(name.substr(0, name.size() - std::strlen(own)));
    }
  }

  Weight weight(const std::string& name) const override {
    if (!name.ends_with(".weight")) return HfCheckpoint::weight(name);
    const std::string module = name.substr(0, name.size() - std::strlen(".weight"));
    const SafetensorsEntry* packed = tensors_.find(module + ".weight_packed");
    if (packed != nullptr && packed->dtype == DType::u8) return fp4(module);
    if (packed != nullptr) return packed_integers(module);
    if (!tensors_.has(module + ".weight_scale") && !tensors_.has(module + ".compressed"))
      return HfCheckpoint::weight(name);
    const Tensor values = dense(module);
    if (!tensors_.has(module + ".weight_scale")) return float_weight(values);
    if (values.dtype() == DType::f8_e4m3) return eight_bit_floats(module, values);
    HONE_CHECK(values.dtype() == DType::i8, corrupt,
               "{}: tensor {}: expected i8 or f8_e4m3 beside a scale, got {}", path.string(),
               printable(name), dtype_name(values.dtype()));
    return integers(module, values);
  }

 private:
  void join_module(const std::string& m) {
    join(m + ".weight",
         {m + ".weight", m + ".weight_packed", m + ".weight_scale", m + ".weight_shape",
          m + ".weight_zero_point", m + ".weight_g_idx", m + ".weight_global_scale",
          m + ".compressed", m + ".bitmask", m + ".shape", m + ".row_offsets"});
  }

  std::string where(const std::string& module) const {
    return path.string() + ": module " + printable(module);
  }

  void read_schemes(const Json& q) {
    const Json* groups = find_field(q, "config_groups");
    if (groups == nullptr) return;
    HONE_CHECK(groups->is_object(), corrupt, "{}: \"config_groups\": expected an object", source_);
    for (const auto& [key, group] : groups->items()) {
      const Json* weights = group.is_object() ? find_field(group, "weights") : nullptr;
      if (weights == nullptr) continue;
      HONE_CHECK(weights->is_object(), corrupt, "{}: {}: \"weights\": expected an object", source_,
                 printable(key));
      Scheme s;
      s.bits = int_field(*weights, "num_bits", 8, source_);
      s.group = int_field(*weights, "group_size", 0, source_);
      if (const Json* block = find_field(*weights, "block_structure"); block != nullptr) {
        HONE_CHECK(block->is_array() && block->size() == 2, unsupported,
                   "{}: \"block_structure\": expected two sizes", source_);
        s.block_rows = json_integer((*block)[0], "\"block_structure\"", source_);
        s.block_columns = json_integer((*block)[1], "\"block_structure\"", source_);
      }
      schemes_.push_back(s);
    }
  }

  /// Rotations that were folded into weights need nothing; those of activations would be missed.
  void refuse_rotations(const Json& q) const {
    const Json* transform = find_field(q, "transform_config");
    const Json* groups = transform != nullptr && transform->is_object()
                             ? find_field(*transform, "config_groups")
                             : nullptr;
    if (groups == nullptr || !groups->is_object()) return;
    for (const auto& [key, scheme] : groups->items()) {
      const Json* applied = scheme.is_object() ? find_field(scheme, "apply") : nullptr;
      if (applied == nullptr || !applied->is_array()) continue;
      for (const Json& one : *applied) {
        std::string at = one.is_object() ? string_field(one, "location", "", source_) : "";
        HONE_CHECK(at.starts_with("weight_"), unsupported,
                   "{}: \"transform_config\": transforms at {} are not supported", source_,
                   printable(at));
      }
    }
  }

  /// Whether a version of the library packed each word for itself: before 0.13.
  static bool is_old(const std::string& version) {
    int major = -1, minor = -1;
    const char* end = version.data() + version.size();
    auto [at, error] = std::from_chars(version.data(), end, major);
    if (error != std::errc() || at == end || *at != '.') return false;
    std::from_chars(at + 1, end, minor);
    return major == 0 && minor < 13;
  }

  /// The bits with which `count` codes fill `words` words, and how; corrupt where none or, by what
  /// the config says, several do.
  std::pair<int, bool> packing(const std::string& module, int64_t count, int64_t words) const {
    int found = 0;
    bool dense = true;
    for (const Scheme& s : schemes_) {
      if (s.bits < 1 || s.bits > 8 || s.bits == found) continue;
      const int bits = static_cast<int>(s.bits);
      const bool fits = words == words_of(count, bits, true);
      const bool fits_old = words == words_of(count, bits, false);
      if (!fits && !fits_old) continue;
      HONE_CHECK(found == 0, unsupported, "{}: {} words for {} codes may be {} or {} bits",
                 where(module), words, count, found, bits);
      found = bits;
      dense = fits && !(fits_old && old_packing_);
    }
    HONE_CHECK(found != 0, corrupt, "{}: {} words for {} codes in no \"num_bits\" of the config",
               where(module), words, count);
    HONE_CHECK(found > 1, unsupported, "{}: 1-bit codes are not supported", where(module));
    return {found, dense};
  }

  /// The group of a row of k columns with this many scales: 0 for one. The library's groups divide
  /// the row.
  int64_t group_of(const std::string& module, int64_t k, int64_t groups) const {
    if (groups == 1) return 0;
    HONE_CHECK(groups > 0 && k % groups == 0, corrupt, "{}: {} columns make no {} equal groups",
               where(module), k, groups);
    return k / groups;
  }

  /// weight_scale, [R, C] where it is less.
  Tensor scale_matrix(const std::string& module) const {
    Tensor t = tensors_.tensor(module + ".weight_scale");
    if (t.rank() < 2 && t.numel() > 0) t = t.reshape({t.numel(), 1});
    bool fits = t.rank() == 2 && t.numel() > 0;
    fits = fits && (t.dtype() == DType::f32 || t.dtype() == DType::bf16 || t.dtype() == DType::f16);
    HONE_CHECK(fits, corrupt, "{}: weight_scale is {} {}", where(module), dtype_name(t.dtype()),
               shape_string(t.shape()));
    return t;
  }

  Weight integer_weight(int64_t n, int64_t k, int bits, DType scales) const {
    Weight w;
    w.shape = {n, k};
    w.encoding = "int_group";
    w.params.bits = bits;
    w.params.scale_type = scales;
    return w;
  }

  Weight packed_integers(const std::string& module) const {
    const Tensor words = part(module + ".weight_packed", {DType::i32}, {-1, -1});
    const Tensor shape = part(module + ".weight_shape", {DType::i64, DType::i32}, {2});
    const bool wide = shape.dtype() == DType::i64;
    const int64_t n = wide ? shape.data<int64_t>()[0] : shape.data<int32_t>()[0];
    const int64_t k = wide ? shape.data<int64_t>()[1] : shape.data<int32_t>()[1];
    HONE_CHECK(n == words.dim(0) && n > 0 && k > 0 && k <= checked_mul(words.numel(), 32, "codes"),
               corrupt, "{}: weight_shape says [{}, {}], weight_packed is {}", where(module), n, k,
               shape_string(words.shape()));
    const auto [bits, dense] = packing(module, k, words.dim(1));
    const Tensor scales = scale_matrix(module);
    HONE_CHECK(scales.dim(0) == n || scales.numel() == 1, corrupt, "{}: weight_scale is {}",
               where(module), shape_string(scales.shape()));
    Weight w = integer_weight(n, k, bits, scales.dtype());
    const int64_t groups = scales.dim(1);
    w.params.group = group_of(module, k, groups);
    w.planes["scales"] = each_row(scales, n);
    w.planes["codes"] = codes_of(words, n, k, bits, dense);
    if (tensors_.has(module + ".weight_zero_point")) {
      w.params.symmetric = false;
      w.planes["zeros"] = packed_zeros(module, n, groups, bits);
    }
    add_g_idx(w, module, groups);
    return w;
  }

  static Tensor codes_of(const Tensor& words, int64_t n, int64_t k, int bits, bool dense) {
    const int64_t stride = words.dim(1) * 4, row = ceil_div(k * bits, 8);
    const auto* in = reinterpret_cast<const uint8_t*>(words.raw());
    if (dense && stride == row) return bytes_of(words, {n, row});
    Tensor codes = Tensor::zeros({n, row}, DType::u8);
    auto* out = codes.mutable_data<uint8_t>();
    for (int64_t r = 0; r < n; ++r)
      if (dense)
        std::memcpy(out + r * row, in + r * stride, static_cast<size_t>(row));
      else
        for (int64_t i = 0; i < k; ++i)
          stream_set(out + r * row, i, bits, code_at(in + r * stride, i, bits, false));
    return codes;
  }

  /// Zero points, which are signed, as codes: [N, groups].
  Tensor packed_zeros(const std::string& module, int64_t n, int64_t groups, int bits) const {
    const std::string name = module + ".weight_zero_point";
    const Tensor t = part(name, {DType::i32, DType::i8}, {-1, groups});
    Tensor zeros = Tensor::empty({n, groups}, DType::u8);
    auto* out = zeros.mutable_data<uint8_t>();
    if (t.dtype() == DType::i8) {
      HONE_CHECK(t.dim(0) == n, corrupt, "{}: weight_zero_point is {}", where(module),
                 shape_string(t.shape()));
      for (int64_t i = 0; i < t.numel(); ++i)
        out[i] = unsigned_code(module, t.data<int8_t>()[i], bits);
      return zeros;
    }
    const bool fits = t.dim(0) == words_of(n, bits, true);
    const bool fits_old = t.dim(0) == words_of(n, bits, false);
    HONE_CHECK(fits || fits_old, corrupt, "{}: weight_zero_point is {}, for {} rows", where(module),
               shape_string(t.shape()), n);
    const bool dense = fits && !(fits_old && old_packing_);
    std::vector<uint32_t> column(static_cast<size_t>(t.dim(0)));
    for (int64_t g = 0; g < groups; ++g) {
      for (size_t i = 0; i < column.size(); ++i)
        column[i] = static_cast<uint32_t>(t.data<int32_t>()[static_cast<int64_t>(i) * groups + g]);
      for (int64_t r = 0; r < n; ++r)
        out[r * groups + g] =
            code_at(reinterpret_cast<const uint8_t*>(column.data()), r, bits, dense);
    }
    return zeros;
  }

  void add_g_idx(Weight& w, const std::string& module, int64_t groups) const {
    const Tensor t = part_if(module + ".weight_g_idx", {DType::i32}, {w.cols()});
    if (t.empty_handle()) return;
    const int32_t* index = t.data<int32_t>();
    if (std::all_of(index, index + w.cols(), [](int32_t g) { return g == -1; })) return;
    const int64_t group = w.params.group == 0 ? w.cols() : w.params.group;
    for (int64_t i = 0; i < w.cols(); ++i) {
      HONE_CHECK(index[i] >= 0 && index[i] < groups, corrupt,
                 "{}: column {} belongs to group {} of {}", where(module), i, index[i], groups);
      w.params.act_order = w.params.act_order || index[i] != i / group;
    }
    if (w.params.act_order) w.planes["g_idx"] = t;
  }

  uint8_t unsigned_code(const std::string& module, int8_t code, int bits) const {
    const int middle = 1 << (bits - 1);
    HONE_CHECK(code >= -middle && code < middle, corrupt, "{}: {} is no integer of {} bits",
               where(module), int{code}, bits);
    return static_cast<uint8_t>(code + middle);
  }

  /// A scale [N, G] of each row, of one for all rows, or of blocks of rows.
  static Tensor each_row(const Tensor& t, int64_t n, int64_t rows = 0) {
    if (t.dim(0) == n) return t;
    const int64_t groups = t.dim(1), bytes = groups * dtype_size(t.dtype());
    Tensor out = Tensor::empty({n, groups}, t.dtype());
    for (int64_t r = 0; r < n; ++r)
      std::memcpy(out.mutable_raw() + r * bytes, t.raw() + (rows == 0 ? 0 : r / rows) * bytes,
                  static_cast<size_t>(bytes));
    return out;
  }

  Weight integers(const std::string& module, const Tensor& values) const {
    const int64_t n = values.dim(0), k = values.dim(1);
    HONE_CHECK(n > 0 && k > 0, corrupt, "{}: an empty weight", where(module));
    int64_t bits = schemes_.empty() ? 8 : schemes_[0].bits, rows = 0, columns = 0;
    for (const Scheme& s : schemes_) {
      if (s.bits != bits) bits = 8;
      if (s.block_rows > 0) rows = s.block_rows, columns = s.block_columns;
    }
    bits = std::clamp<int64_t>(bits, 2, 8);
    const Tensor scales = scale_matrix(module);
    const bool blocks = rows > 0 && columns > 0 && scales.dim(0) == ceil_div(n, rows) &&
                        scales.dim(1) == ceil_div(k, columns);
    HONE_CHECK(scales.dim(0) == n || scales.numel() == 1 || blocks, corrupt,
               "{}: weight_scale is {}", where(module), shape_string(scales.shape()));
    Weight w = integer_weight(n, k, static_cast<int>(bits), scales.dtype());
    const bool by_block = blocks && scales.dim(0) != n && scales.numel() != 1;
    w.params.group =
        by_block ? (scales.dim(1) == 1 ? 0 : columns) : group_of(module, k, scales.dim(1));
    w.planes["scales"] = each_row(scales, n, by_block ? rows : 0);
    const int64_t row = ceil_div(k * bits, 8);
    Tensor codes = Tensor::zeros({n, row}, DType::u8);
    for (int64_t r = 0; r < n; ++r)
      for (int64_t i = 0; i < k; ++i)
        stream_set(codes.mutable_data<uint8_t>() + r * row, i, w.params.bits,
                   unsigned_code(module, values.data<int8_t>()[r * k + i], w.params.bits));
    w.planes["codes"] = codes;
    if (!tensors_.has(module + ".weight_zero_point")) return w;
    Tensor zeros = tensors_.tensor(module + ".weight_zero_point");
    HONE_CHECK(zeros.dtype() == DType::i8 && zeros.numel() == scales.numel(), corrupt,
               "{}: weight_zero_point is {} {}", where(module), dtype_name(zeros.dtype()),
               shape_string(zeros.shape()));
    zeros = each_row(zeros.reshape(scales.shape()), n, by_block ? rows : 0);
    Tensor unsigned_zeros = Tensor::empty(zeros.shape(), DType::u8);
    for (int64_t i = 0; i < zeros.numel(); ++i)
      unsigned_zeros.mutable_data<uint8_t>()[i] =
          unsigned_code(module, zeros.data<int8_t>()[i], w.params.bits);
    w.params.symmetric = false;
    w.planes["zeros"] = unsigned_zeros;
    return w;
  }

  Weight eight_bit_floats(const std::string& module, const Tensor& values) const {
    const Tensor scale = tensors_.tensor(module + ".weight_scale");
    int64_t rows = 0, columns = 0;
    for (const Scheme& s : schemes_) {
      if (s.block_rows > 0) rows = s.block_rows, columns = s.block_columns;
      if (s.group > 0 && columns == 0) columns = s.group;
    }
    return scaled_f8(values, scale, rows, columns, where(module));
  }

  /// NVFP4, and MXFP4, whose codes go into the blocks of the encoding "mxfp4": an exponent, then
  /// 16 bytes with columns 0…15 in the low nibbles and 16…31 in the high ones.
  Weight fp4(const std::string& module) const {
    const Tensor codes = part(module + ".weight_packed", {DType::u8}, {-1, -1});
    const int64_t n = codes.dim(0), k = checked_mul(codes.dim(1), 2, "weight_packed");
    HONE_CHECK(n > 0 && k > 0, corrupt, "{}: an empty weight", where(module));
    Weight w;
    w.shape = {n, k};
    if (tensors_.has(module + ".weight_global_scale")) {
      HONE_CHECK(k % 16 == 0, corrupt, "{}: {} columns make no groups of 16", where(module), k);
      w.encoding = "nvfp4_ct";
      w.params.bits = 4;
      w.planes["codes"] = codes;
      w.planes["scales"] = part(module + ".weight_scale", {DType::f8_e4m3}, {n, k / 16});
      w.planes["global"] = part(module + ".weight_global_scale", {DType::f32}, {1});
      return w;
    }
    HONE_CHECK(k % 32 == 0, corrupt, "{}: {} columns make no groups of 32", where(module), k);
    w.encoding = "mxfp4";
    w.planes["blocks"] =
        mxfp4_blocks(codes, part(module + ".weight_scale", {DType::u8}, {n, k / 32}));
    return w;
  }

  static Tensor mxfp4_blocks(const Tensor& codes, const Tensor& exponents) {
    const int64_t n = codes.dim(0), groups = exponents.dim(1);
    Tensor blocks = Tensor::empty({n, groups * 17}, DType::u8);
    for (int64_t b = 0; b < n * groups; ++b) {
      const uint8_t* in = codes.data<uint8_t>() + b * 16;
      uint8_t* out = blocks.mutable_data<uint8_t>() + b * 17;
      out[0] = exponents.data<uint8_t>()[b];
      for (int i = 0; i < 16; ++i) {
        const int low = in[i / 2] >> (4 * (i % 2)) & 15, high = in[8 + i / 2] >> (4 * (i % 2)) & 15;
        out[1 + i] = static_cast<uint8_t>(low | high << 4);
      }
    }
    return blocks;
  }

  /// X.weight, or what the bitmask formats keep of it.
  Tensor dense(const std::string& module) const {
    if (!tensors_.has(module + ".compressed"))
      return part(module + ".weight", {DType::i8, DType::f8_e4m3}, {-1, -1});
    const Tensor shape = part_of_sparse(module, ".shape");
    HONE_CHECK(shape.dtype() == DType::i64 && shape.numel() == 2, corrupt, "{}: \"shape\" is {} {}",
               where(module), dtype_name(shape.dtype()), shape_string(shape.shape()));
    const int64_t n = shape.data<int64_t>()[0], k = shape.data<int64_t>()[1];
    HONE_CHECK(n > 0 && k > 0, corrupt, "{}: a shape of [{}, {}]", where(module), n, k);
    const Tensor mask = part(module + ".bitmask", {DType::u8}, {n, ceil_div(k, 8)});
    return from_bitmask(part_of_sparse(module, ".compressed"), mask, {n, k}, where(module));
  }

  Tensor part_of_sparse(const std::string& module, const char* suffix) const {
    HONE_CHECK(tensors_.has(module + suffix), corrupt, "{}: the tensor {} is missing",
               path.string(), printable(module + suffix));
    return tensors_.tensor(module + suffix);
  }

  std::string source_;
  std::vector<Scheme> schemes_;
  bool old_packing_ = false;
};

bool can_open(const fs::path& path) { return is_hf_directory(path, "compressed-tensors"); }

std::unique_ptr<Checkpoint> open(const fs::path& path) {
  return std::make_unique<CompressedCheckpoint>(path);
}

}  // namespace compressed_tensors

Tensor from_bitmask(const Tensor& values, const Tensor& mask, const Shape& shape,
                    const std::string& where) {
  const int64_t n = shape[0], k = shape[1], row = mask.dim(1), size = dtype_size(values.dtype());
  int64_t kept = 0;
  auto set = [&](int64_t r, int64_t i) {
    return (mask.data<uint8_t>()[r * row + i / 8] >> i % 8) & 1;
  };
  for (int64_t r = 0; r < n; ++r)
    for (int64_t i = 0; i < k; ++i) kept += set(r, i);
  HONE_CHECK(kept == values.numel(), corrupt, "{}: {} values for {} bits of the mask", where,
             values.numel(), kept);
  Tensor out = Tensor::zeros(shape, values.dtype());
  const std::byte* from = values.raw();
  for (int64_t r = 0; r < n; ++r)
    for (int64_t i = 0; i < k; ++i)
      if (set(r, i)) {
        std::memcpy(out.mutable_raw() + (r * k + i) * size, from, static_cast<size_t>(size));
        from += size;
      }
  return out;
}

namespace layout_entry {

const Layout& compressed_tensors() {
  static constexpr Layout kLayout = {
      "compressed-tensors",
      "directory of llm-compressor: packed integers, FP8, NVFP4, MXFP4",
      compressed_tensors::can_open,
      compressed_tensors::open,
      compressed_tensors_refusal,
      write_compressed_tensors,
      nullptr};
  return kLayout;
}

}  // namespace layout_entry
}  // namespace hone
