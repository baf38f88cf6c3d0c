#include "encodings/product.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <vector>

#include "base/checked.h"
#include "base/threads.h"
#include "kernels/select.h"
#include "ops/dense.h"
#include "ops/rounding.h"
#include "ops/tape.h"

namespace hone {

int64_t record_bytes(const kernels::CodeForm& f) {
  int64_t scales = (f.scale_is_f16 ? 2 : 4) * kernels::kPanel * (1 + f.has_mins);
  return scales + f.group * kernels::kPanel * f.bits / 8;
}

namespace {

using kernels::CodeForm;
using kernels::kPanel;
using kernels::table;

// What a panel needs of its (up to) 16 rows while it is packed; reused from panel to panel.
struct RowCodes {
  std::vector<uint8_t> codes;
  std::vector<float> scales, mins;
  RowCodes(int64_t k, int64_t groups)
      : codes(static_cast<size_t>(kPanel * k)),
        scales(static_cast<size_t>(kPanel * groups)),
        mins(static_cast<size_t>(kPanel * groups)) {}
};

void put_scales(uint8_t* out, const std::vector<float>& values, int64_t groups, int64_t g,
                bool as_f16) {
  for (int r = 0; r < kPanel; ++r) {
    float v = values[static_cast<size_t>(r * groups + g)];
    if (as_f16) {
      uint16_t bits = to_f16(v).bits;
      std::memcpy(out + 2 * r, &bits, 2);
    } else {
      std::memcpy(out + 4 * r, &v, 4);
    }
  }
}

uint32_t load_u32(const uint8_t* p) {
  uint32_t x;
  std::memcpy(&x, p, 4);
  return x;
}

// The layout of kernel_table.h: see there.
void pack_code_panel(const RowCodes& rows, const CodeForm& f, int64_t k, uint8_t* out) {
  const int64_t groups = k / f.group;
  const int64_t scale_bytes = (f.scale_is_f16 ? 2 : 4) * kPanel;
  for (int64_t g = 0; g < groups; ++g) {
    put_scales(out, rows.scales, groups, g, f.scale_is_f16);
    out += scale_bytes;
    if (f.has_mins) {
      put_scales(out, rows.mins, groups, g, f.scale_is_f16);
      out += scale_bytes;
    }
    const uint8_t* codes = rows.codes.data() + g * f.group;
    if (f.bits == 4) {
      for (int64_t i = 0; i < f.group; i += 8, out += 64)
        for (int r = 0; r < kPanel; ++r) {
          const uint8_t* at = codes + r * k + i;
          uint32_t both = load_u32(at) | load_u32(at + 4) << 4;
          std::memcpy(out + 4 * r, &both, 4);
        }
    } else {
      for (int64_t i = 0; i < f.group; i += 4, out += 64)
        for (int r = 0; r < kPanel; ++r) {
          // +128 in each byte.
          uint32_t four = load_u32(codes + r * k + i) ^ 0x80808080u;
          std::memcpy(out + 4 * r, &four, 4);
        }
    }
  }
}

// Float values that the kernels read as they are, or null.
const Tensor* plain_values(const Weight& w) {
  auto it = w.planes.find("values");
  if (it == w.planes.end() || w.planes.size() != 1) return nullptr;
  DType t = it->second.dtype();
  return t == DType::f32 || t == DType::f16 || t == DType::bf16 ? &it->second : nullptr;
}

// All of a packed weight but its bytes.
PackedWeight packed_form(const Weight& w) {
  PackedWeight p;
  p.n = w.rows();
  p.k = w.cols();
  CodeLayout layout = encoding(w.encoding).code_layout(w);
  p.coded = layout.bits != 0;
  if (p.coded) {
    const CodeTable* t = layout.table;
    const int zero = layout.bits == 8 || t != nullptr ? 128 : layout.zero;
    p.form = {layout.bits, zero, layout.mins, layout.f16_exact, layout.group, nullptr, nullptr, 1};
    if (t != nullptr) {
      p.form.table = t->values.data();
      p.form.steps = t->steps.data();
      p.form.unit = t->unit;
    }
    p.panel_bytes = record_bytes(p.form) * (p.k / layout.group);
    return p;
  }
  const Tensor* values = plain_values(w);
  p.type = values != nullptr ? values->dtype() : DType::f32;
  // Without data, for packed_bytes.
  if (w.planes.empty() && w.encoding == "f16") p.type = DType::f16;
  if (w.planes.empty() && w.encoding == "bf16") p.type = DType::bf16;
  p.panel_bytes = p.k * kPanel * dtype_size(p.type);
  return p;
}

// The panels [p0, p1) of w, one after the other.
void pack_codes(const Weight& w, PackedWeight& p, int64_t p0, int64_t p1) {
  const Encoding& e = encoding(w.encoding);
  const int64_t groups = p.k / p.form.group;
  uint8_t* out = p.bytes.mutable_data<uint8_t>();
  RowCodes rows(p.k, groups);
  for (int64_t panel = p0; panel < p1; ++panel) {
    for (int r = 0; r < kPanel; ++r) {
      int64_t row = panel * kPanel + r;
      uint8_t* codes = rows.codes.data() + r * p.k;
      float* scales = rows.scales.data() + r * groups;
      float* mins = rows.mins.data() + r * groups;
      if (row < p.n) {
        e.codes(w, row, codes, scales, mins);
        continue;
      }
      std::memset(codes, 0, static_cast<size_t>(p.k));
      std::fill(scales, scales + groups, 0.0f);
      std::fill(mins, mins + groups, 0.0f);
    }
    pack_code_panel(rows, p.form, p.k, out + panel * p.panel_bytes);
  }
}

// Rows to a panel [K][16].
template <typename T>
void transpose_rows(const T* rows, int64_t have, int64_t k, T* out) {
  for (int64_t i = 0; i < k; ++i)
    for (int r = 0; r < kPanel; ++r) out[i * kPanel + r] = r < have ? rows[r * k + i] : T{};
}

template <typename T>
void pack_plain(const Weight& w, PackedWeight& p, int64_t p0, int64_t p1) {
  const T* in = plain_values(w)->data<T>();
  auto* out = reinterpret_cast<T*>(p.bytes.mutable_raw());
  for (int64_t panel = p0; panel < p1; ++panel)
    transpose_rows(in + panel * kPanel * p.k, std::min<int64_t>(kPanel, p.n - panel * kPanel), p.k,
                   out + panel * kPanel * p.k);
}

void pack_decoded(const Weight& w, PackedWeight& p, int64_t p0, int64_t p1) {
  const Encoding& e = encoding(w.encoding);
  auto* out = reinterpret_cast<float*>(p.bytes.mutable_raw());
  std::vector<float> rows(static_cast<size_t>(kPanel * p.k));
  for (int64_t panel = p0; panel < p1; ++panel) {
    int64_t first = panel * kPanel, last = std::min(p.n, first + kPanel);
    e.decode(w, first, last, rows.data());
    transpose_rows(rows.data(), last - first, p.k, out + panel * kPanel * p.k);
  }
}

auto packer(const Weight& w, const PackedWeight& p) {
  if (p.coded) return pack_codes;
  if (plain_values(w) == nullptr) return pack_decoded;
  if (p.type == DType::f32) return pack_plain<float>;
  return p.type == DType::f16 ? pack_plain<f16> : pack_plain<bf16>;
}

// Gives back the file pages under the rows [begin, end) of planes that hold row behind row, and
// those of other planes with the last row.
void release_rows(const Weight& w, int64_t begin, int64_t end) {
  for (const auto& [name, plane] : w.planes)
    if (plane.rank() > 0 && plane.dim(0) == w.rows())
      plane.rows(begin, end).release_pages();
    else if (end == w.rows())
      plane.release_pages();
}

// Has the file read on from row `begin` while that row and those behind it are packed.
void read_ahead(const Weight& w, int64_t begin) {
  for (const auto& [name, plane] : w.planes)
    if (plane.rank() > 0 && plane.dim(0) == w.rows())
      plane.rows(begin, w.rows()).read_ahead();
    else if (begin == 0)
      plane.read_ahead();
}

// Panels that one work item packs.
constexpr int64_t kPanelsPacked = 8;
// Stored bytes that are read between two releases of their file pages.
constexpr int64_t kReleasedBytes = int64_t{1} << 20;

// A tile of tokens (kernel_table.h) is quantised in one piece.
constexpr int64_t kTokenTile = 16;
// Panels that one work item multiplies: enough work to be worth handing out, few enough to balance.
// Many tokens go over them tile by tile, so that they should stay in the second-level cache.
constexpr int64_t kPanelsPerItem = 8;
constexpr int64_t kPanelsOfFewTokens = 2;
int64_t panels_per_item(int64_t tokens) { return tokens < 8 ? kPanelsOfFewTokens : kPanelsPerItem; }
// Tokens of one work item where there are too few panels for all threads: whole tiles of every
// kernel, and enough of them to reuse the panels.
constexpr int64_t kTokensPerItem = 192;
constexpr int64_t kItemsWanted = 16;
// Tokens of a gated product whose halves are held at once: whole token tiles.
constexpr int64_t kGatedTokens = 256;
// Panels that are expanded to f32 before they are multiplied.
constexpr int64_t kExpandedPanels = 4;
// Up to so many tokens, expanding in registers is faster than by way of memory.
constexpr int64_t kFewTokens = 8;

// By way of f32 panels, which those of codes are expanded to; or where args.xb is given, of panels
// rounded to bf16.
void multiply_expanded(kernels::GemmArgs args, const PackedWeight& w) {
  static thread_local std::vector<float> floats;
  static thread_local std::vector<uint16_t> rounded;
  const int64_t size = kPanel * w.k;
  auto reserve = [&](auto& scratch) {
    scratch.resize(std::max(scratch.size(), static_cast<size_t>(kExpandedPanels * size)));
  };
  const bool dots = args.xb != nullptr;
  if (dots)
    reserve(rounded);
  else
    reserve(floats);
  const auto* base = static_cast<const uint8_t*>(args.panels);
  const int64_t p0 = args.p0, p1 = args.p1;
  for (int64_t p = p0; p < p1; p += kExpandedPanels) {
    const int64_t last = std::min(p1, p + kExpandedPanels);
    for (int64_t q = p; q < last; ++q) {
      const uint8_t* panel = base + (q - p0) * w.panel_bytes;
      const int64_t at = (q - p) * size;
      if (!w.coded)
        table().round_to_bf16(reinterpret_cast<const float*>(panel), size, rounded.data() + at,
                              nullptr);
      else if (dots)
        table().expand_codes_bf16(panel, w.form, w.k, rounded.data() + at);
      else
        table().expand_codes(panel, w.form, w.k, floats.data() + at);
    }
    args.p0 = p;
    args.p1 = last;
    args.panels = dots ? static_cast<const void*>(rounded.data()) : floats.data();
    if (dots)
      table().gemm_bf16_dot(&args);
    else
      table().gemm_f32(&args);
  }
}

// One product, ready to be computed in parts by several threads.
class Job {
 public:
  Job(const LinearInput& in, const Product& product, Activations a) : w_(*product.weight) {
    const Tensor& x = in.x();
    HONE_ASSERT(x.rank() == 2 && x.dim(1) == w_.k);
    args_.x = x.data<float>();
    args_.ldx = w_.k;
    args_.bias = product.bias->empty_handle() ? nullptr : product.bias->data<float>();
    args_.t = x.dim(0);
    args_.n = w_.n;
    args_.k = w_.k;
    args_.form = w_.form;
    const std::string_view activations = w_.activations(a);
    integer_ = activations == "int8" || activations.starts_with("llm_int8");
    if (activations == "bf16") {
      const Tensor& rounded = in.rounded(a == Activations::bf16 ? product.name : "");
      args_.xb = reinterpret_cast<const uint16_t*>(rounded.raw());
    } else if (rounding_of(a)) {
      args_.x = in.narrowed(a, product.name).data<float>();
    }
    if (!integer_) return;
    args_.chunk = w_.form.group % kernels::kChunk == 0 ? kernels::kChunk : 16;
    if (activations == "int8") {
      args_.xq = in.quantized(args_.chunk, w_.form.zero);
      return;
    }
    outliers_ = &in.split({w_.outlier_threshold, a == Activations::llm_int8_batch}, args_.chunk,
                          w_.form.zero);
    args_.xq = outliers_->rows();
  }

