// The paged KV cache of softmax attention.
//
// A page holds kPageKeys = 64 consecutive positions of one sequence, for every layer and kv head at
// once. Inside a page K is already in the layout that the attention kernel multiplies with (four
// panels [D][16], lanes are keys), packed when it is written; V is [64][Dv]. A sequence is a list
// of page numbers and a length; pages go back to the pool when a sequence ends. Keys and values are
// f32, bf16 or f16; attention multiplies in f32.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "tensor/tensor.h"

namespace hone {

/// K and V sizes of one layer.
struct KvShape {
  int64_t kv_heads = 0;
  int64_t k_dim = 0;  ///< per head
  int64_t v_dim = 0;
};

/// One sequence's place in a KvCache.
struct KvSequence {
  std::vector<int64_t> pages;
  int64_t length = 0;  ///< positions that hold keys
};

class KvCache {
 public:
  /// `type`: f32, bf16 or f16; raises invalid_argument for others.
  explicit KvCache(std::vector<KvShape> layers, DType type = DType::f32);

  DType type() const { return type_; }

  /// Bytes of one page over all layers: 64 positions.
  int64_t page_bytes() const { return page_bytes_; }
  int64_t layers() const { return static_cast<int64_t>(layers_.size()); }
  const KvShape& shape(int64_t layer) const { return layers_[layer].shape; }

  /// Gives `s` the pages for `length` positions; raises out_of_memory with the size where the
  /// system has no more.
  void reserve(KvSequence& s, int64_t length);
  /// Forgets all positions from `length` on and gives back the pages that are no longer needed.
  void truncate(KvSequence& s, int64_t length);

  std::byte* k_page(int64_t layer, int64_t page, int64_t head);
  std::byte* v_page(int64_t layer, int64_t page, int64_t head);

  /// Writes keys and values of `count` positions from `start` on: rows of k are [kv_heads·k_dim],
  /// of v [kv_heads·v_dim]. The pages must have been reserved.
  void write(int64_t layer, const KvSequence& s, int64_t start, int64_t count, const float* k,
             const float* v);

 private:
  template <typename T>
  void write_as(int64_t layer, const KvSequence& s, int64_t start, int64_t count, const float* k,
                const float* v);
  /// Zeroes the values of a page from position `slot` on.
  void forget(int64_t page, int64_t slot);

  struct Layer {
    KvShape shape;
    int64_t offset = 0;  // bytes from the page's start
  };
  std::vector<Layer> layers_;
  DType type_;
  int64_t item_;  // bytes of one value
  int64_t page_bytes_ = 0;
  std::vector<Tensor> pages_;
  std::vector<int64_t> free_;
};

}  // namespace hone
