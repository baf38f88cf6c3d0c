// KV caches in fewer bits: one sequence in a cache of each type, and what that does to a query.
//
//   build/examples/attention/kv_types
//
// Prints, for each type, the bytes of a page (64 positions), the bits a value, and how far the
// result is from that of an f32 cache.
#include "attention/attention.h"
#include "example.h"

using namespace hone;

namespace {

constexpr int64_t kKeys = 1024, kHeads = 8, kKvHeads = 2, kDim = 64;

struct Result {
  Tensor o;
  int64_t page_bytes;
};

// The sequence's keys and values in a cache of that type, and one query behind them.
Result decode(const AttentionSpec& spec, KvType type) {
  const Tensor q = example::normal({1, kHeads * kDim}, 1),
               k = example::normal({kKeys, kKvHeads * kDim}, 2),
               v = example::normal({kKeys, kKvHeads * kDim}, 3);
  KvCache cache({{kKvHeads, kDim, kDim}}, type);
  KvSequence sequence;
  cache.reserve(sequence, kKeys);
  cache.write(0, sequence, 0, kKeys, k.data<float>(), v.data<float>());
  // The query is the row at the last position. In a coded cache it sees its own page, which more
  // tokens could still fill, in f32.
  Result r{attend(spec, q, cache, 0, {{0, 1, kKeys - 1, &sequence}}), cache.page_bytes()};
  cache.commit(sequence, kKeys);
  return r;
}

void show(example::Checks& check) {
  AttentionSpec spec;
  spec.heads = kHeads;
  spec.kv_heads = kKvHeads;
  spec.k_dim = kDim;
  spec.v_dim = kDim;
  spec.scale = 1 / std::sqrt(float(kDim));
  const Result exact = decode(spec, KvType::f32);
  for (KvType type : kv_types()) {
    const Result r = decode(spec, type);
    const double bits = 8.0 * double(r.page_bytes) / (64 * kKvHeads * 2 * kDim);
    const double error = example::distance(r.o, exact.o);
    fmt::print("{:9} {:6} bytes a page, {:5.2f} bits a value, error {:.1e}\n", kv_type_name(type),
               r.page_bytes, bits, error);
    // int4 rounds to 15 steps of its range, fp8_e5m2 to 2 bits behind the leading one.
    const double most = type == KvType::f32 ? 0 : kv_is_coded(type) ? 0.2 : 0.01;
    check(error <= most && (type == KvType::f32 || error > 0), "as near as its bits allow");
    check(type == KvType::f32 || 2 * r.page_bytes <= exact.page_bytes, "half the bytes or less");
  }
}

}  // namespace

int main() { return example::run(show); }
