// What a tokenizer does to a text before it splits it: an ordered list of rewrites.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "text/unicode.h"

namespace hone {

class Normalizer {
 public:
  /// Rewrites the text in place; it is and stays well-formed UTF-8. Pure: threads share it.
  using Step = std::function<void(std::string&)>;

  void add(Step step) { steps_.push_back(std::move(step)); }
  size_t size() const { return steps_.size(); }
  bool empty() const { return steps_.empty(); }
  /// Raises corrupt where the steps make the text more than kMaxGrowth times as long.
  std::string apply(std::string_view text) const {
    std::string out(text);
    for (const Step& step : steps_) {
      step(out);
      HONE_CHECK(!grew_too_much(text.size(), out.size()), corrupt,
                 "tokenizer: the normalizer makes a text more than {} times as long", kMaxGrowth);
    }
    return out;
  }

 private:
  std::vector<Step> steps_;
};

}  // namespace hone