  int64_t panels() const { return ceil_div(w_.n, kPanel); }
  int64_t columns(int64_t p0, int64_t p1) const {
    return std::min(w_.n, p1 * kPanel) - p0 * kPanel;
  }

  /// Columns of panels [p0, p1) of the tokens [t0, t1), t0 a multiple of a token tile, of the
  /// result: to y, rows ldy apart, from its first column on.
  void run(int64_t p0, int64_t p1, int64_t t0, int64_t t1, float* y, int64_t ldy) const {
    kernels::GemmArgs part = args_;
    part.panels = w_.bytes.data<uint8_t>() + p0 * w_.panel_bytes;
    part.n = columns(p0, p1);
    part.p1 = p1 - p0;
    part.t = t1 - t0;
    part.x += t0 * part.ldx;
    if (part.xb != nullptr) part.xb += t0 * part.ldx;
    if (integer_) {
      const int64_t chunks = part.k / part.chunk;
      part.xq.codes += t0 * part.k;
      part.xq.scales += t0 * chunks;
      part.xq.starts += t0 * chunks;
      part.xq.lows += t0 * chunks;
    }
    part.y = y;
    part.ldy = ldy;
    if (part.bias != nullptr) part.bias += p0 * kPanel;
    if (integer_) {
      table().gemm_codes(&part);
      if (outliers_ != nullptr)
        outliers_->add(t0, t1, w_.form, static_cast<const uint8_t*>(part.panels), w_.panel_bytes,
                       part.n, y, ldy);
    } else if (w_.coded && part.t <= kFewTokens && part.xb == nullptr)
      table().gemm_codes_f32(&part);
    else if (w_.coded || (part.xb != nullptr && w_.type == DType::f32))
      multiply_expanded(part, w_);
    else if (part.xb != nullptr)
      table().gemm_bf16_dot(&part);
    else if (w_.type == DType::f32)
      table().gemm_f32(&part);
    else if (w_.type == DType::bf16)
      table().gemm_bf16(&part);
    else
      table().gemm_f16(&part);
  }

