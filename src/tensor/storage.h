// Memory behind tensors: aligned, uninitialised, and for large tensors in huge pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace hone {

/// `size` bytes aligned to at least 64, uninitialised; freed with the last owner. From 128 KB on
/// the memory is a mapping of its own, from 2 MB on aligned to and advised for 2 MB pages: weights
/// are read end to end for every token, and 4 KB pages cost a third of the bandwidth. Mappings just
/// freed are handed out again (at most 64 MB wait for that), since fresh pages have to be zeroed.
/// Raises out_of_memory.
std::shared_ptr<void> allocate_storage(size_t size);

/// The same for what stays and is read end to end, such as packed weights: small blocks stand one
/// behind the other in mappings of 16 MB, so that they too lie in 2 MB pages. A mapping is freed
/// with the last block in it.
std::shared_ptr<void> allocate_lasting(size_t size);

/// Bytes of all blocks that have owners now, and the most there have been since reset_storage_peak.
int64_t storage_bytes();
int64_t storage_peak();
void reset_storage_peak();
/// Bytes of the mappings that wait to be handed out again.
int64_t storage_spare();

/// While one lives, mappings just freed wait as long as all blocks and they together take not much
/// more (64 MB, and a sixteenth) than the most there have been since reset_storage_peak: a training
/// step makes and frees the same tensors again and again, and zeroing their pages anew costs a
/// tenth of it.
class StorageReuse {
 public:
  StorageReuse();
  ~StorageReuse();
  StorageReuse(const StorageReuse&) = delete;
  StorageReuse& operator=(const StorageReuse&) = delete;
};

}  // namespace hone
