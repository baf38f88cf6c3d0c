#include "eval/task_score.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "attention/kv_fork.h"
#include "base/error.h"
#include "base/threads.h"
#include "eval/token_score.h"
#include "models/session.h"
#include "ops/dense.h"
#include "ops/elementwise.h"
#include "text/jinja_strings.h"

namespace hone {

namespace {

// As a tokenizer of the harness encodes a text: not with a second bos.
std::vector<int32_t> encode(const LoadedModel& m, const std::string& text, int32_t prefix) {
  const std::string bos = m.tokenizer->decode(std::span(&prefix, 1));
  return m.encode(text, bos.empty() || !text.starts_with(bos));
}

int32_t prefix_token(const LoadedModel& m) {
  HONE_CHECK(m.tokenizer != nullptr, unsupported, "{}: it has no tokenizer", m.path);
  const auto token = m.tokenizer->bos() ? m.tokenizer->bos() : m.tokenizer->eos();
  return token.value_or(-1);
}

// Tokens of a wave's common beginnings: two forwards that are worth their weights.
constexpr int64_t kWaveTokens = 2 * kChunkTokens;
// Keys and values of a wave, beyond one group's.
constexpr int64_t kWaveBytes = int64_t{512} << 20;

}  // namespace

TokenRequest tokenize_request(const LoadedModel& model, const TaskRequest& request, int64_t room) {
  const int32_t prefix = prefix_token(model);
  TokenRequest out;
  std::vector<int32_t> all;
  const std::string context(jinja::rstrip(request.context));
  const std::string continuation = request.context.substr(context.size()) + request.continuation;
  if (context.empty()) {
    all = model.encode(continuation, false);
    const bool begins = !all.empty() && all[0] == prefix;
    HONE_CHECK(begins || prefix >= 0, unsupported,
               "{}: an empty context needs a bos or eos token, and the tokenizer has none",
               model.path);
    if (!begins) out.tokens.push_back(prefix);
    out.scored_from = 1;
    out.tokens.insert(out.tokens.end(), all.begin(), all.end());
  } else {
    auto tokens = [&](const std::string& text) {
      return prefix < 0 ? model.encode(text) : encode(model, text, prefix);
    };
    all = tokens(context + continuation);
    out.tokens = tokens(context);
    out.scored_from = std::ssize(out.tokens);
    if (std::ssize(all) > out.scored_from)
      out.tokens.insert(out.tokens.end(), all.begin() + out.scored_from, all.end());
  }
  const int64_t length = std::ssize(out.tokens), scored = length - out.scored_from;
  HONE_CHECK(scored > 0 && out.scored_from > 0, invalid_argument,
             "a continuation of '{}' has no tokens of its own", request.continuation.substr(0, 40));
  HONE_CHECK(scored <= room, invalid_argument,
             "a continuation has {} tokens, and the model has room for {}", scored, room);
  if (length > room + 1) {
    out.tokens.erase(out.tokens.begin(), out.tokens.begin() + (length - room - 1));
    out.scored_from = std::ssize(out.tokens) - scored;
    out.cut = true;
  }
  return out;
}

namespace {

// A row of logits, and who wants to know what of it.
struct Want {
  int32_t token = 0;
  TaskScore* score = nullptr;
};
struct Row {
  int64_t position = 0;  // in its stretch
  std::vector<Want> wants;
};
// Tokens that go behind what a sequence holds, and the rows of them that are scored, ascending.
struct Stretch {
  KvSequence* sequence = nullptr;
  std::span<const int32_t> tokens;
  std::vector<Row> rows;
};

// A group under way: its common beginning, then each request's own rest.
struct Group {
  size_t index = 0;
  int64_t common = 0;
  KvSequence sequence;
};

// Tokens that all inputs of a group begin with; a request's last token is no input.
int64_t common_length(const std::vector<TokenRequest>& group) {
  const std::vector<int32_t>& first = group[0].tokens;
  int64_t common = std::ssize(first) - 1;
  for (const TokenRequest& r : group) {
    common = std::min<int64_t>(common, std::ssize(r.tokens) - 1);
    common = std::mismatch(first.begin(), first.begin() + common, r.tokens.begin()).first -
             first.begin();
  }
  return common;
}

class TaskRun {
 public:
  TaskRun(LoadedModel& m, std::span<const std::vector<TokenRequest>> groups,
          const TaskRunOptions& o, TaskTokens& tokens)
      : path_(m.path),
        model_(*m.model),
        groups_(groups),
        activations_(o.activations),
        cache_(model_.kv_shapes(), o.kv),
        tokens_(tokens) {
    for (const auto& g : groups) scores_.emplace_back(g.size());
    for (const auto& g : groups)
      for (const TokenRequest& r : g) tokens_.asked += std::ssize(r.tokens) - 1;
  }

