// Where the hub and its cache are, as huggingface_hub's environment variables say.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace hone {

struct HubSettings {
  std::string endpoint = "https://huggingface.co";  ///< HF_ENDPOINT, without a slash at the end
  std::filesystem::path cache;  ///< HF_HUB_CACHE, or HF_HOME/hub, or ~/.cache/huggingface/hub
  /// HF_TOKEN, or what the file HF_TOKEN_PATH (HF_HOME/token) holds; empty = none. It goes to the
  /// endpoint alone, and into no message.
  std::string token;
  bool offline = false;               ///< HF_HUB_OFFLINE: no request at all
  std::string ca_file;                ///< certificates to trust instead of the system's
  double connect_seconds = 10;        ///< HF_HUB_ETAG_TIMEOUT
  double stall_seconds = 10;          ///< HF_HUB_DOWNLOAD_TIMEOUT: so long without a byte is an end
  int tries = 5;                      ///< of a request in a row that bring nothing
  double first_wait_seconds = 1;      ///< before the second try; doubles from try to try
  double longest_wait_seconds = 300;  ///< a server that asks for more is not waited for

  using Environment = std::function<const char*(const char*)>;
  /// Raises invalid_argument for values that make no sense.
  static HubSettings from_environment(const Environment& get);
  static HubSettings from_environment();
};

/// The cache alone, for what only looks for models there.
std::filesystem::path hub_cache_directory(const HubSettings::Environment& get);

}  // namespace hone
