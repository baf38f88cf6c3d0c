// What flows back through a product: dy·W, by panels of W's columns.
#include <algorithm>
#include <cstring>
#include <vector>

#include "base/checked.h"
#include "base/threads.h"
#include "encodings/product.h"
#include "kernels/select.h"
#include "ops/dense.h"
#include "ops/rounding.h"
#include "ops/tape.h"

namespace hone {

using kernels::CodeForm;
using kernels::kPanel;
using kernels::table;

namespace {

// Columns of the result that one work item makes, rows of the weight that are expanded at once, and
// the tokens that use them: the expanded part stays in the second-level cache.
constexpr int64_t kBackColumns = 64, kBackRows = 1024, kBackTokens = 1024;
// The tokens where the weight has few columns.
constexpr int64_t kBackFewTokens = 96;

void expand(const uint8_t* record, const CodeForm& form, int64_t columns, float* out) {
  table().expand_codes(record, form, columns, out);
}
void expand(const uint8_t* record, const CodeForm& form, int64_t columns, uint16_t* out) {
  table().expand_codes_bf16(record, form, columns, out);
}

// Columns [k0, k1) of panel p of codes as floats or bf16 [k1 − k0][16]; bounds are multiples of 16.
template <typename T>
void expand_columns(const PackedWeight& w, int64_t p, int64_t k0, int64_t k1, T* out) {
  const auto* panel = w.bytes.data<uint8_t>() + p * w.panel_bytes;
  const CodeForm& f = w.form;
  const int64_t scales = (f.scale_is_f16 ? 2 : 4) * kPanel * (1 + f.has_mins);
  std::vector<uint8_t> part;
  for (int64_t k = k0; k < k1;) {
    const int64_t g = k / f.group, end = std::min(k1, (g + 1) * f.group);
    const uint8_t* record = panel + g * record_bytes(f);
    CodeForm form = f;
    if (end - k < f.group) {
      // A record of fewer columns.
      form.group = end - k;
      part.resize(static_cast<size_t>(record_bytes(form)));
      std::memcpy(part.data(), record, static_cast<size_t>(scales));
      std::memcpy(part.data() + scales, record + scales + (k - g * f.group) * kPanel * f.bits / 8,
                  part.size() - static_cast<size_t>(scales));
      record = part.data();
    }
    expand(record, form, end - k, out + (k - k0) * kPanel);
    k = end;
  }
}

// Columns [k0, k1) of panel p as floats [k1 − k0][16].
void read_columns(const PackedWeight& w, int64_t p, int64_t k0, int64_t k1, float* out) {
  const uint8_t* panel = w.bytes.data<uint8_t>() + p * w.panel_bytes;
  if (w.coded) return expand_columns(w, p, k0, k1, out);
  convert_floats(panel + k0 * kPanel * dtype_size(w.type), w.type, out, DType::f32,
                 (k1 - k0) * kPanel);
}
// The same as bf16.
void read_columns(const PackedWeight& w, int64_t p, int64_t k0, int64_t k1, uint16_t* out) {
  if (w.coded) return expand_columns(w, p, k0, k1, out);
  static thread_local std::vector<float> floats;
  floats.resize(static_cast<size_t>((k1 - k0) * kPanel));
  read_columns(w, p, k0, k1, floats.data());
  table().round_to_bf16(floats.data(), std::ssize(floats), out, nullptr);
}

// `columns` columns from k0 on of panel p, stored as T, turned; or false where they are not.
bool turn_stored(const PackedWeight& w, int64_t p, int64_t k0, int64_t columns, float* to,
                 int64_t stride) {
  if (w.coded) return false;
  const auto type = w.type == DType::f32    ? kernels::kF32
                    : w.type == DType::bf16 ? kernels::kBf16
                                            : kernels::kF16;
  const uint8_t* panel = w.bytes.data<uint8_t>() + p * w.panel_bytes;
  table().transpose_panel(panel + k0 * kPanel * dtype_size(w.type), type, columns, to, stride);
  return true;
}
bool turn_stored(const PackedWeight& w, int64_t p, int64_t k0, int64_t columns, uint16_t* to,
                 int64_t stride) {
  if (w.coded || w.type != DType::bf16) return false;
  const uint8_t* panel = w.bytes.data<uint8_t>() + p * w.panel_bytes;
  table().transpose_bf16(reinterpret_cast<const uint16_t*>(panel) + k0 * kPanel, columns, to,
                         stride);
  return true;
}
void turn(const float* panel, int64_t columns, float* to, int64_t stride) {
  table().transpose_panel(panel, kernels::kF32, columns, to, stride);
}
void turn(const uint16_t* panel, int64_t columns, uint16_t* to, int64_t stride) {
  table().transpose_bf16(panel, columns, to, stride);
}

// Rows [n0, n1) and columns [k0, k1) of the weight, as floats or what bf16 holds of them, as panels
// of its columns, [n1 − n0][16] each. Writes up to 15 rows more behind the last of them.
template <typename T>
void transpose_part(const PackedWeight& w, int64_t n0, int64_t n1, int64_t k0, int64_t k1, T* out) {
  const int64_t stride = (n1 - n0) * kPanel;
  const int64_t columns = round_up(k1 - k0, kPanel), whole = (k1 - k0) / kPanel * kPanel;
  static thread_local std::vector<T> panel;
  panel.assign(static_cast<size_t>(columns * kPanel), T());
  // The last first: what it writes beyond its rows is the beginning of the next panel.
  for (int64_t p = (n1 - 1) / kPanel; p >= n0 / kPanel; --p) {
    T* to = out + (p * kPanel - n0) * kPanel;
    if (whole == columns && turn_stored(w, p, k0, columns, to, stride)) continue;
    read_columns(w, p, k0, k1, panel.data());
    turn(panel.data(), columns, to, stride);
  }
}

// dy·W of dy f32 [T, N], or where dots of bf16 run, of bf16 [T, N]; rounded where `rounding` is.
Tensor back_through(const Tensor& dy, const PackedWeight& w, ops::PartRounding* rounding) {
  const int64_t t = dy.dim(0);
  HONE_ASSERT(dy.rank() == 2 && dy.dim(1) == w.n);
  const bool dots = dy.dtype() == DType::bf16;
  Tensor dx = Tensor::empty({t, w.k}, DType::f32);
  float* out = dx.mutable_data<float>();
  const int64_t strips = ceil_div(w.k, kBackColumns);
  const int64_t tokens = strips < 4 ? kBackFewTokens : kBackTokens, parts = ceil_div(t, tokens);
  parallel_for(strips * parts, 1, [&](int64_t b, int64_t e) {
    static thread_local std::vector<float> floats;
    static thread_local std::vector<uint16_t> rounded;
    const auto size = static_cast<size_t>((kBackRows + kPanel) * kBackColumns);
    if (dots)
      rounded.resize(size);
    else
      floats.resize(size);
    for (int64_t item = b; item < e; ++item) {
      const int64_t k0 = item % strips * kBackColumns, k1 = std::min(w.k, k0 + kBackColumns);
      const int64_t t0 = item / strips * tokens, t1 = std::min(t, t0 + tokens);
      kernels::GemmArgs g{};
      g.t = t1 - t0;
      g.n = k1 - k0;
      g.p1 = ceil_div(g.n, kPanel);
      g.y = out + t0 * w.k + k0;
      g.ldy = w.k;
      g.ldx = w.n;
      for (int64_t n0 = 0; n0 < w.n; n0 += kBackRows) {
        const int64_t n1 = std::min(w.n, n0 + kBackRows);
        g.accumulate = n0 > 0;
        g.k = n1 - n0;
        if (!dots) {
          transpose_part(w, n0, n1, k0, k1, floats.data());
          g.x = dy.data<float>() + t0 * w.n + n0;
          g.panels = floats.data();
          table().gemm_f32(&g);
          continue;
        }
        transpose_part(w, n0, n1, k0, k1, rounded.data());
        g.xb = reinterpret_cast<const uint16_t*>(dy.raw()) + t0 * w.n + n0;
        g.panels = rounded.data();
        table().gemm_bf16_dot(&g);
      }
      if (rounding != nullptr) rounding->round(g.y, g.t, g.n, g.ldy);
    }
  });
  return dx;
}

// x [T, C] of bf16 turned: [C][T].
std::vector<uint16_t> turned(const Tensor& x) {
  constexpr int64_t kBlock = 32;
  const int64_t rows = x.dim(0), columns = x.dim(1);
  std::vector<uint16_t> out(static_cast<size_t>(rows * columns));
  const auto* in = reinterpret_cast<const uint16_t*>(x.raw());
  parallel_for(ceil_div(columns, kBlock), 1, [&](int64_t b, int64_t e) {
    for (int64_t c0 = b * kBlock; c0 < std::min(columns, e * kBlock); c0 += kBlock)
      for (int64_t r0 = 0; r0 < rows; r0 += kBlock)
        for (int64_t c = c0; c < std::min(columns, c0 + kBlock); ++c)
          for (int64_t r = r0; r < std::min(rows, r0 + kBlock); ++r)
            out[static_cast<size_t>(c * rows + r)] = in[r * columns + c];
  });
  return out;
}

// Adds dyᵀ·x, rounded to bf16 where `rounding` is, to dw [N, K], for dy [T, N] and x [T, K] of
// bf16; T is even. Rows of dyᵀ meet columns of x: the product of as many tokens as dy has columns.
void accumulate_bf16(const Tensor& dy, const Tensor& x, Tensor& dw, ops::PartRounding* rounding) {
  const int64_t t = dy.dim(0), n = dy.dim(1), k = x.dim(1);
  float* out = dw.mutable_data<float>();
  if (k < kBackColumns && n > k) {
    // Few columns, as LoRA's B has them, become few tokens.
    Tensor across = Tensor::zeros({k, n}, DType::f32);
    accumulate_bf16(x, dy, across, nullptr);
    float* from = across.mutable_data<float>();
    if (rounding != nullptr) rounding->round(from, 1, across.numel(), 0);
    parallel_for(n, 256, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i)
        for (int64_t j = 0; j < k; ++j) out[i * k + j] += from[j * n + i];
    });
    return;
  }
  const std::vector<uint16_t> rows = turned(dy);
  const auto* columns = reinterpret_cast<const uint16_t*>(x.raw());
  const int64_t strips = ceil_div(k, kBackColumns), parts = ceil_div(n, kBackTokens);
  parallel_for(strips * parts, 1, [&](int64_t b, int64_t e) {
    static thread_local std::vector<uint16_t> panels;
    static thread_local std::vector<float> made;
    panels.resize(static_cast<size_t>(t * kBackColumns));
    made.resize(static_cast<size_t>(kBackTokens * kBackColumns));
    int64_t packed = -1;
    for (int64_t item = b; item < e; ++item) {
      const int64_t k0 = item / parts * kBackColumns, k1 = std::min(k, k0 + kBackColumns);
      const int64_t n0 = item % parts * kBackTokens, n1 = std::min(n, n0 + kBackTokens);
      // A row of the whole strip at a time, which is one piece of memory.
      uint16_t row[kBackColumns] = {};
      for (int64_t r = 0; r < t && packed != k0; ++r) {
        std::copy_n(columns + r * k + k0, k1 - k0, row);
        for (int64_t c = 0; c < k1 - k0; c += kPanel)
          std::copy_n(row + c, kPanel, panels.data() + c * t + r * kPanel);
      }
      packed = k0;
      kernels::GemmArgs g{};
      g.t = n1 - n0;
      g.n = k1 - k0;
      g.p1 = ceil_div(g.n, kPanel);
      g.y = rounding != nullptr ? made.data() : out + n0 * k + k0;
      g.ldy = rounding != nullptr ? g.n : k;
      g.accumulate = rounding == nullptr;
      g.xb = rows.data() + n0 * t;
      g.ldx = t;
      g.panels = panels.data();
      g.k = t;
      table().gemm_bf16_dot(&g);
      if (rounding == nullptr) continue;
      rounding->round(g.y, 1, g.t * g.n, 0);
      for (int64_t r = 0; r < g.t; ++r) {
        float* to = out + (n0 + r) * k + k0;
        table().add(to, g.y + r * g.n, g.n, to);
      }
    }
  });
}

