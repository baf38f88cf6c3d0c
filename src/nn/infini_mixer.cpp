// Infini-attention (Munkhdalai et al. 2024, "Leave No Context Behind"): causal attention within a
// segment, and a compressive memory of all segments before it, mixed by a gate for each head.
//
//   A = σ(β)·read(elu(q) + 1) + (1 − σ(β))·local
//
// The memory that a segment reads is that of the segments before it; what it writes is read by the
// next. The delta rule takes from each value what that memory already holds. Queries and keys of
// the memory have no positions.
//
// Spec: width, heads, k_dim = v_dim, segment, rope_theta, delta.
// State: of SegmentAttention; the memory that this segment reads and the one that it writes,
// [heads, size, size + 1] each, whatever the length.
#include "attention/compressive_memory.h"
#include "nn/segment_mixer.h"
#include "ops/dense.h"
#include "ops/elementwise.h"
#include "ops/heads.h"

namespace hone {
namespace {

class Infini final : public SegmentAttention {
 public:
  using SegmentAttention::SegmentAttention;

  Mixed mix(const LinearInput& in, const Batch& batch, MixerState& state) override {
    using enum ops::Nonlinearity;
    const Local local = attend_within(in, batch, state);
    const Tensor q = ops::apply(elu_plus_one, local.q), k = ops::apply(elu_plus_one, local.k);
    std::vector<Tensor> reads, writes, parts;
    for (size_t i = 0; i < batch.spans.size(); ++i) {
      reads.push_back(state.take(i, kReads, memory_shape()));
      writes.push_back(state.take(i, kWrites, memory_shape()));
    }
    for (const SegmentPiece& p : local.at.pieces) {
      Tensor &from = reads[p.span], &to = writes[p.span];
      parts.push_back(read_memory(q, p.begin, p.end, from));
      Tensor v = ops::slice_rows(local.v, p.begin, p.end);
      if (spec_.delta) v = ops::add(v, ops::scale(read_memory(k, p.begin, p.end, from), -1));
      to = write_memory(to, k, p.begin, p.end, v);
      if (p.full) from = to;
    }
    for (size_t i = 0; i < batch.spans.size(); ++i) {
      state.put(i, kReads, reads[i]);
      state.put(i, kWrites, writes[i]);
    }
    const Tensor of_head = ops::apply(sigmoid, gate_.values.reshape({1, spec_.heads}));
    const Tensor gate = ops::repeat_heads(of_head, spec_.heads, spec_.k_dim);
    return ops::lerp(local.o, ops::concat_rows(parts), gate.reshape({gate.numel()}));
  }
  std::vector<MixerParameter> parameters() override {
    std::vector<MixerParameter> all = SegmentAttention::parameters();
    all.push_back(coefficients("gate", {spec_.heads}, gate_));
    return all;
  }
  std::vector<Shape> state_shapes() const override {
    std::vector<Shape> all = SegmentAttention::state_shapes();
    all.insert(all.end(), 2, memory_shape());
    return all;
  }
  std::string describe() const override {
    return fmt::format("Infini-attention{}, {}", spec_.delta ? " by the delta rule" : "",
                       SegmentAttention::describe());
  }

 private:
  enum Memories : size_t { kReads = kMore, kWrites };
  Shape memory_shape() const { return {spec_.heads, spec_.k_dim, spec_.k_dim + 1}; }
  Coefficients gate_;
};

}  // namespace

std::unique_ptr<Mixer> make_infini(const MixerSpec& spec) { return std::make_unique<Infini>(spec); }

}  // namespace hone
