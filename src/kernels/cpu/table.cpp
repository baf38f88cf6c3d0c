// This instruction set's kernel table: plain data, filled at compile time.
#include "kernels/cpu/simd.h"

#define HONE_STRING2(x) #x
#define HONE_STRING(x) HONE_STRING2(x)

namespace hone::kernels::HONE_ISA {

void gemm_f32(const GemmArgs*);
void gemm_bf16(const GemmArgs*);
void gemm_f16(const GemmArgs*);
#ifdef HONE_BF16_DOT
void gemm_bf16_dot(const GemmArgs*);
#else
constexpr void (*gemm_bf16_dot)(const GemmArgs*) = nullptr;
#endif
void round_to_bf16(const float*, int64_t, uint16_t*, int64_t[2]);
void gemm_codes(const GemmArgs*);
void gemm_codes_f32(const GemmArgs*);
void expand_codes(const void*, CodeForm, int64_t, float*);
void expand_codes_bf16(const void*, CodeForm, int64_t, uint16_t*);
void transpose_panel(const void*, FloatType, int64_t, float*, int64_t);
void transpose_bf16(const uint16_t*, int64_t, uint16_t*, int64_t);
void quantize_rows(const float*, int64_t, int64_t, int64_t, int64_t, int, QuantizedRows);
void attention(const AttentionArgs*);
void attention_merge(int64_t, int64_t, AttentionPart, AttentionPart);
void attention_finish(int64_t, int64_t, AttentionPart, const int64_t*, float*);
void rms_norm(const float*, const float*, float, float, int64_t, int64_t, float*);
void layer_norm(const float*, const float*, const float*, float, int64_t, int64_t, float*);
void silu_mul(const float*, const float*, int64_t, float*);
void gelu_tanh_mul(const float*, const float*, int64_t, float*);
void gelu_tanh(const float*, int64_t, float*);
void add(const float*, const float*, int64_t, float*);
float log_sum_exp(const float*, int64_t);
void block_maxima(const float*, int64_t, float*);
void weights_at_least(const float*, int64_t, float, float, float, float*);
double mass_at_least(const float*, const float*, int64_t, float, int64_t*);
int64_t find_between(const float*, int64_t, float, float, int32_t*);
void accumulate_tn(const float*, int64_t, const float*, int64_t, int64_t, int64_t, int64_t, int64_t,
                   int64_t, float*, int64_t);

void rms_norm_backward(const float*, const float*, float, float, const float*, int64_t, int64_t,
                       float*, float*);
void layer_norm_backward(const float*, const float*, float, const float*, int64_t, int64_t, float*,
                         float*, float*);
void silu_mul_backward(const float*, const float*, const float*, int64_t, float*, float*);
void gelu_tanh_mul_backward(const float*, const float*, const float*, int64_t, float*, float*);
void gelu_tanh_backward(const float*, const float*, int64_t, float*);
void softmax_of(const float*, int64_t, float, float, float*);
void attention_gradients(const AttentionGradients*);
void linear_recurrent(const LinearArgs*);
void linear_chunked(const LinearArgs*);
void linear_backward(const LinearGradients*);
void short_conv_row(const float* const*, const float*, const float*, int64_t, int64_t, int, float*);

int64_t adamw(const UpdateArgs*);
int64_t adamw_8bit(const UpdateArgs*);
int64_t sgd(const UpdateArgs*);
int64_t lion(const UpdateArgs*);
int64_t adafactor(const UpdateArgs*);
double sum_of_squares(const float*, const float*, int64_t);
void add_squares_to(const float*, float, float, int64_t, float*);

void round_values(const float*, int64_t, Rounding, float*, int64_t[2]);
void read_memory(const void*, int64_t);
extern const PeakLoop kPeaks[];

extern const KernelTable kTable;
const KernelTable kTable = {
    HONE_STRING(HONE_ISA),
    HONE_ISA_RANK,
    gemm_f32,
    gemm_bf16,
    gemm_f16,
    gemm_bf16_dot,
    round_to_bf16,
    gemm_codes,
    gemm_codes_f32,
    expand_codes,
    expand_codes_bf16,
    transpose_panel,
    transpose_bf16,
    quantize_rows,
    attention,
    attention_merge,
    attention_finish,
    rms_norm,
    layer_norm,
    silu_mul,
    gelu_tanh_mul,
    gelu_tanh,
    add,
    log_sum_exp,
    block_maxima,
    weights_at_least,
    mass_at_least,
    find_between,
    accumulate_tn,
    rms_norm_backward,
    layer_norm_backward,
    silu_mul_backward,
    gelu_tanh_mul_backward,
    gelu_tanh_backward,
    softmax_of,
    attention_gradients,
    linear_recurrent,
    linear_chunked,
    linear_backward,
    short_conv_row,
    adamw,
    adamw_8bit,
    sgd,
    lion,
    adafactor,
    sum_of_squares,
    add_squares_to,
    round_values,
    kPeaks,
    read_memory,
};

}  // namespace hone::kernels::HONE_ISA
