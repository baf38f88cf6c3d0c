// Splitting a text into the words that BPE works on: an ordered list of steps, each of which
// rewrites or splits the pieces that the step before made. Empty pieces are dropped.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/regex.h"

namespace hone {

/// What becomes of a delimiter found in a piece (Hugging Face's "behavior").
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

/// Splits `piece`, calling `emit(std::string_view)` with parts of it in order.
using EmitPiece = std::function<void(std::string_view)>;

class PreTokenizer {
 public:
  /// One step. `at_start`: the piece begins the text. Parts must outlive the call only within it.
  using Step = std::function<void(std::string_view piece, bool at_start, const EmitPiece& emit)>;

  void add(Step step) { steps_.push_back(std::move(step)); }
  /// Calls `emit` with each word of `text`, in order.
  void split(std::string_view text, bool at_start, const EmitPiece& emit) const {
    run(0, text, at_start, emit);
  }
  size_t size() const { return steps_.size(); }

 private:
  void run(size_t step, std::string_view piece, bool at_start, const EmitPiece& emit) const;
  std::vector<Step> steps_;
};

/// The steps by which tokenizer.json's components are built. Each is a pure function object.
PreTokenizer::Step split_by_regex(std::shared_ptr<const Regex> regex, SplitBehavior behavior,
                                  bool invert);
/// Delimiters are single characters, or runs of one character under `contiguous`.
PreTokenizer::Step split_by_class(bool (*delimiter)(char32_t), SplitBehavior behavior);
/// Puts a space in front of a piece that does not begin with one.
PreTokenizer::Step add_prefix_space();
/// Spells the bytes in the byte alphabet; for steps that come after a byte-level one.
PreTokenizer::Step spell_bytes();

enum class PrependScheme { always, first, never };
/// Spaces become `replacement`, one is put in front by `scheme`, and `split` cuts before each.
PreTokenizer::Step metaspace(std::string replacement, PrependScheme scheme, bool split);

}  // namespace hone
