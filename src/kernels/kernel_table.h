// The table of kernels: plain functions on raw pointers, one table for each instruction set.
//
// Kernels are single-threaded and work on ranges; callers split the work (base/threads.h). This
// header is included by sources compiled for particular instruction sets, so it holds plain data
// only: no inline function, no template, no C++ library header.
//
// Packed weights. A weight [N, K] is stored as panels of kPanel = 16 rows (N padded with zeros), so
// that the lanes of a vector are output rows and a sum over K runs in one order, k = 0 … K−1 (in
// chunks for integer codes), for every batch size: prefill and decode agree bit for bit.
//  * float panel:   [K][16] of f32, bf16 or f16.
//  * code panel:    for each group of columns one record: scales [16] (f16 or f32), mins [16] (same
//                   type, if any), then codes. 8-bit: units of 4 columns, 64 bytes: byte 4r+j is
//                   row r, column j, stored as code+128. 4-bit: units of 8 columns, 64 bytes: the
//                   low nibble of byte 4r+j is row r, column j; the high nibble column 4+j.
// int8 activations are quantised in chunks of kChunk = 32 columns (16 where a weight's group is
// 16), symmetric, scale = amax/127 (llama.cpp's Q8_0 rule). Tokens stand in tiles: of sixteen as
// far as they go, then of eight, four, two and one. A tile of m tokens that begins at token t0 has
// its codes from t0·K on, [chunks][m][chunk], and its scales from t0·chunks on, [chunks][m].
#pragma once

#include <stdint.h>