 private:
  const PackedWeight& w_;
  kernels::GemmArgs args_{};
  bool integer_ = false;
  const OutlierRows* outliers_ = nullptr;
};

}  // namespace

namespace {
// Those that a user can ask for.
constexpr std::pair<Activations, std::string_view> kNamed[] = {
    {Activations::f32, "f32"},
    {Activations::int8, "int8"},
    {Activations::llm_int8, "llm_int8"},
    {Activations::llm_int8_batch, "llm_int8_batch"}};
}  // namespace

std::string_view activations_name(Activations a) {
  for (const auto& [value, name] : kNamed)
    if (value == a) return name;
  fail(ErrorKind::internal, "activations of mixed precision have no name");
}

Activations activations_from_name(std::string_view text) {
  for (const auto& [value, name] : kNamed)
    if (name == text) return value;
  fail(ErrorKind::invalid_argument,
       "activations '{}': expected f32, int8, llm_int8 or llm_int8_batch", text);
}

kernels::QuantizedRows LinearInput::quantized(int64_t chunk, int zero) const {
  auto [it, fresh] = quantized_.try_emplace({chunk, zero});
  Quantized& q = it->second;
  const int64_t t = x_.dim(0), k = x_.dim(1), chunks = k / chunk;
  if (fresh) {
    q.codes = Tensor::empty({t, k}, DType::i8);
    q.scales = Tensor::empty({t, chunks}, DType::f32);
    q.starts = Tensor::empty({t, chunks}, DType::i32);
    q.lows = Tensor::empty({t, chunks}, DType::f32);
  }
  kernels::QuantizedRows all{q.codes.mutable_data<int8_t>(), q.scales.mutable_data<float>(),
                             q.starts.mutable_data<int32_t>(), q.lows.mutable_data<float>()};
  if (!fresh) return all;
  const float* in = x_.data<float>();
  parallel_for(t, kTokenTile, [&](int64_t b, int64_t e) {
    table().quantize_rows(in + b * k, k, e - b, k, chunk, zero,
                          {all.codes + b * k, all.scales + b * chunks, all.starts + b * chunks,
                           all.lows + b * chunks});
  });
  return all;
}

const OutlierRows& LinearInput::split(const OutlierRule& rule, int64_t chunk, int zero) const {
  auto [it, fresh] = split_.try_emplace({rule.threshold, rule.by_batch, chunk, zero});
  if (fresh) it->second = split_outliers(x_, rule, chunk, zero);
  return it->second;
}

const Tensor& LinearInput::rounded(std::string_view operation) const {
  if (!rounded_.empty_handle()) return rounded_;
  if (!operation.empty()) {
    rounded_ = ops::rounded_bf16(x_, std::string(operation) + ", input");
    return rounded_;
  }
  rounded_ = Tensor::empty(x_.shape(), DType::bf16);
  const float* in = x_.data<float>();
  auto* out = reinterpret_cast<uint16_t*>(rounded_.mutable_raw());
  parallel_for(x_.numel(), 1 << 14, [&](int64_t b, int64_t e) {
    table().round_to_bf16(in + b, e - b, out + b, nullptr);
  });
  return rounded_;
}

const Tensor& LinearInput::narrowed(Activations a, std::string_view operation) const {
  if (narrowed_.empty_handle())
    narrowed_ = ops::rounded(x_, *rounding_of(a), std::string(operation) + ", input");
  return narrowed_;
}

std::optional<kernels::Rounding> rounding_of(Activations a) {
  switch (a) {
    case Activations::bf16:
      return kernels::kRoundBf16;
    case Activations::f16:
      return kernels::kRoundF16;
    case Activations::tf32:
      return kernels::kRoundTf32;
    case Activations::tf32_truncated:
      return kernels::kCutTf32;
    default:
      return std::nullopt;
  }
}

std::string_view PackedWeight::activations(Activations a) const {
  if (a == Activations::f32) return "f32";
  if (a == Activations::llm_int8 || a == Activations::llm_int8_batch)
    return coded ? activations_name(a) : "f32";
  if (coded && a == Activations::int8) return "int8";
  const bool bf16 = a == Activations::bf16 ? coded || type != DType::f16
                                           : a == Activations::int8 && type == DType::bf16;
  return bf16 && k % 2 == 0 && kernels::uses_bf16_dots() ? "bf16" : "f32";
}

int64_t PackedWeight::byte_size() const { return ceil_div(n, kPanel) * panel_bytes; }

int64_t packed_bytes(const Weight& w) { return packed_form(w).byte_size(); }

PackedWeight pack_weight(const Weight& w, bool release) {
  HONE_ASSERT(w.shape.size() == 2);
  PackedWeight p = packed_form(w);
  // Only what is packed to stay: the holes that others leave between lasting ones are never filled.
  p.bytes = release ? Tensor::empty_lasting({p.byte_size()}, DType::u8)
                    : Tensor::empty({p.byte_size()}, DType::u8);
  const auto pack = packer(w, p);
  const int64_t panels = ceil_div(p.n, kPanel);
  const int64_t stride = round_up(
      std::max<int64_t>(1, kReleasedBytes / ceil_div(w.byte_size(), panels)), kPanelsPacked);
  for (int64_t first = 0; first < panels; first += stride) {
    const int64_t count = std::min(stride, panels - first);
    if (release) read_ahead(w, first * kPanel);
    parallel_for(count, kPanelsPacked,
                 [&](int64_t begin, int64_t end) { pack(w, p, first + begin, first + end); });
    if (release) release_rows(w, first * kPanel, std::min(p.n, (first + count) * kPanel));
  }
  return p;
}

void pack_again(const Weight& w, PackedWeight& p) {
  HONE_ASSERT(w.rows() == p.n && w.cols() == p.k);
  const auto pack = packer(w, p);
  parallel_for(ceil_div(p.n, kPanel), kPanelsPacked,
               [&](int64_t begin, int64_t end) { pack(w, p, begin, end); });
}

void narrow(PackedWeight& p, kernels::Rounding to, std::string_view operation) {
  if (p.coded || p.type != DType::f32) return;
  const auto* in = reinterpret_cast<const float*>(p.bytes.raw());
  const int64_t count = p.byte_size() / 4;
  constexpr int64_t kAtOnce = 1 << 12;
  PackedWeight made = p;
  made.type = to == kernels::kRoundBf16  ? DType::bf16
              : to == kernels::kRoundF16 ? DType::f16
                                         : DType::f32;
  made.panel_bytes = p.panel_bytes / 4 * dtype_size(made.type);
  made.bytes = Tensor::empty_lasting({made.byte_size()}, DType::u8);
  auto* out = reinterpret_cast<uint8_t*>(made.bytes.mutable_raw());
  ops::PartRounding rounding(to);
  parallel_for(ceil_div(count, kAtOnce), 1, [&](int64_t b, int64_t e) {
    float part[kAtOnce];
    for (; b < e; ++b) {
      const int64_t first = b * kAtOnce, n = std::min(kAtOnce, count - first);
      std::copy_n(in + first, n, part);
      rounding.round(part, 1, n, n);
      convert_floats(part, DType::f32, out + first * dtype_size(made.type), made.type, n);
    }
  });
  rounding.record(operation, p.n * p.k);
  p = std::move(made);
}

std::vector<Tensor> multiply_all(const LinearInput& in, std::span<const Product> products,
                                 Activations a) {
  std::vector<Job> jobs;
  std::vector<Tensor> results;
  std::vector<int64_t> first{0};  // work item of each job
  const int64_t tokens = in.x().dim(0), step = panels_per_item(tokens);
  std::deque<ops::PartRounding> roundings;
  for (const Product& p : products) {
    if (rounds_results(a)) roundings.emplace_back(*rounding_of(a));
    jobs.emplace_back(in, p, a);
    results.push_back(Tensor::empty({tokens, p.weight->n}, DType::f32));
    first.push_back(first.back() + ceil_div(jobs.back().panels(), step));
  }
  const int64_t items = first.back();
  const int64_t parts = items < kItemsWanted ? ceil_div(tokens, kTokensPerItem) : 1;
  const int64_t part = parts > 1 ? kTokensPerItem : tokens;
  parallel_for(items * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i_of_part = begin; i_of_part < end; ++i_of_part) {
      const int64_t item = i_of_part % items, t0 = i_of_part / items * part;
      auto after = std::upper_bound(first.begin(), first.end(), item);
      size_t i = static_cast<size_t>(after - first.begin()) - 1;
      int64_t p0 = (item - first[i]) * step;
      int64_t p1 = std::min(jobs[i].panels(), p0 + step);
      const int64_t n = results[i].dim(1);
      const int64_t t1 = std::min(tokens, t0 + part);
      float* y = results[i].mutable_data<float>() + t0 * n + p0 * kPanel;
      jobs[i].run(p0, p1, t0, t1, y, n);
      if (!roundings.empty()) roundings[i].round(y, t1 - t0, jobs[i].columns(p0, p1), n);
    }
  });
  for (size_t i = 0; i < products.size(); ++i) {
    const Product& p = products[i];
    if (!roundings.empty()) roundings[i].record(p.name, results[i].numel());
    const Tensor& x = in.x();
    const Tensor values = p.values == nullptr ? Tensor() : *p.values;
    if (!recorded({&x, p.bias, &values})) continue;
    // What is only passed on needs no values of x; the others as they were multiplied.
    Tensor kept;
    if (values.requires_gradient() && !in.again())
      kept = a == Activations::bf16 && p.weight->activations(a) == "bf16" ? in.rounded() : x;
    record(results[i], [x = x.hollow(), kept, again = in.again(), w = *p.weight, bias = *p.bias,
                        values, a, name = std::string(p.name)](const Tensor& flat) {
      const bool to_x = x.requires_gradient();
      Tensor dx = product_backward(flat.reshape({x.dim(0), w.n}), again ? again() : kept, w, values,
                                   bias, to_x, a, name);
      if (to_x) add_gradient(x, dx);
    });
  }
  return results;
}

