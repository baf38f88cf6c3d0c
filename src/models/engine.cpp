#include "models/engine.h"

#include <algorithm>

#include "base/memory.h"
#include "ops/elementwise.h"

namespace hone {

Engine::Engine(Model& model, const EngineOptions& options)
    : model_(model), options_(options), cache_(model.kv_shapes(), options.kv) {
  HONE_CHECK(options.step_tokens >= 1, invalid_argument, "step_tokens {}: expected 1 or more",
             options.step_tokens);
  require_memory(model.state_bytes(), "the recurrent state of a sequence");
}

Engine::Request& Engine::find(Id id) {
  auto it = requests_.find(id);
  HONE_CHECK(it != requests_.end(), invalid_argument, "there is no request {}", id);
  return it->second;
}

void Engine::check(std::span<const int32_t> tokens, int64_t held) const {
  HONE_CHECK(!tokens.empty(), invalid_argument, "no tokens to run");
  const int64_t vocabulary = model_.embedding.weight().rows();
  for (int32_t t : tokens)
    HONE_CHECK(t >= 0 && t < vocabulary, invalid_argument,
               "token {}: the model's vocabulary has {}", t, vocabulary);
  check_room(model_, held, tokens.size());
}

Engine::Id Engine::add(std::span<const int32_t> prompt) {
  check(prompt, 0);
  requests_[next_].waiting.assign(prompt.begin(), prompt.end());
  return next_++;
}

void Engine::append(Id id, std::span<const int32_t> tokens) {
  Request& r = find(id);
  check(tokens, std::max(r.sequence.length, model_.virtual_tokens()) + std::ssize(r.waiting));
  r.waiting.insert(r.waiting.end(), tokens.begin(), tokens.end());
}

void Engine::end(Id id) {
  cache_.truncate(find(id).sequence, 0);
  requests_.erase(id);
}

int64_t Engine::length(Id id) const {
  const Request& r = const_cast<Engine*>(this)->find(id);
  return r.sequence.length - r.before;
}

bool Engine::waits() const {
  return std::ranges::any_of(requests_, [](const auto& r) { return !r.second.waiting.empty(); });
}

// Decodes in turn: more of them than a step holds go on where the last one ended. Then the oldest
// prompts, whole or in part; where they wait, every second step leaves them a token at least.
std::vector<Engine::Turn> Engine::schedule() {
  auto is_prompt = [](const Request& r) {
    return r.waiting.size() > 1 || (r.waiting.size() == 1 && r.sequence.length == 0);
  };
  std::vector<Turn> decodes, turns;
  bool prompts = false;
  for (auto& [id, r] : requests_) {
    prompts |= is_prompt(r);
    if (!r.waiting.empty() && !is_prompt(r)) decodes.push_back({id, &r, 1});
  }
  auto first = std::ranges::find_if(decodes, [&](const Turn& t) { return t.id >= begin_at_; });
  std::rotate(decodes.begin(), first, decodes.end());
  const bool starved = prompts && std::ssize(decodes) >= options_.step_tokens;
  kept_for_prompts_ = starved && !kept_for_prompts_;
  int64_t room = options_.step_tokens - (kept_for_prompts_ ? 1 : 0);
  for (const Turn& t : decodes) {
    if (room == 0) {
      begin_at_ = t.id;
      break;
    }
    turns.push_back(t);
    --room;
  }
  room += kept_for_prompts_ ? 1 : 0;
  for (auto& [id, r] : requests_) {
    if (!is_prompt(r)) continue;
    const int64_t n = std::min<int64_t>(room, std::ssize(r.waiting));
    if (n == 0) break;
    turns.push_back({id, &r, n});
    room -= n;
  }
  return turns;
}

std::vector<Engine::Output> Engine::step() {
  const std::vector<Turn> turns = schedule();
  last_ = {};
  if (turns.empty()) return {};
  Batch batch;
  batch.activations = options_.activations;
  for (const Turn& t : turns) {
    Request& r = *t.request;
    if (r.sequence.length == 0) {
      model_.begin(cache_, r.sequence, options_.activations);
      r.before = r.sequence.length;
    }
    batch.append(std::span(r.waiting).first(static_cast<size_t>(t.tokens)), &r.sequence);
  }
  const Tensor hidden = model_.forward(batch, cache_);
  std::vector<Turn> through;
  std::vector<int64_t> rows;
  for (size_t i = 0; i < turns.size(); ++i) {
    Request& r = *turns[i].request;
    const bool decode = turns[i].tokens == 1 && batch.spans[i].start > r.before;
    (decode ? last_.decodes : last_.prefills) += 1;
    last_.prefill_tokens += decode ? 0 : turns[i].tokens;
    r.waiting.erase(r.waiting.begin(), r.waiting.begin() + turns[i].tokens);
    if (!r.waiting.empty()) continue;
    through.push_back(turns[i]);
    rows.push_back(batch.spans[i].end - 1);
  }
  if (through.empty()) return {};
  // One product of the head for all of them: its weight is the largest.
  const int64_t n = std::ssize(rows), v = model_.vocabulary();
  const Tensor logits = model_.logits(ops::gather_rows(hidden, rows), options_.activations);
  std::vector<Output> outputs;
  for (int64_t i = 0; i < n; ++i)
    outputs.push_back({through[i].id, logits.rows(i, i + 1).reshape({v})});
  std::ranges::sort(outputs, {}, &Output::id);
  return outputs;
}

}  // namespace hone
