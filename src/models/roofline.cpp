#include "models/roofline.h"

#include <algorithm>

#include "attention/kv_cache.h"
#include "kernels/kernel_table.h"

namespace hone {

Work work_of(Model& m, Activations a) {
  Work w;
  for (Linear* l : m.linears()) {
    w.weight_bytes += double(l->resident_bytes());
    double operations = 2.0 * double(l->out_features()) * double(l->in_features());
    bool integer = a == Activations::int8 && l->integer_capable();
    bool head = l == &m.head;
    (head ? (integer ? w.head_int8 : w.head_f32)
          : (integer ? w.int8_operations : w.f32_operations)) += operations;
  }
  for (const Block& b : m.blocks) {
    auto* s = dynamic_cast<SoftmaxAttention*>(b.mixer.get());
    if (s != nullptr)
      w.pair_operations += 2.0 * double(s->spec.heads) * double(s->spec.k_dim + s->spec.v_dim);
  }
  w.kv_bytes = double(KvCache(m.kv_shapes()).page_bytes()) / kernels::kPageKeys;
  return w;
}

double decode_limit(const Work& w, const kernels::Roofs& r, int64_t depth, int64_t batch) {
  double n = double(batch), bytes = w.weight_bytes + n * w.kv_bytes * double(depth + 1);
  return std::max(bytes / r.read_per_second(bytes), n * prefill_limit(w, r, 1, depth));
}

double prefill_limit(const Work& w, const kernels::Roofs& r, int64_t tokens, int64_t depth) {
  double t = double(tokens), pairs = t * double(depth) + t * (t + 1) / 2;
  double int8 = w.int8_operations * t + w.head_int8;
  double f32 = w.f32_operations * t + w.head_f32 + w.pair_operations * pairs;
  return int8 / r.int8_per_second + f32 / r.f32_per_second;
}

}  // namespace hone
