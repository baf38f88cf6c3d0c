// Convention adapters: the arguments of flash-attn, transformers, torch, flashinfer and ggml as a
// spec. What they call alike differs by one key, by a sign or by a base.
//
//   build/examples/attention/conventions
//
// Prints which keys the query at position 10 sees under "a window of 4" in each library, then
// checks that specs which mean the same give the same bits.
#include "attention/conventions.h"

#include "example.h"

using namespace hone;

namespace {

int64_t keys_seen(const char* library, const AttentionSpec& spec) {
  int64_t count = 0;
  fmt::print("{:12} {:28} keys", library, spec.pattern.describe());
  for (int64_t key = 0; key < 16; ++key)
    if (spec.pattern.sees(10, key)) {
      fmt::print(" {}", key);
      ++count;
    }
  fmt::print("\n");
  return count;
}

void show(example::Checks& check) {
  const HeadShape shape{.heads = 4, .kv_heads = 2, .k_dim = 32, .v_dim = 32};
  const AttentionSpec hf = from_hf(shape, {.sliding_window = 4});
  const AttentionSpec fa = from_fa(shape, {.causal = true, .window_left = 4});
  const AttentionSpec flashinfer = from_flashinfer(shape, {.causal = true, .window_left = 4});
  const AttentionSpec ggml = from_ggml(shape, {.scale = hf.scale, .n_swa = 4});
  check(keys_seen("transformers", hf) == 4, "the query's own and three before it");
  check(keys_seen("ggml", ggml) == 4, "likewise");
  check(keys_seen("flash-attn", fa) == 5, "four besides its own");
  check(keys_seen("flashinfer", flashinfer) == 5, "likewise");

  const int64_t length = 50;
  const Tensor q = example::normal({length, 4 * 32}, 1), k = example::normal({length, 2 * 32}, 2),
               v = example::normal({length, 2 * 32}, 3);
  auto run = [&](const AttentionSpec& spec, int64_t queries, Tensor* log_sum = nullptr) {
    return attention(spec, q.rows(0, queries), k, v, {{0, queries, 0, length}}, {}, log_sum);
  };
  const AttentionSpec shorter = from_fa(shape, {.causal = true, .window_left = 3});
  check(example::same_bits(run(shorter, length), run(hf, length)),
        "flash-attn's window of 3 is transformers' window of 4");
  check(example::distance(run(fa, length), run(hf, length)) > 1e-2, "its window of 4 is not");

  // torch's is_causal puts the first query at the first key, the others the last at the last.
  const AttentionSpec torch = from_torch(shape, {.is_causal = true});
  const AttentionSpec bottom = from_fa(shape, {.causal = true});
  check(example::same_bits(run(torch, length), run(bottom, length)),
        "torch and flash-attn agree where there are as many queries as keys");
  check(example::distance(run(torch, 8), run(bottom, 8)) > 1e-2, "not for 8 queries and 50 keys");

  Tensor log_sum;
  run(bottom, length, &log_sum);
  Tensor base_two = log_sum.clone();
  to_base_two(base_two);  // as flashinfer returns it
  check(std::fabs(base_two.data<float>()[0] * std::log(2.0f) - log_sum.data<float>()[0]) < 1e-5,
        "flashinfer's log sums are in base 2");
}

}  // namespace

int main() { return example::run(show); }