namespace hone::kernels {

constexpr int kPanel = 16;
constexpr int kChunk = 32;
// Keys of one page of a KV cache; also the width of an attention tile.
constexpr int kPageKeys = 64;
// Elements of an 8-bit optimizer state that share a scale.
constexpr int kStateBlock = 256;
// Values of which block_maxima gives one.
constexpr int kMaximaBlock = 64;

enum FloatType { kF32, kBf16, kF16 };

struct CodeForm {
  int bits;            // 4 or 8
  int zero;            // subtracted from the stored code (8-bit: 128)
  int has_mins;        // 0 or 1
  int scale_is_f16;    // 0: f32
  int64_t group;       // columns of one record
  const float* table;  // 16 values replacing (code − zero), or null
  // With a table, the 16 bytes whose integer sums stand for it: value = (step − zero)·unit, exactly
  // or nearly; zero is 128.
  const uint8_t* steps;
  float unit;
};

// int8 activations of t tokens.
struct QuantizedRows {
  int8_t* codes;    // [t·k]
  float* scales;    // [t·chunks]
  int32_t* starts;  // likewise: −zero·(sum of the chunk's codes), zero being the weight's
  float* lows;      // likewise: scale·(sum of the codes), what a weight's min multiplies
};

// y[t, n] = Σ_k x[t, k]·w[n, k] + bias[n] for the panels [p0, p1).
struct GemmArgs {
  const void* panels;  // the first byte of panel p0
  const float* x;      // [t, k], rows ldx apart
  int64_t ldx;
  QuantizedRows xq;    // integer kernels
  const uint16_t* xb;  // gemm_bf16_dot: x rounded to bf16
  int64_t chunk;       // 32 or 16
  float* y;            // [t, n], rows ldy apart
  int64_t ldy;
  const float* bias;  // [n] or null
  int64_t t, n, k;
  int64_t p0, p1;
  CodeForm form;   // code panels
  int accumulate;  // gemm_f32: adds to y instead of writing it; without a bias
};

// What a page of a KV cache holds. Dimensions are padded with zeros: D to D' = whole vectors of 16,
// Dv to Dv' = whole groups of kValueGroup.
//  * floats: K as panels of 16 keys [4][D][16] (lanes are keys), V as groups [Dv'/32][64][32].
//  * codes: value = scale·code + min. K has a scale and a min for each channel of the page: f16
//    scales [D'], mins [D'], then codes, of 8 bits [4][D][16], of 4 bits [2][D][16] with panel 2i
//    in the low nibbles and 2i+1 in the high ones. V has them for each key and group: f16 scales
//    [Dv'/32][64], mins likewise, then codes, of 8 bits [Dv'/32][64][32], of 4 bits
//    [Dv'/32][64][16] with a group's first half in the low nibbles.
//  * 8-bit floats, OCP E4M3 and E5M2, finite ones only: value = scale·code. K and V begin with
//    kScaleBytes, of which the first four are the scale, an f32; then codes, K as pairs of panels
//    [2][D][32], V as [Dv'/32][64][32].
enum KvForm { kKvF32, kKvBf16, kKvF16, kKvInt8, kKvInt4, kKvE4m3, kKvE5m2 };
constexpr int kValueGroup = 32;
// So many that no vector of codes lies in two cache lines.
constexpr int kScaleBytes = 32;

// kPageKeys keys and values of one kv head.
struct KvTile {
  const void* k;
  const void* v;
  int form;
};

// `rows` query rows (heads of one group × consecutive positions) against a list of tiles of one kv
// head. What comes out is a part, to be merged with those of other keys of the same rows: for each
// row the largest score (base 2), the sum of exponentials and the unnormalised values.
struct AttentionPart {
  float* o;    // [rows][Dv']
  float* top;  // [rows], −infinity where no key was seen
  float* sum;  // [rows]
};
// What changes a score beside its scale and soft cap, and which probabilities survive; null =
// nothing. A row is a query.
struct ScoreTerms {
  // ALiBi: slope[r]·(key − query[r]), or −slope[r]·|key − query[r]|.
  const float* slope;    // [rows]
  const int64_t* query;  // [rows], positions
  int alibi_signed;
  int alibi_first;  // before the soft cap, else behind it
  // Added behind the soft cap: row r, key k at bias[bias_offset[r] + k], k < keys.
  const float* bias;
  const int64_t* bias_offset;
  int64_t keys;
  // Dropout: probabilities whose bit is set are multiplied by keep_factor, the others by 0; the sum
  // of exponentials takes them all.
  float keep_factor;
};
// Memory to bring into the second-level cache while something else is computed: runs of cache
// lines, of which whoever fetches takes off what it has asked for: one line for so many steps of a
// product, which are 8 rows times two vectors at most.
enum FetchPace { kFetchOften = 2, kFetchSeldom = 4 };
struct LineRun {
  const void* at;
  int64_t lines;
};
struct FetchQueue {
  const LineRun* run;  // [runs]
  int64_t runs;
  int64_t done;  // lines of the first one
  FetchPace every;
};
struct AttentionArgs {
  const float* q;           // row r at q + q_offset[r], D floats
  const int64_t* q_offset;  // [rows]
  const KvTile* tile;       // [tiles]
  const uint64_t* masks;    // [tiles][rows]: bit j set = key j of the tile is seen
  int64_t rows, tiles, d, dv;
  float scale;
  float softcap;  // 0 = none
  AttentionPart part;
  ScoreTerms terms;
  const int64_t* tile_key;  // [tiles], the position of each tile's first key; only for `terms`
  const uint64_t* keep;     // [tiles][rows], of dropout; null = none
  // The tile to begin with: those in front of it were the call's before, whose part and scratch are
  // as it left them. Up to `tiles`; behind these so many more are known, to be read ahead.
  int64_t first, more;
  FetchQueue* fetch;  // for the work behind this; null = nothing
  // At least rows·(2·D' + 2·kPageKeys + 32) + kPageKeys·(D' + Dv') + 32 floats; fastest where this
  // and the pages begin with a cache line.
  float* scratch;
};

// Of `rows` query rows against one tile of keys, from raw scores q·k to what gradients are products
// of. `s` becomes the probabilities p, `dp`, which holds dO·v, becomes dL/d(q·k).
struct AttentionGradients {
  float *s, *dp;         // [rows][kPageKeys]
  const uint64_t* mask;  // [rows]: bit j set = key j is seen
  const float* log_sum;  // [rows]: log Σ exp of all scores of the row
  const float* delta;    // [rows]: Σ dO·O
  int64_t rows;
  float scale, softcap;
  ScoreTerms terms;
  int64_t key;           // the position of the tile's first
  const uint64_t* keep;  // [rows], of dropout; null = none
  float* dbias;          // null = not wanted; dL/dbias is added where the bias stands
};

// One step of an optimizer over n elements of a parameter w of some float type. With g the gradient
// times gradient_factor, w ← keep·w − u, u the method's change, in f32; then w is rounded to its
// type, to the nearest or at random: element i draws from (key, first + i), by the same function on
// every instruction set.
//   adamw       m ← m + (1−β1)(g − m), v ← β2·v + (1−β2)·g², u = rate·m/(√v·root_factor + eps)
//   adamw_8bit  likewise, with states as codes of the dynamic 8-bit map, signed for m and unsigned
//               for v; m and v are then the largest magnitudes of each kStateBlock elements
//   sgd         g' = g + l2·w, m ← β1·m + g', u = rate·m, with nesterov rate·(g' + β1·m), without
//               m rate·g'
//   lion        u = rate·sign(m + (1−β1)(g − m)), m ← m + (1−β2)(g − m)
//   adafactor   c = rate·g·v, v fixed; with m: m ← β1·m + (1−β1)·c, u = m; without: u = c
struct UpdateArgs {
  void* w;
  int type;  // FloatType
  const float* g;
  float *m, *v;
  uint8_t *m_codes, *v_codes;
  int64_t n;
  float gradient_factor, keep, rate;
  float beta1, rest1, beta2, rest2;  // rest = 1 − β, rounded once
  float root_factor, eps, l2;
  int nesterov;
  int stochastic;
  uint64_t key;
  uint32_t first;
  int count_unchanged;  // the kernel then returns how many w stayed what they were though u was not
                        // 0
};

// Of linear attention: kernels/linear_attention.h.
struct LinearArgs;
struct LinearGradients;

// What training rounds values to. tf32 has 10 bits of fraction, rounded to the nearest (ties away
// from zero) or cut off.
enum Rounding { kRoundBf16, kRoundF16, kRoundTf32, kCutTf32 };

// A loop of one operation on registers: what the machine can do at most.
enum Feature { kAnyCpu, kAvx512Bf16, kAvx512Fp16 };  // needed beyond the instruction set
struct PeakLoop {
  const char* name;  // "fp32 FMA"; null ends a list
  int feature;
  double operations;  // of one round; a multiply-add counts as two
  void (*run)(int64_t rounds);
};

struct KernelTable {
  const char* isa;
  int rank;  // the highest runs where none is asked for or was measured to be the fastest
  void (*gemm_f32)(const GemmArgs*);
  void (*gemm_bf16)(const GemmArgs*);
  void (*gemm_f16)(const GemmArgs*);
  // bf16 panels and activations xb, of an even number of columns. Null where the instruction set
  // has no such dots; the CPU must have kAvx512Bf16.
  void (*gemm_bf16_dot)(const GemmArgs*);
  // To the nearest, ties to even; a NaN stays one. `lost`, where it is not null, is that of
  // round_values.
  void (*round_to_bf16)(const float* x, int64_t n, uint16_t* y, int64_t lost[2]);
  void (*gemm_codes)(const GemmArgs*);  // int8 activations
  // f32 activations: bit for bit what gemm_f32 gives with the expanded panels. Every tile of up to
  // four tokens expands anew.
  void (*gemm_codes_f32)(const GemmArgs*);
  // Expands one code panel to a float panel [K][16], or to what bf16 holds of it.
  void (*expand_codes)(const void* panel, CodeForm form, int64_t k, float* out);
  void (*expand_codes_bf16)(const void* panel, CodeForm form, int64_t k, uint16_t* out);
  // A float panel [k][16] of a type, k a multiple of 16, as panels of what were its columns: those
  // of columns 16j … 16j+15 go to out + j·stride, [16 rows][16].
  void (*transpose_panel)(const void* panel, FloatType type, int64_t k, float* out, int64_t stride);
  // The same of bf16 to bf16.
  void (*transpose_bf16)(const uint16_t* panel, int64_t k, uint16_t* out, int64_t stride);
  // x[t, k], rows ldx apart.
  void (*quantize_rows)(const float* x, int64_t ldx, int64_t t, int64_t k, int64_t chunk, int zero,
                        QuantizedRows out);
  void (*attention)(const AttentionArgs*);
  // `into` becomes what it would be with the tiles of `from` behind its own; `from` is spoilt.
  void (*attention_merge)(int64_t rows, int64_t dv, AttentionPart into, AttentionPart from);
  // Row r of the result, Dv floats, to o + o_offset[r]; zeros where no key was seen.
  void (*attention_finish)(int64_t rows, int64_t dv, AttentionPart part, const int64_t* o_offset,
                           float* o);
  // y = x/rms(x)·(w + offset); rows of d.
  void (*rms_norm)(const float* x, const float* w, float offset, float eps, int64_t rows, int64_t d,
                   float* y);
  void (*layer_norm)(const float* x, const float* w, const float* b, float eps, int64_t rows,
                     int64_t d, float* y);
  // y[i] = act(gate[i])·up[i]
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* y);
  void (*gelu_tanh_mul)(const float* gate, const float* up, int64_t n, float* y);
  void (*gelu_tanh)(const float* x, int64_t n, float* y);
  void (*add)(const float* a, const float* b, int64_t n, float* y);
  // log Σ exp(x) of one row.
  float (*log_sum_exp)(const float* x, int64_t n);
  // The largest of each kMaximaBlock values, NaN left out; -inf where nothing is left.
  void (*block_maxima)(const float* x, int64_t n, float* maxima);
  // w[i] = exp((x[i] − top)·factor) where x[i] ≥ least, 0 elsewhere and for NaN.
  void (*weights_at_least)(const float* x, int64_t n, float least, float top, float factor,
                           float* w);
  // The sum of the w[i] with x[i] ≥ least, and how many there are.
  double (*mass_at_least)(const float* x, const float* w, int64_t n, float least, int64_t* count);
  // The i with least ≤ x[i] < below, ascending, to `found` (space for n); returns how many.
  int64_t (*find_between)(const float* x, int64_t n, float least, float below, int32_t* found);
  // c[i, j] += Σ_s a[s, i]·b[s, j] for i in [i0, i1), j in [j0, j1): sums run over s in order. Gram
  // matrices, Cholesky's trailing update and triangular inversion are all this product.
  void (*accumulate_tn)(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t rows,
                        int64_t i0, int64_t i1, int64_t j0, int64_t j1, float* c, int64_t ldc);
  // Backward: gradients of a kernel's inputs for dy, the gradient of its result. dw and db (null =
  // not wanted) are added to; the others are written, and may be dy.
  void (*rms_norm_backward)(const float* x, const float* w, float offset, float eps,
                            const float* dy, int64_t rows, int64_t d, float* dx, float* dw);
  void (*layer_norm_backward)(const float* x, const float* w, float eps, const float* dy,
                              int64_t rows, int64_t d, float* dx, float* dw, float* db);
  void (*silu_mul_backward)(const float* gate, const float* up, const float* dy, int64_t n,
                            float* dgate, float* dup);
  void (*gelu_tanh_mul_backward)(const float* gate, const float* up, const float* dy, int64_t n,
                                 float* dgate, float* dup);
  void (*gelu_tanh_backward)(const float* x, const float* dy, int64_t n, float* dx);
  // y = exp(x − log_sum)·scale; y may be x.
  void (*softmax_of)(const float* x, int64_t n, float log_sum, float scale, float* y);
  void (*attention_gradients)(const AttentionGradients*);
  // Linear attention of one head of one sequence: token by token, by chunks, and what flows back.
  void (*linear_recurrent)(const LinearArgs*);
  void (*linear_chunked)(const LinearArgs*);
  void (*linear_backward)(const LinearGradients*);
  // y[i] = f(Σ_j w[j·n + i]·x[j][i] + bias[i]), j < taps in order; f is SiLU where `silu`.
  void (*short_conv_row)(const float* const* x, const float* w, const float* bias, int64_t taps,
                         int64_t n, int silu, float* y);
  // Optimizers: UpdateArgs.
  int64_t (*adamw)(const UpdateArgs*);
  int64_t (*adamw_8bit)(const UpdateArgs*);
  int64_t (*sgd)(const UpdateArgs*);
  int64_t (*lion)(const UpdateArgs*);
  int64_t (*adafactor)(const UpdateArgs*);
  // Σ (x·factors)², factors null = 1; the same bits on every instruction set. Not finite where, and
  // only where, one of the products is not.
  double (*sum_of_squares)(const float* x, const float* factors, int64_t n);
  // sums[i] += (x[i]·factor)² + eps
  void (*add_squares_to)(const float* x, float factor, float eps, int64_t n, float* sums);
  // y = x rounded, f32 still; y may be x. `lost` gets added to: finite values that became infinite,
  // and others that became 0.
  void (*round_values)(const float* x, int64_t n, Rounding to, float* y, int64_t lost[2]);
  const PeakLoop* peaks;
  // Reads memory, a multiple of 256 bytes, as fast as it can.
  void (*read_memory)(const void* from, int64_t bytes);
};

}  // namespace hone::kernels
