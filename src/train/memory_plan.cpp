#include "train/memory_plan.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "base/memory.h"
#include "tensor/storage.h"

namespace hone {
namespace {

// What a rehearsal does not touch: the program's pages and the small blocks of the optimizer, the
// log, the measurements and the output. 2 to 4 MB on the default model, whatever is trained.
constexpr int64_t kLater = int64_t{4} << 20;

TrainingBatch whole_rows(int64_t rows, int64_t length, int64_t vocabulary) {
  TrainingBatch b;
  for (int64_t r = 0; r < rows; ++r) {
    b.row_spans.push_back(r);
    b.spans.push_back({r * length, (r + 1) * length});
  }
  b.row_spans.push_back(rows);
  for (int64_t t = 0; t < rows * length; ++t) {
    b.tokens.push_back(static_cast<int32_t>(t % vocabulary));
    b.targets.push_back(static_cast<int32_t>((t + 1) % vocabulary));
  }
  b.target_count = rows * length;
  return b;
}

// The model has but its first blocks while this lives.
class FirstBlocks {
 public:
  FirstBlocks(Model& model, size_t count) : model_(model) {
    const auto begin = model.blocks.begin() + static_cast<std::ptrdiff_t>(count);
    std::move(begin, model.blocks.end(), std::back_inserter(rest_));
    model.blocks.erase(begin, model.blocks.end());
  }
  ~FirstBlocks() { std::ranges::move(rest_, std::back_inserter(model_.blocks)); }
  FirstBlocks(const FirstBlocks&) = delete;
  FirstBlocks& operator=(const FirstBlocks&) = delete;

 private:
  Model& model_;
  std::vector<Block> rest_;
};

}  // namespace

MemoryPlan plan_memory(Model& model, Trainer& trainer, Objective& objective, int64_t rows,
                       int64_t length, int64_t accumulate) {
  // A rehearsal has two blocks: where even a few of their tensors find no room, none begins.
  const double least = 8.0 * 4 * double(rows) * double(length) * double(model.width());
  require_memory(static_cast<int64_t>(std::min(least, 0x1p62)), "the training");
  const TrainingBatch batch = whole_rows(rows, length, model.vocabulary());
  const auto blocks = static_cast<int64_t>(model.blocks.size());
  MemoryPlan plan;
  plan.weights = storage_bytes();
  auto peak_with = [&](int64_t count) {
    FirstBlocks part(model, static_cast<size_t>(count));
    reset_storage_peak();
    // From the second part of a batch on, all gradients are there from the beginning.
    trainer.rehearse(batch, objective, std::min<int64_t>(2, accumulate));
    return storage_peak();
  };
  const int64_t one = peak_with(1);
  int64_t all = one;
  if (blocks > 1) {
    const int64_t each = peak_with(std::min<int64_t>(2, blocks)) - one;
    all = one + (blocks - 1) * each;
    if (trainer.options().checkpointing == Checkpointing::root) {
      // √L: the inputs of the groups and those of one group's blocks, in place of every block's.
      const int64_t input = rows * length * model.width() * 4;
      const auto group = static_cast<int64_t>(std::ceil(std::sqrt(double(blocks))));
      const int64_t kept = (blocks + group - 1) / group + group;
      all = one + (blocks - 1) * (each - input) + (kept - 2) * input;
    }
  }
  plan.step = std::max<int64_t>(0, all - plan.weights);
  plan.optimizer = trainer.state_bytes();
  // What waits for reuse is what the step's tensors will be put into, but for sizes that none has
  // when they are most: about half, and no more than may wait (storage.h).
  const int64_t spare = storage_spare();
  const int64_t waiting = std::min(spare / 2, (int64_t{64} << 20) + all / 16);
  plan.rest = kLater + std::max<int64_t>(0, resident_bytes() - storage_bytes() - spare + waiting);
  return plan;
}

}  // namespace hone