  void wave(std::vector<Group> wave) {
    std::vector<Stretch> common;
    for (Group& g : wave) {
      Stretch s{&g.sequence, std::span(groups_[g.index][0].tokens).first(size_t(g.common)), {}};
      for (size_t r = 0; r < groups_[g.index].size(); ++r) add_rows(s, g, r, 0, g.common);
      if (g.common > 0) common.push_back(std::move(s));
    }
    run(common);
    rests(wave);
    for (Group& g : wave) cache_.truncate(g.sequence, 0);
  }
  int64_t bytes_of(int64_t length) const { return cache_.bytes_of(length) + model_.state_bytes(); }
  std::vector<std::vector<TaskScore>>& scores() { return scores_; }

 private:
  // What request r of a group wants of inputs [begin, end), which the stretch holds.
  void add_rows(Stretch& s, const Group& g, size_t r, int64_t begin, int64_t end) {
    const TokenRequest& request = groups_[g.index][r];
    TaskScore& score = scores_[g.index][r];
    for (int64_t i = std::max(begin, request.scored_from - 1); i < end; ++i) {
      auto at = std::ranges::lower_bound(s.rows, i - begin, {}, &Row::position);
      if (at == s.rows.end() || at->position != i - begin) at = s.rows.insert(at, {i - begin, {}});
      at->wants.push_back({request.tokens[size_t(i + 1)], &score});
      ++score.tokens;
    }
  }

  // The rests, a forward's worth at a time; each goes on in a sequence of its own, a group's last
  // one in the group's.
  void rests(std::vector<Group>& wave) {
    std::vector<KvSequence> forks;
    std::vector<Stretch> batch;
    int64_t count = 0, bytes = 0;
    auto flush = [&] {
      for (size_t i = 0, fork = 0; i < batch.size(); ++i)
        if (batch[i].sequence == nullptr) batch[i].sequence = &forks[fork++];
      run(batch);
      for (KvSequence& s : forks) cache_.truncate(s, 0);
      forks.clear();
      batch.clear();
      count = bytes = 0;
    };
    for (Group& g : wave) {
      const std::vector<TokenRequest>& requests = groups_[g.index];
      for (size_t r = 0; r < requests.size(); ++r) {
        const int64_t end = std::ssize(requests[r].tokens) - 1;
        if (end == g.common) continue;
        const int64_t more = bytes_of(end);
        if (count > 0 && (count + end - g.common > kChunkTokens || bytes + more > kWaveBytes))
          flush();
        const bool last = r + 1 == requests.size();
        if (!last) forks.push_back(fork(cache_, g.sequence));
        Stretch s{last ? &g.sequence : nullptr,
                  std::span(requests[r].tokens).subspan(size_t(g.common), size_t(end - g.common)),
                  {}};
        add_rows(s, g, r, g.common, end);
        batch.push_back(std::move(s));
        count += end - g.common;
        bytes += more;
      }
    }
    if (!batch.empty()) flush();
  }

