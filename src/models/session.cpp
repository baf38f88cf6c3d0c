#include "models/session.h"

#include <algorithm>
#include <cstring>

namespace hone {
Session::Session(Model& model, Activations activations, KvType kv)
    : model_(model), activations_(activations), cache_(model.kv_shapes(), kv) {}

void Session::check_room(size_t more) const {
  const int64_t used = std::max(sequence_.length, model_.virtual_tokens());
  HONE_CHECK(used + static_cast<int64_t>(more) <= model_.context, invalid_argument,
             "{} tokens do not fit: {} of the model's context of {} are used", more, used,
             model_.context);
}

Tensor Session::run(std::span<const int32_t> tokens) {
  if (sequence_.length == 0) {
    model_.begin(cache_, sequence_, activations_);
    before_ = sequence_.length;
  }
  Batch batch;
  batch.activations = activations_;
  batch.append(tokens, &sequence_);
  return model_.forward(batch, cache_);
}

Tensor Session::append(std::span<const int32_t> tokens) {
  HONE_CHECK(!tokens.empty(), invalid_argument, "no tokens to run");
  check_room(tokens.size());
  Tensor last;
  for (size_t at = 0; at < tokens.size(); at += kChunkTokens)
    last = run(tokens.subspan(at, std::min<size_t>(kChunkTokens, tokens.size() - at)));
  last = last.rows(last.dim(0) - 1, last.dim(0));
  return logits(last).reshape({model_.vocabulary()});
}

Tensor Session::hidden(std::span<const int32_t> tokens) {
  check_room(tokens.size());
  Tensor all = Tensor::empty({static_cast<int64_t>(tokens.size()), model_.width()}, DType::f32);
  for (size_t at = 0; at < tokens.size(); at += kChunkTokens) {
    Tensor part = run(tokens.subspan(at, std::min<size_t>(kChunkTokens, tokens.size() - at)));
    std::memcpy(all.mutable_data<float>() + static_cast<int64_t>(at) * model_.width(),
                part.data<float>(), static_cast<size_t>(part.byte_size()));
  }
  return all;
}

}  // namespace hone
