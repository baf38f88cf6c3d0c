#include "models/session.h"

#include <algorithm>

#include "base/memory.h"

namespace hone {
Session::Session(Model& model, Activations activations, KvType kv)
    : model_(model),
      activations_(activations),
      cache_(model.kv_shapes(), kv),
      keeps_tokens_(model.state_bytes() > 0 || cache_.drops()) {
  require_memory(model.state_bytes(), "the recurrent state of a sequence");
}

int64_t room_behind(const Model& model, int64_t held) {
  return model.streaming ? INT64_MAX : model.context - std::max(held, model.virtual_tokens());
}

void check_room(const Model& model, int64_t held, size_t more) {
  const int64_t room = room_behind(model, held);
  HONE_CHECK(static_cast<int64_t>(more) <= room, invalid_argument,
             "{} tokens do not fit: {} of the model's context of {} are used", more,
             model.context - room, model.context);
}

int64_t Session::room() const { return room_behind(model_, sequence_.length); }
void Session::check_room(size_t more) const { hone::check_room(model_, sequence_.length, more); }

void Session::run(std::span<const int32_t> tokens, const std::function<void(const Tensor&)>& f) {
  if (tokens.size() > 1) KvCache::keep(sequence_);
  for (size_t at = 0; at < tokens.size(); at += kChunkTokens) {
    if (sequence_.length == 0) {
      model_.begin(cache_, sequence_, activations_);
      before_ = sequence_.length;
    }
    const auto chunk = tokens.subspan(at, std::min<size_t>(kChunkTokens, tokens.size() - at));
    Batch batch;
    batch.activations = activations_;
    batch.append(chunk, &sequence_);
    f(model_.forward(batch, cache_));
    if (keeps_tokens_) tokens_.insert(tokens_.end(), chunk.begin(), chunk.end());
  }
}

void Session::truncate(int64_t length) {
  length = std::min(length, this->length());
  const int64_t left = std::max<int64_t>(0, cache_.truncate(sequence_, length + before_) - before_);
  if (sequence_.length == 0) before_ = 0;
  if (left == length) {
    if (!tokens_.empty()) tokens_.resize(static_cast<size_t>(length));
    return;
  }
  const std::vector<int32_t> again(tokens_.begin() + left, tokens_.begin() + length);
  tokens_.resize(static_cast<size_t>(left));
  run(again, [](const Tensor&) {});
}

Tensor Session::append(std::span<const int32_t> tokens) {
  HONE_CHECK(!tokens.empty(), invalid_argument, "no tokens to run");
  check_room(tokens.size());
  Tensor last;
  run(tokens, [&](const Tensor& x) { last = x; });
  last = last.rows(last.dim(0) - 1, last.dim(0));
  return logits(last).reshape({model_.vocabulary()});
}

Tensor Session::hidden(std::span<const int32_t> tokens) {
  check_room(tokens.size());
  Tensor all = Tensor::empty({static_cast<int64_t>(tokens.size()), model_.width()}, DType::f32);
  float* to = all.mutable_data<float>();
  run(tokens, [&](const Tensor& x) { to = std::copy_n(x.data<float>(), x.numel(), to); });
  return all;
}

}  // namespace hone
