// What a hub says: the list of files, and names that become paths. No name that gets through leads
// out of its directory.
#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "hub/listing.h"
#include "hub/names.h"

namespace {

void must(bool good) {
  if (!good) std::abort();
}

void check_below(const std::string& name) {
  const std::filesystem::path at = (std::filesystem::path("/top/below") / name).lexically_normal();
  must(at.string().rfind("/top/below/", 0) == 0 && name.find('\0') == std::string::npos);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const hone::HubListing l = hone::parse_hub_listing(text, "fuzz");
    must(hone::is_commit(l.commit));
    for (const std::string& f : l.files) check_below(f);
    hone::chosen_files(l.files, {}, {}, "fuzz");
  } catch (const hone::Error&) {
  }
  try {
    check_below(hone::blob_name(text, "fuzz"));
  } catch (const hone::Error&) {
  }
  if (hone::is_safe_path(text)) check_below(text);
  if (hone::is_repository_name(text)) check_below(text);
  return 0;
}
