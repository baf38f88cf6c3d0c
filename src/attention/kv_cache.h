// The paged KV cache of softmax attention, and what else the layers keep of a sequence.
//
// A page holds kPageKeys = 64 consecutive positions of one sequence, in the layout of kv_page.h,
// for all layers at once whose queries see equally far: these share a pool. A sequence is a length
// and a list of page numbers for each pool; pages go back to their pool when a sequence ends, and
// where a pool's layers have windows, once no later query sees them.
//
// Coded types (8 and 4 bits) know a page only once it is full: until then its positions are kept in
// f32 beside the pool, in the sequence's tail. A query sees the pages in front of its own as codes,
// its own (and what a pattern shows behind it) in f32, so that a result does not depend on how the
// sequence was cut into batches. Limit: a key or value that is not finite (in an f16 cache, one
// beyond 65504) may spoil every query whose tile holds its page, not only those that see it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "attention/kv_page.h"
#include "attention/pattern.h"
#include "tensor/tensor.h"

namespace hone {

/// K and V sizes of one layer, and which keys its queries may see.
struct KvShape {
  int64_t kv_heads = 0;
  int64_t k_dim = 0;  ///< per head
  int64_t v_dim = 0;
  Horizon horizon = {};
};

/// What one mixer keeps of a sequence beside keys and values, behind all its positions: the
/// tensors whose shapes it declares, or none at the beginning, which stands for zeros.
using RecurrentState = std::vector<Tensor>;

/// One sequence's place in a KvCache. While a batch runs, `length` is what it held before.
struct KvSequence {
  std::vector<std::vector<int64_t>> pages;  ///< [pools]; kDropped where no later query sees one
  int64_t length = 0;                       ///< positions that hold keys
  static constexpr int64_t kDropped = -1;

  /// Of each layer's mixer and feed-forward in turn; empty where no layer has any.
  std::vector<RecurrentState> recurrent;
  /// What it was behind `length` positions, ascending: where truncate() can go back to.
  struct Kept {
    int64_t length = 0;
    std::vector<RecurrentState> recurrent;
  };
  std::vector<Kept> kept;

  /// Of coded caches: f32 pages of the positions from the page of `length` on.
  struct Exact {
    Tensor tail;       ///< the page that holds position `length`, of all layers
    Tensor next;       ///< the batch's last page, where it is another and not full; of all layers
    Tensor between;    ///< those between the two, of the layer that runs
    int64_t last = 0;  ///< index of `next`; 0 where there is none
  } exact;
};

class KvCache {
 public:
  explicit KvCache(std::vector<KvShape> layers, KvType type = KvType::f32);

  KvType type() const { return type_; }

  /// Bytes of one page of every pool: 64 positions of all layers.
  int64_t page_bytes() const { return pooled_.bytes; }
  /// Bytes of the pages that a sequence of `length` positions holds once they are committed.
  int64_t bytes_of(int64_t length) const;
  /// Bytes of the pages that all sequences hold and of those that lie free.
  int64_t allocated_bytes() const;
  int64_t layers() const { return static_cast<int64_t>(shapes_.size()); }
  const KvShape& shape(int64_t layer) const { return shapes_[layer]; }

  /// Gives `s` the pages for `length` positions; raises out_of_memory with the size where the
  /// system has no more.
  void reserve(KvSequence& s, int64_t length);
  /// Says that all layers hold `length` positions. Pages that no query behind them sees, in any
  /// layer of their pool, are given back: layers with windows take constant memory.
  void commit(KvSequence& s, int64_t length);
  /// Forgets all positions from `length` on and gives back the pages that are no longer needed.
  /// Returns the length that is left, from where the caller runs what is missing again: a recurrent
  /// state cannot be cut, but only be put back to where it was kept last, or to the beginning; and
  /// to the beginning goes who would need pages that were given back.
  int64_t truncate(KvSequence& s, int64_t length);
  /// Keeps a copy of the recurrent state behind `length` positions, for truncate(): the last
  /// kMostKept. Nothing where there is none.
  static void keep(KvSequence& s);
  static constexpr size_t kMostKept = 4;
  /// Whether pages are given back before a sequence ends.
  bool drops() const;

  /// Writes keys and values of `count` positions from `start` on: rows of k are [kv_heads·k_dim],
  /// of v [kv_heads·v_dim]. The pages must have been reserved; in a coded cache `start` is the
  /// sequence's length.
  void write(int64_t layer, KvSequence& s, int64_t start, int64_t count, const float* k,
             const float* v);

  /// Page `index` of a sequence as the kernel reads it: out of the pool, or the f32 page of a coded
  /// cache, which exists from the page of `s.length` on.
  kernels::KvTile pooled(const KvSequence& s, int64_t layer, int64_t head, int64_t index);
  kernels::KvTile exact(KvSequence& s, int64_t layer, int64_t head, int64_t index);
  /// Whether the page has been given back: no query from `s.length` on sees it.
  bool dropped(const KvSequence& s, int64_t layer, int64_t index) const {
    return s.pages[pool_of_[layer]][index] == KvSequence::kDropped;
  }

 private:
  // The pages of layers that see equally far.
  struct Pool {
    Horizon horizon;
    int64_t bytes = 0;  // of a page
    std::vector<Tensor> pages;
    std::vector<int64_t> free;
    /// Pages that no query from position `length` on sees: those from first to last − 1.
    KeyRange unseen(int64_t length) const;
  };
  // Where each layer's heads stand in a page of its pool, or in one of all layers.
  struct Layout {
    KvType type;
    std::vector<int64_t> offsets;
    int64_t bytes = 0;  // of all layers
  };
  struct Place {
    std::byte *k, *v;
  };
  void make_pools();
  Layout layout_of(KvType type) const;
  bool has_keys(int64_t layer) const { return shapes_[layer].kv_heads > 0; }
  Place head_place(const Layout& l, std::byte* of_layer, int64_t layer, int64_t head) const;
  Place place(const Layout& l, std::byte* page, int64_t layer, int64_t head) const;
  Place pooled_place(const KvSequence& s, int64_t layer, int64_t head, int64_t index);
  Place exact_place(KvSequence& s, int64_t layer, int64_t head, int64_t index);
  KvPageShape page_shape(int64_t layer) const {
    return {shapes_[layer].k_dim, shapes_[layer].v_dim};
  }
  void write_head(int64_t layer, KvSequence& s, int64_t head, int64_t start, int64_t count,
                  const float* k, const float* v);
  /// Zeroes the values of float pages at `page` from position `slot` on: of all layers, or of those
  /// of a pool.
  void forget(const Layout& l, std::byte* page, int64_t slot, int64_t pool = -1);
  /// Fills the tail with the values of page `index` from the pool.
  void reopen(KvSequence& s, int64_t index);

  void drop_unseen(KvSequence& s);
  void give_back(KvSequence& s, int64_t pool, int64_t index);
  int64_t pools() const { return static_cast<int64_t>(pools_.size()); }

  std::vector<KvShape> shapes_;
  KvType type_;
  std::vector<Pool> pools_;
  std::vector<int64_t> pool_of_;  // [layers]; −1 where a layer has no keys
  Layout pooled_, exact_;         // exact_: f32, a page of all layers
  int64_t exact_layer_bytes_;     // the most of one layer
};

}  // namespace hone
