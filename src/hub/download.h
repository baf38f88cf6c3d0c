// One file of a hub as a blob of the cache: resumed where an earlier run, of either library, was
// cut off; checked in length and hash; renamed into place when it is whole.
#pragma once

#include <functional>
#include <string>

#include "hub/cache.h"
#include "hub/client.h"

namespace hone {

/// Called as bytes come, with the change of how much of the file is there: below 0 where a
/// beginning had to be thrown away. From one thread for each file.
using BytesCame = std::function<void(int64_t change)>;

struct Downloaded {
  int64_t size = 0;     ///< of the blob
  int64_t fetched = 0;  ///< bytes that came over the network in this run
  bool checked = true;  ///< false where the blob's name promises no hash
};

/// Raises TransferError where the hub could not be reached often enough (what came stays for the
/// next run), corrupt where length or hash are wrong twice, io where the disk refuses. A blob
/// that is there is taken unread, unless it is `suspect`: then it goes where it is damaged.
Downloaded download_blob(HubClient& client, const HubCache& cache, const std::string& commit,
                         const RemoteFile& file, bool suspect, const BytesCame& came);

/// Reads a blob again. Empty where it is what its name promises (or its name promises nothing),
/// else what is wrong.
std::string blob_mismatch(const fs::path& blob);

}  // namespace hone