  // Runs stretches in order, kChunkTokens in a forward; a long one goes through several.
  void run(std::vector<Stretch>& stretches) {
    struct Piece {
      const Stretch* of;
      int64_t begin, end;
    };
    std::vector<Piece> pieces;
    Batch batch;
    auto flush = [&] {
      const Tensor hidden = model_.forward(batch, cache_);
      tokens_.run += batch.size();
      std::vector<int64_t> rows;
      std::vector<const Row*> wanted;
      for (size_t i = 0; i < pieces.size(); ++i)
        for (const Row& r : pieces[i].of->rows) {
          if (r.position < pieces[i].begin || r.position >= pieces[i].end) continue;
          rows.push_back(batch.spans[i].begin + r.position - pieces[i].begin);
          wanted.push_back(&r);
        }
      score(hidden, rows, wanted);
      pieces.clear();
      batch = {};
    };
    for (const Stretch& s : stretches) {
      const int64_t length = std::ssize(s.tokens);
      for (int64_t at = 0; at < length;) {
        const int64_t n = std::min(length - at, kChunkTokens - batch.size());
        batch.activations = activations_;
        if (s.sequence->length == 0) model_.begin(cache_, *s.sequence, activations_);
        batch.append(s.tokens.subspan(size_t(at), size_t(n)), s.sequence);
        pieces.push_back({&s, at, at + n});
        at += n;
        if (batch.size() == kChunkTokens) flush();
      }
    }
    if (batch.size() > 0) flush();
  }

  void score(const Tensor& hidden, const std::vector<int64_t>& rows,
             const std::vector<const Row*>& wanted) {
    const int64_t v = model_.vocabulary();
    for (size_t at = 0; at < rows.size(); at += kLogitRows) {
      const size_t n = std::min<size_t>(kLogitRows, rows.size() - at);
      const Tensor logits =
          model_.logits(ops::gather_rows(hidden, std::span(rows).subspan(at, n)), activations_);
      std::vector<double> sums(n);
      std::vector<int32_t> tops(n);
      parallel_for(int64_t(n), 1, [&](int64_t b, int64_t e) {
        for (int64_t i = b; i < e; ++i) {
          const float* row = logits.data<float>() + i * v;
          sums[size_t(i)] = ops::log_sum_exp(row, v);
          tops[size_t(i)] = int32_t(std::max_element(row, row + v) - row);
        }
      });
      // In order: several rows add to one score.
      for (size_t i = 0; i < n; ++i) {
        const float* row = logits.data<float>() + int64_t(i) * v;
        HONE_CHECK(!std::isnan(sums[i]), corrupt, "{}: its logits are not numbers", path_);
        for (const Want& w : wanted[at + i]->wants) {
          w.score->log_likelihood += row[w.token] - sums[i];
          w.score->greedy = w.score->greedy && tops[i] == w.token;
        }
      }
    }
  }

  const std::string& path_;
  Model& model_;
  std::span<const std::vector<TokenRequest>> groups_;
  Activations activations_;
  KvCache cache_;
  TaskTokens& tokens_;
  std::vector<std::vector<TaskScore>> scores_;
};

}  // namespace

std::vector<std::vector<TaskScore>> score_groups(
    LoadedModel& model, std::span<const std::vector<TokenRequest>> groups,
    const TaskRunOptions& options, TaskTokens& tokens,
    const std::function<void(size_t, const std::vector<TaskScore>&)>& done) {
  std::vector<int64_t> longest(groups.size(), 0);
  for (size_t i = 0; i < groups.size(); ++i)
    for (const TokenRequest& r : groups[i]) {
      HONE_ASSERT(r.scored_from > 0 && r.scored_from < std::ssize(r.tokens));
      longest[i] = std::max<int64_t>(longest[i], std::ssize(r.tokens));
    }
  std::vector<size_t> order(groups.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, std::greater(), [&](size_t i) { return longest[i]; });

  TaskRun run(model, groups, options, tokens);
  for (size_t at = 0; at < order.size();) {
    std::vector<Group> wave;
    int64_t count = 0, bytes = 0;
    while (at < order.size()) {
      const size_t index = order[at];
      const int64_t common = common_length(groups[index]);
      const int64_t more = run.bytes_of(longest[index] + model.model->virtual_tokens());
      if (!wave.empty() && (count + common > kWaveTokens || bytes + more > kWaveBytes)) break;
      wave.push_back({index, common, {}});
      count += common;
      bytes += more;
      ++at;
    }
    std::vector<size_t> finished;
    for (const Group& g : wave) finished.push_back(g.index);
    run.wave(std::move(wave));
    if (done)
      for (size_t i : finished) done(i, run.scores()[i]);
  }
  return std::move(run.scores());
}

}  // namespace hone
