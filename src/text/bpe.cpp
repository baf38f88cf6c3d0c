#include "text/bpe.h"

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>
#include <queue>

#include "base/error.h"
#include "text/unicode.h"

namespace hone {
namespace {

// Words at most this many symbols long are merged in a plain array; longer ones with a heap.
constexpr size_t kShortWord = 32;

uint64_t pair_key(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

size_t pair_hash(uint64_t key) { return (key * 0x9E3779B97F4A7C15u) >> 20; }

constexpr uint64_t kNoPair = ~uint64_t{0};

}  // namespace

Bpe::Bpe(Vocabulary vocabulary, const std::vector<Merge>& merges, BpeOptions options)
    : WordModel(std::move(vocabulary)), options_(options) {
  pairs_.assign(std::bit_ceil(size_t{16} + merges.size() * 2), {kNoPair, kNotJoined});
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& m = merges[rank];
    const uint64_t key = pair_key(m.left, m.right);
    size_t at = pair_hash(key) & (pairs_.size() - 1);
    for (int probes = 0; pairs_[at].pair != kNoPair && pairs_[at].pair != key;) {
      at = (at + 1) & (pairs_.size() - 1);
      check_probes(++probes);
    }
    // Of a pair listed twice the last rank counts, as in a dictionary filled in order.
    pairs_[at] = {key, {static_cast<uint32_t>(rank), m.result}};
  }
  find_byte_tokens();
}

Bpe::Bpe(Vocabulary vocabulary, const std::vector<float>& scores, const std::vector<bool>& joins,
         BpeOptions options)
    : WordModel(std::move(vocabulary)),
      options_(options),
      by_score_(true),
      rank_(scores.size(), UINT32_MAX) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
  uint32_t rank = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    if (i > 0 && scores[order[i]] != scores[order[i - 1]]) ++rank;
    if (joins[order[i]]) rank_[order[i]] = rank;
  }
  find_byte_tokens();
}

void Bpe::find_byte_tokens() {
  byte_ids_.resize(256);
  letter_ids_.resize(256);
  for (int b = 0; b < 256; ++b) {
    const char letter = static_cast<char>(b);
    letter_ids_[b] = vocabulary_.find({&letter, 1});
    byte_ids_[b] = options_.byte_fallback ? vocabulary_.find(byte_token_text(b)) : -1;
  }
}

Bpe::Joined Bpe::join(std::string_view word, const Symbol& left, const Symbol& right) const {
  if (by_score_) {
    const int32_t id = vocabulary_.find(word.substr(left.begin, left.size + right.size));
    return id < 0 || rank_[id] == UINT32_MAX ? kNotJoined : Joined{rank_[id], id};
  }
  const uint64_t key = pair_key(left.id, right.id);
  if (key == kNoPair) return kNotJoined;
  for (size_t at = pair_hash(key) & (pairs_.size() - 1); pairs_[at].pair != kNoPair;
       at = (at + 1) & (pairs_.size() - 1)) {
    if (pairs_[at].pair == key) return pairs_[at].joined;
  }
  return kNotJoined;
}

void Bpe::split(std::string_view word, std::vector<Symbol>& symbols) const {
  symbols.clear();
  bool fuse = false;  // the symbol before is an unk that may grow
  for (uint32_t i = 0; i < word.size();) {
    const bool bytes = options_.bytes;
    const uint32_t size = bytes ? 1 : utf8_at(word, i).size;
    const int32_t id = bytes ? letter_ids_[static_cast<unsigned char>(word[i])]
                             : vocabulary_.find(word.substr(i, size));
    if (by_score_) {
      // A character without a token may still be part of one, so it stays, without an id.
      symbols.push_back({i, size, id >= 0 && rank_[id] == UINT32_MAX ? -1 : id});
    } else if (id >= 0) {
      symbols.push_back({i, size, id});
      fuse = false;
    } else if (falls_back(word.substr(i, size))) {
      for (uint32_t j = i; j < i + size; ++j) symbols.push_back({j, 1, byte_id(word[j])});
      fuse = false;
    } else if (options_.unk && fuse) {
      symbols.back().size += size;
    } else if (options_.unk) {
      symbols.push_back({i, size, *options_.unk});
      fuse = options_.fuse_unk;
    }
    i += size;
  }
}

