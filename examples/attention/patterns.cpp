// Patterns and flash attention: what a query sees is an algebra; tiles that nobody sees cost
// nothing; results over parts of the keys are joined by their log sums.
//
//   build/examples/attention/patterns
//
// Prints the tiles that each pattern keeps of a sequence of 1024, then the checks: a row of flash
// attention is its definition, and halves of the keys merge into the whole.
#include "attention/attention.h"
#include "example.h"

using namespace hone;

namespace {

constexpr int64_t kLength = 1024;

int64_t tiles_of(const Pattern& pattern) {
  int64_t tiles = 0;
  for (int64_t q = 0; q < kLength; q += Pattern::kTile)
    for (const TileRun& run : pattern.tile_runs(q, q + Pattern::kTile, kLength))
      tiles += run.last - run.first;
  return tiles;
}

// How far row `row` of head 0 of (o, log_sum) is from Σ softmax(scale·q·k)·v.
double row_error(const AttentionSpec& s, const Tensor& q, const Tensor& k, const Tensor& v,
                 const Tensor& o, const Tensor& log_sum, int64_t row) {
  const float* q_row = q.data<float>() + row * s.heads * s.k_dim;
  std::vector<double> sum(static_cast<size_t>(s.v_dim));
  double total = 0;
  for (int64_t j = 0; j < kLength; ++j) {
    if (!s.pattern.sees(row, j)) continue;
    double score = 0;
    for (int64_t c = 0; c < s.k_dim; ++c)
      score += double(q_row[c]) * k.data<float>()[j * s.kv_heads * s.k_dim + c];
    const double weight = std::exp(s.scale * score);
    total += weight;
    for (int64_t c = 0; c < s.v_dim; ++c)
      sum[c] += weight * v.data<float>()[j * s.kv_heads * s.v_dim + c];
  }
  double error = std::fabs(log_sum.data<float>()[row * s.heads] - std::log(total));
  for (int64_t c = 0; c < s.v_dim; ++c)
    error =
        std::max(error, std::fabs(o.data<float>()[row * s.heads * s.v_dim + c] - sum[c] / total));
  return error;
}

void show(example::Checks& check) {
  AttentionSpec spec;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.k_dim = 64;
  spec.v_dim = 64;
  spec.scale = 0.125f;
  const Tensor q = example::normal({kLength, 4 * 64}, 1), k = example::normal({kLength, 2 * 64}, 2),
               v = example::normal({kLength, 2 * 64}, 3);

  // As text, or with operators: the same pattern.
  check(Pattern::parse("causal & (window(128) | sinks(4))") ==
            (Pattern::causal() & (Pattern::window(128) | Pattern::prefix(4))),
        "text and operators make the same pattern");
  for (const char* text :
       {"causal", "causal & (window(128) | sinks(4))",
        "causal & block_list(256, 0:0, 1:1, 3:0, 3:3)", "causal & documents(300, 700)",
        "strided(128)", "bigbird(64, 2, 16, 7)"}) {
    spec.pattern = Pattern::parse(text);
    Tensor log_sum;
    const Tensor o = attention(spec, q, k, v, {{0, kLength, 0, kLength}}, {}, &log_sum);
    fmt::print("{:3} of 256 tiles: {}\n", tiles_of(spec.pattern), text);
    check(row_error(spec, q, k, v, o, log_sum, 900) < 1e-5, "row 900 is the definition's");
  }

  // Eight queries over all keys, and over two halves of them.
  spec.pattern = Pattern();
  const Tensor few = q.rows(0, 8);
  Tensor log_sum, first_sum, second_sum;
  const Tensor whole = attention(spec, few, k, v, {{0, 8, 0, kLength}}, {}, &log_sum);
  Tensor first = attention(spec, few, k, v, {{0, 8, 0, 512}}, {}, &first_sum);
  const Tensor second = attention(spec, few, k, v, {{0, 8, 512, kLength}}, {}, &second_sum);
  merge_attention(first, first_sum, second, second_sum);
  check(example::distance(first, whole) < 1e-6 && example::distance(first_sum, log_sum) < 1e-6,
        "results over two halves of the keys merge into that over all");
}

}  // namespace

int main() { return example::run(show); }
