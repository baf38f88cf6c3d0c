// Examples in front of questions, drawn as Python draws them: random.Random(seed).sample(), which
// stands on MT19937 seeded by the integer's words, and on whole numbers below n by rejection.
#include <algorithm>
#include <cmath>
#include <random>
#include <sstream>
#include <unordered_set>

#include "base/error.h"
#include "eval/task.h"

namespace hone {
namespace {

class PythonRandom {
 public:
  explicit PythonRandom(uint32_t seed) {
    // init_by_array of one word (Matsumoto and Nishimura's reference), over the state that the
    // generator's own seeding makes of 19650218.
    constexpr uint32_t n = 624;
    std::vector<uint32_t> mt(n);
    mt[0] = 19650218;
    for (uint32_t i = 1; i < n; ++i) mt[i] = 1812433253u * (mt[i - 1] ^ (mt[i - 1] >> 30)) + i;
    uint32_t i = 1;
    auto next = [&] {
      if (++i < n) return;
      mt[0] = mt[n - 1];
      i = 1;
    };
    for (uint32_t k = 0; k < n; ++k, next())
      mt[i] = (mt[i] ^ ((mt[i - 1] ^ (mt[i - 1] >> 30)) * 1664525u)) + seed;
    for (uint32_t k = 1; k < n; ++k, next())
      mt[i] = (mt[i] ^ ((mt[i - 1] ^ (mt[i - 1] >> 30)) * 1566083941u)) - i;
    mt[0] = 0x80000000u;
    std::stringstream state;
    for (uint32_t x : mt) state << x << ' ';
    state << n;
    state >> engine_;
  }

  /// Of [0, n): as many top bits as n needs, until they are below it.
  size_t below(size_t n) {
    int bits = 0;
    while (n >> bits != 0) ++bits;
    for (;;) {
      uint64_t x = 0;
      if (bits <= 32)
        x = engine_() >> (32 - bits);
      else
        fail(ErrorKind::unsupported, "a pool of more than 4 294 967 295 examples");
      if (x < n) return size_t(x);
    }
  }

  /// `k` different numbers of [0, n), in the order in which Python gives them: it keeps a list of
  /// what is left of a small pool, and a set of what is taken of a large one.
  std::vector<size_t> sample(size_t n, size_t k) {
    std::vector<size_t> out;
    double small = 21;
    if (k > 5) small += std::pow(4.0, std::ceil(std::log(3.0 * double(k)) / std::log(4.0)));
    if (double(n) <= small) {
      std::vector<size_t> left(n);
      for (size_t i = 0; i < n; ++i) left[i] = i;
      for (size_t i = 0; i < k; ++i) {
        const size_t at = below(n - i);
        out.push_back(left[at]);
        left[at] = left[n - i - 1];
      }
      return out;
    }
    std::unordered_set<size_t> taken;
    for (size_t i = 0; i < k; ++i) {
      size_t x = below(n);
      while (!taken.insert(x).second) x = below(n);
      out.push_back(x);
    }
    return out;
  }

 private:
  std::mt19937 engine_;
};

}  // namespace

void add_shots(Task& task, std::span<const TaskItem> pool, bool same, int64_t count,
               uint32_t seed) {
  if (count <= 0) return;
  const auto k = size_t(count);
  HONE_CHECK(pool.size() >= k + (same ? 1 : 0), invalid_argument,
             "{}: {} examples in front of each item need a pool of {}, and there are {}", task.path,
             count, k + (same ? 1 : 0), pool.size());
  std::vector<std::string> examples;
  for (const TaskItem& item : pool) examples.push_back(item.example);
  PythonRandom random(seed);
  for (size_t i = 0; i < task.items.size(); ++i) {
    // One more than is needed where the item itself may come.
    std::vector<size_t> drawn = random.sample(examples.size(), k + (same ? 1 : 0));
    // What stands twice in the file may be drawn twice: then the others are drawn from anew.
    auto is_it = [&](size_t d) { return examples[d] == examples[i]; };
    if (same) std::erase_if(drawn, is_it);
    if (drawn.size() < k) {
      std::vector<size_t> others;
      for (size_t d = 0; d < examples.size(); ++d)
        if (!is_it(d)) others.push_back(d);
      HONE_CHECK(others.size() >= k, invalid_argument,
                 "{}: {} examples in front of an item need as many others, and there are {}",
                 task.path, count, others.size());
      drawn = random.sample(others.size(), k);
      for (size_t& d : drawn) d = others[d];
    }
    drawn.resize(k);
    std::string shots;
    for (size_t d : drawn) shots += examples[d] + "\n\n";
    for (TaskRequest& r : task.items[i].requests) r.context = shots + r.context;
  }
}

}  // namespace hone