Tensor multiply(const LinearInput& x, const PackedWeight& w, const Tensor& bias, Activations a) {
  Product one{&w, &bias};
  return multiply_all(x, {&one, 1}, a)[0];
}

Tensor multiply_gated(const LinearInput& in, const Product& gate, const Product& up, GatePair pair,
                      Activations a) {
  HONE_ASSERT(gate.weight->n == up.weight->n);
  const Job gates(in, gate, a), ups(in, up, a);
  const int64_t t = in.x().dim(0), n = up.weight->n;
  Tensor y = Tensor::empty({t, n}, DType::f32);
  float* out = y.mutable_data<float>();
  parallel_for(ups.panels(), panels_per_item(t), [&](int64_t p0, int64_t p1) {
    const int64_t columns = ups.columns(p0, p1);
    static thread_local std::vector<float> scratch;
    scratch.resize(static_cast<size_t>(2 * kGatedTokens * kPanelsPerItem * kPanel));
    float *g = scratch.data(), *u = g + kGatedTokens * columns;
    for (int64_t t0 = 0; t0 < t; t0 += kGatedTokens) {
      int64_t t1 = std::min(t, t0 + kGatedTokens);
      gates.run(p0, p1, t0, t1, g, columns);
      ups.run(p0, p1, t0, t1, u, columns);
      for (int64_t r = t0; r < t1; ++r)
        pair(g + (r - t0) * columns, u + (r - t0) * columns, columns, out + r * n + p0 * kPanel);
    }
  });
  return y;
}

}  // namespace hone
