#include "attention/conventions.h"

#include <cmath>

#include "attention/terms.h"
#include "base/error.h"

namespace hone {
namespace {

AttentionSpec make_spec(const HeadShape& s, double scale, float softcap, Pattern pattern) {
  AttentionSpec spec;
  spec.heads = s.heads;
  spec.kv_heads = s.kv_heads;
  spec.k_dim = s.k_dim;
  spec.v_dim = s.v_dim;
  spec.scale = static_cast<float>(scale != 0 ? scale : 1 / std::sqrt(double(s.k_dim)));
  spec.softcap = softcap;
  spec.pattern = std::move(pattern);
  check_spec(spec);
  return spec;
}

void check_size(const char* what, int64_t n, int64_t least) {
  HONE_CHECK(n >= least, invalid_argument, "{}: expected at least {}, got {}", what, least, n);
}

// A pattern without what does not limit it.
Pattern both(bool first, Pattern a, bool second, Pattern b) {
  return first && second ? a & b : first ? a : second ? b : Pattern();
}

}  // namespace

AttentionSpec from_fa(const HeadShape& shape, const FaArguments& a) {
  check_size("window_size[0]", a.window_left, -1);
  check_size("window_size[1]", a.window_right, -1);
  // causal is window_size[1] = 0.
  const int64_t right = a.causal ? 0 : a.window_right;
  Pattern pattern = a.window_left >= 0 || right > 0 ? Pattern::band(a.window_left, right)
                    : right == 0                    ? Pattern::causal()
                                                    : Pattern();
  AttentionSpec spec = make_spec(shape, a.softmax_scale, a.softcap, std::move(pattern));
  spec.alibi.slopes = a.alibi_slopes;
  check_spec(spec);
  return spec;
}

AttentionSpec from_hf(const HeadShape& shape, const HfArguments& a) {
  check_size("sliding_window", a.sliding_window, 0);
  check_size("attention_chunk_size", a.attention_chunk_size, 0);
  HONE_CHECK(a.sliding_window == 0 || a.attention_chunk_size == 0, invalid_argument,
             "sliding_window and attention_chunk_size: expected at most one of the two");
  const bool chunked = a.attention_chunk_size > 0;
  Pattern limit =
      chunked ? Pattern::block(a.attention_chunk_size) : Pattern::window(a.sliding_window);
  return make_spec(
      shape, a.scaling, a.softcap,
      both(a.is_causal, Pattern::causal(), chunked || a.sliding_window > 0, std::move(limit)));
}

AttentionSpec from_torch(const HeadShape& shape, const TorchArguments& a) {
  AttentionSpec spec = make_spec(shape, a.scale, 0, a.is_causal ? Pattern::causal() : Pattern());
  spec.top_left = true;
  return spec;
}

AttentionSpec from_flashinfer(const HeadShape& shape, const FlashinferArguments& a) {
  check_size("window_left", a.window_left, -1);
  AttentionSpec spec = make_spec(
      shape, a.sm_scale, a.logits_soft_cap,
      both(a.causal, Pattern::causal(), a.window_left >= 0, Pattern::band(a.window_left, -1)));
  if (a.alibi) spec.alibi = {alibi_slopes(shape.heads), true, true};
  return spec;
}

void from_base_two(Tensor& log_sum) {
  float* x = log_sum.mutable_data<float>();
  for (int64_t i = 0; i < log_sum.numel(); ++i) x[i] = static_cast<float>(x[i] * M_LN2);
}
void to_base_two(Tensor& log_sum) {
  float* x = log_sum.mutable_data<float>();
  for (int64_t i = 0; i < log_sum.numel(); ++i) x[i] = static_cast<float>(x[i] * M_LOG2E);
}

AttentionSpec from_ggml(const HeadShape& shape, const GgmlArguments& a) {
  check_size("n_swa", a.n_swa, 0);
  HONE_CHECK(a.max_bias >= 0, invalid_argument, "max_bias: expected at least 0, got {}",
             a.max_bias);
  Pattern window;
  if (a.window == GgmlWindow::standard)
    // Only what lies too far back is hidden.
    window = a.n_swa > 0 ? Pattern::band(a.n_swa - 1, -1) : Pattern();
  else if (a.window == GgmlWindow::symmetric)
    window = Pattern::band(a.n_swa / 2, a.n_swa / 2);
  else if (a.n_swa > 0)
    window = Pattern::block(a.n_swa, 0, Pattern::kUnlimited);
  AttentionSpec spec = make_spec(shape, a.scale, a.logit_softcap,
                                 both(a.causal, Pattern::causal(), a.n_swa > 0, std::move(window)));
  if (a.max_bias > 0) spec.alibi.slopes = alibi_slopes(shape.heads, a.max_bias);
  return spec;
}

}  // namespace hone
