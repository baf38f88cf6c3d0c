// What a hub says of a repository at a revision: the commit, and the names of its files.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace hone {

struct HubListing {
  std::string commit;
  std::vector<std::string> files;  ///< each of them safe to write below a directory
};

/// Reads the answer of /api/models/NAME/revision/REVISION. Raises corrupt, naming `source`, also
/// where a single file's name is not safe.
HubListing parse_hub_listing(std::string_view json, const std::string& source);

/// The files that a pull takes, in their order. With `include` those that one of its globs matches,
/// else those that hone reads (see the .cpp); without those that one of `exclude` matches. A glob
/// that ends in '/' means all below. Raises invalid_argument, naming `source`, where a choice has
/// to be made (several GGUF files) or nothing is left.
std::vector<std::string> chosen_files(const std::vector<std::string>& files,
                                      const std::vector<std::string>& include,
                                      const std::vector<std::string>& exclude,
                                      const std::string& source);

}  // namespace hone