bool Bpe::falls_back(std::string_view bytes) const {
  return std::all_of(bytes.begin(), bytes.end(), [&](char b) { return byte_id(b) >= 0; });
}

void Bpe::merge_short(std::string_view word, std::vector<Symbol>& symbols) const {
  std::array<Joined, kShortWord> joined;
  size_t n = symbols.size();
  for (size_t i = 0; i + 1 < n; ++i) joined[i] = join(word, symbols[i], symbols[i + 1]);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (joined[i].rank < joined[best].rank) best = i;
    }
    if (joined[best].rank == UINT32_MAX) break;
    symbols[best].size += symbols[best + 1].size;
    symbols[best].id = joined[best].id;
    --n;
    for (size_t i = best + 1; i < n; ++i) {
      symbols[i] = symbols[i + 1];
      joined[i] = joined[i + 1];
    }
    if (best > 0) joined[best - 1] = join(word, symbols[best - 1], symbols[best]);
    if (best + 1 < n) joined[best] = join(word, symbols[best], symbols[best + 1]);
  }
  symbols.resize(n);
}

void Bpe::merge_long(std::string_view word, std::vector<Symbol>& symbols) const {
  struct Candidate {
    uint32_t rank, left, size;  // size: of the joined text; another size means it is out of date
    int32_t id;
    bool operator<(const Candidate& o) const {  // the heap's top is the largest
      return rank != o.rank ? rank > o.rank : left > o.left;
    }
  };
  const auto n = static_cast<uint32_t>(symbols.size());
  std::vector<uint32_t> before(n), after(n);
  std::vector<Candidate> heap;
  const auto consider = [&](uint32_t left) {
    const Symbol &a = symbols[left], &b = symbols[after[left]];
    const Joined j = join(word, a, b);
    if (j.rank == UINT32_MAX) return false;
    heap.push_back({j.rank, left, a.size + b.size, j.id});
    return true;
  };
  for (uint32_t i = 0; i < n; ++i) {
    before[i] = i - 1;
    after[i] = i + 1;
    if (i + 1 < n) consider(i);
  }
  std::make_heap(heap.begin(), heap.end());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate top = heap.back();
    heap.pop_back();
    const uint32_t left = top.left, right = after[left];
    if (symbols[left].size == 0 || right >= n ||
        symbols[left].size + symbols[right].size != top.size) {
      continue;
    }
    symbols[left].size = top.size;
    symbols[left].id = top.id;
    symbols[right].size = 0;
    after[left] = after[right];
    if (after[left] < n) before[after[left]] = left;
    if (after[left] < n && consider(left)) std::push_heap(heap.begin(), heap.end());
    if (left > 0 && consider(before[left])) std::push_heap(heap.begin(), heap.end());
  }
  std::erase_if(symbols, [](const Symbol& s) { return s.size == 0; });
}

void Bpe::emit(std::string_view word, const std::vector<Symbol>& symbols,
               std::vector<int32_t>& out) const {
  bool fuse = false;
  for (const Symbol& s : symbols) {
    const std::string_view text = word.substr(s.begin, s.size);
    if (s.id >= 0) {
      out.push_back(s.id);
    } else if (falls_back(text)) {
      for (char b : text) out.push_back(byte_id(b));
    } else if (options_.unk && !fuse) {
      out.push_back(*options_.unk);
      fuse = options_.fuse_unk;
      continue;
    } else if (options_.unk) {
      continue;
    }
    fuse = false;
  }
}

void Bpe::encode_uncached(std::string_view word, std::vector<int32_t>& out) const {
  if (options_.ignore_merges) {
    if (const int32_t id = vocabulary_.find(word); id >= 0) {
      out.push_back(id);
      return;
    }
  }
  thread_local std::vector<Symbol> symbols;
  split(word, symbols);
  if (symbols.size() <= kShortWord) {
    merge_short(word, symbols);
  } else {
    merge_long(word, symbols);
    symbols.shrink_to_fit();
  }
  emit(word, symbols, out);
}

}  // namespace hone