// What bf16 holds of x, which a forward counted.
Tensor as_bf16(const Tensor& x) { return x.dtype() == DType::bf16 ? x : LinearInput(x).rounded(); }

}  // namespace

Tensor multiply_transposed(const Tensor& dy, const PackedWeight& w) {
  return back_through(dy, w, nullptr);
}

Tensor product_backward(Tensor dy, const Tensor& x, const PackedWeight& w, const Tensor& values,
                        const Tensor& bias, bool to_x, Activations a, std::string_view name,
                        bool part) {
  const auto rounding = rounding_of(a);
  const std::string what(name);
  const bool dots = a == Activations::bf16 && w.n % 2 == 0 && kernels::uses_bf16_dots() &&
                    (dy.dim(0) % 2 == 0 || !values.requires_gradient());
  if (dots) {
    const Tensor narrow = ops::rounded_bf16(dy, what + ", gradient");
    if (bias.requires_gradient()) ops::accumulate_columns(narrow.to(DType::f32), gradient_of(bias));
    if (values.requires_gradient()) {
      ops::PartRounding rounds(*rounding);
      accumulate_bf16(narrow, as_bf16(x), gradient_of(values), part ? nullptr : &rounds);
      if (!part) rounds.record(what + ", weight gradient", values.numel());
    }
    if (!to_x) return {};
    ops::PartRounding parts(*rounding);
    Tensor dx = back_through(narrow, w, &parts);
    parts.record(what + ", input gradient", dx.numel());
    return dx;
  }
  if (rounding) dy = ops::rounded(dy, *rounding, what + ", gradient");
  if (values.requires_gradient()) {
    if (!rounding) {
      ops::accumulate_product(dy, x, gradient_of(values));
    } else {
      // The type holds each micro-batch's gradient before it is added up in f32.
      const Tensor in = [&] {
        if (x.dtype() == DType::bf16) return x.to(DType::f32);
        ops::FlightRecorder::Pause counted;  // in the forward
        return ops::rounded(x, *rounding, what + ", input");
      }();
      if (part || !rounds_results(a)) {
        ops::accumulate_product(dy, in, gradient_of(values));
      } else {
        Tensor dw = Tensor::zeros(values.shape(), DType::f32);
        ops::accumulate_product(dy, in, dw);
        ops::round_in_place(dw, *rounding, what + ", weight gradient");
        add_gradient(values, dw);
      }
    }
  }
  if (bias.requires_gradient()) ops::accumulate_columns(dy, gradient_of(bias));
  if (!to_x) return {};
  Tensor dx = multiply_transposed(dy, w);
  if (rounds_results(a)) ops::round_in_place(dx, *rounding, what + ", input gradient");
  return dx;
}

Tensor row_squares(const PackedWeight& w) {
  Tensor sums = Tensor::zeros({w.n}, DType::f32);
  float* out = sums.mutable_data<float>();
  parallel_for(ceil_div(w.n, kPanel), 1, [&](int64_t b, int64_t e) {
    std::vector<float> panel(static_cast<size_t>(w.k * kPanel));
    for (int64_t p = b; p < e; ++p) {
      const uint8_t* at = w.bytes.data<uint8_t>() + p * w.panel_bytes;
      if (w.coded)
        table().expand_codes(at, w.form, w.k, panel.data());
      else
        convert_floats(at, w.type, panel.data(), DType::f32, w.k * kPanel);
      for (int64_t r = 0; r < std::min<int64_t>(kPanel, w.n - p * kPanel); ++r) {
        double sum = 0;
        for (int64_t k = 0; k < w.k; ++k) {
          const double v = panel[static_cast<size_t>(k * kPanel + r)];
          sum += v * v;
        }
        out[p * kPanel + r] = static_cast<float>(sum);
      }
    }
  });
  return sums;
}

}  // namespace hone
