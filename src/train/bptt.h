// Training with carried states: the spans of a batch run segment by segment, each from the states
// that the one before has left, and gradients flow back through some of them (truncated
// backpropagation through time, Williams & Peng 1990).
//
// The segments of a span are taken in groups of `bptt`. A group has a tape of its own, which is
// gone when its gradients are there, and behind it the states are cut: memory is that of one group,
// however long the spans are. A group without targets records nothing.
#pragma once

#include <functional>
#include <span>

#include "train/model_batch.h"

namespace hone {

/// What a group's loss is: of the hidden rows that have `targets`, in their order; `rows` are their
/// indices in the batch. Its gradient flows back where a tape records.
using GroupLoss = std::function<double(const Tensor& hidden, std::span<const int64_t> rows,
                                       std::span<const int32_t> targets)>;

/// The sum of the groups' losses. With bptt 0 all segments are one group. Nothing is recorded where
/// no tape records now. Raises unsupported on models with a prefix or a prompt.
double run_segments(Model& model, const ModelBatch& batch, int64_t segment, int64_t bptt,
                    const GroupLoss& loss);

}  // namespace hone
