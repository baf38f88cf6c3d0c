// "rwkv_cpp": the files of rwkv.cpp, which are only read. A header (magic, version, vocabulary,
// width, layers, type), then tensors back to back: rank, length of the name, type, sizes from the
// innermost on, name, data. Blocks are GGML's.
//
// A file says nothing else: the generation shows in its tensors, and head, feed-forward and inner
// sizes in their shapes. They become a config.json (model_type "rwkv7.cpp", ...). Ones in shapes of
// three are left out. A vocabulary of 256 is bytes; any other needs its tokenizer elsewhere.
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "base/checked.h"
#include "formats/checkpoint.h"
#include "formats/ggml_types.h"
#include "formats/printable.h"

namespace hone {
namespace rwkv_cpp {

constexpr uint32_t kMagic = 0x67676d66;
constexpr int64_t kMaxRank = 3, kMaxName = 256, kMaxTensors = 1 << 20;

// Of the file's numbers; the others were never written by a released version.
std::string_view type_id(int32_t number) {
  switch (number) {
    case 0:
      return "f32";
    case 1:
      return "f16";
    case 2:
      return "q4_0";
    case 3:
      return "q4_1";
    case 7:
      return "q5_0";
    case 8:
      return "q5_1";
    case 9:
      return "q8_0";
    default:
      return {};
  }
}

class RwkvCppCheckpoint final : public Checkpoint {
 public:
  explicit RwkvCppCheckpoint(const fs::path& file) : file_(MappedFile::open(file)) {
    path = file;
    layout = "rwkv_cpp";
    take_int();
    const int32_t version = take_int();
    HONE_CHECK(version == 100 || version == 101, unsupported, "{}: rwkv.cpp version {}",
               path.string(), version);
    vocabulary_ = take_int();
    const int32_t width = take_int(), layers = take_int();
    take_int();  // of most matrices
    while (at_ < file_->bytes().size()) {
      take_tensor();
      HONE_CHECK(std::ssize(tensors_) <= kMaxTensors, corrupt, "{}: too many tensors",
                 path.string());
    }
    describe(width, layers);
  }

  std::vector<std::string> names() const override {
    std::vector<std::string> all;
    for (const auto& [name, w] : tensors_) all.push_back(name);
    return all;
  }
  bool has(const std::string& name) const override { return tensors_.contains(name); }
  Weight weight(const std::string& name) const override { return find(name); }
  std::optional<std::string> text(const std::string& name) const override {
    if (name != "tokenizer.json" || vocabulary_ != 256) return std::nullopt;
    return byte_tokenizer();
  }

 private:
  std::span<const std::byte> take(int64_t n) {
    const auto left = static_cast<int64_t>(file_->bytes().size() - at_);
    HONE_CHECK(n >= 0 && n <= left, corrupt, "{}: it ends at byte {}, inside of something of {}",
               path.string(), file_->bytes().size(), n);
    auto bytes = file_->bytes().subspan(at_, static_cast<size_t>(n));
    at_ += static_cast<size_t>(n);
    return bytes;
  }
  int32_t take_int() {
    int32_t x;
    std::memcpy(&x, take(4).data(), 4);
    return x;
  }

  void take_tensor() {
    const int64_t rank = take_int(), length = take_int();
    const int32_t number = take_int();
    HONE_CHECK(rank >= 1 && rank <= kMaxRank && length >= 1 && length <= kMaxName, corrupt,
               "{}: a tensor of rank {} whose name has {} bytes, at byte {}", path.string(), rank,
               length, at_);
    Shape shape;
    for (int64_t i = 0; i < rank; ++i) shape.insert(shape.begin(), take_int());
    auto bytes = take(length);
    const std::string name(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    const std::string_view id = type_id(number);
    HONE_CHECK(!id.empty(), unsupported, "{}: tensor {}: type {}", path.string(), printable(name),
               number);
    const GgmlType& type = *find_ggml_type(id);
    int64_t elements = 1;
    for (int64_t d : shape) {
      HONE_CHECK(d > 0, corrupt, "{}: tensor {}: a size of {}", path.string(), printable(name), d);
      elements = checked_mul(elements, d, "tensor");
    }
    HONE_CHECK(shape.back() % type.block_elements == 0, corrupt,
               "{}: tensor {}: rows of {} in blocks of {}", path.string(), printable(name),
               shape.back(), type.block_elements);
    const int64_t size = checked_mul(elements / type.block_elements, type.block_bytes, "tensor");
    Weight w;
    w.encoding = id;
    if (rank == 3) std::erase(shape, 1);
    if (shape.empty()) shape = {1};
    w.shape = shape;
    Shape stored = shape;
    if (!type.scalar) stored.back() = stored.back() / type.block_elements * type.block_bytes;
    auto data = take(size);
    // The file aligns nothing.
    Tensor t = Tensor::empty(stored, type.scalar ? *type.scalar : DType::u8);
    HONE_ASSERT(t.byte_size() == size);
    std::memcpy(t.mutable_raw(), data.data(), data.size());
    w.planes[type.scalar ? "values" : "blocks"] = t;
    HONE_CHECK(tensors_.emplace(name, std::move(w)).second, corrupt, "{}: tensor {} comes twice",
               path.string(), printable(name));
  }

  const Weight& find(const std::string& name) const {
    auto it = tensors_.find(name);
    HONE_CHECK(it != tensors_.end(), corrupt, "{}: the tensor {} is missing", path.string(),
               printable(name));
    return it->second;
  }
  // A size of a matrix, or of [heads, head size].
  int64_t size_of(const std::string& name, size_t axis) const {
    const Shape& s = find(name).shape;
    HONE_CHECK(s.size() == 2, corrupt, "{}: tensor {}: expected a matrix, got {}", path.string(),
               printable(name), shape_string(s));
    return s[axis];
  }

  void describe(int64_t width, int64_t layers) {
    const std::string att = "blocks.0.att.";
    config = {{"vocab_size", vocabulary_},
              {"hidden_size", width},
              {"num_hidden_layers", layers},
              {"intermediate_size", size_of("blocks.0.ffn.key.weight", 0)},
              {"tie_word_embeddings", false}};
    if (has(att + "r_k")) {
      architecture = "rwkv7.cpp";
      config["head_dim"] = size_of(att + "r_k", 1);
      config["max_position_embeddings"] = kContext;
      config["group_norm_eps"] = 64e-5;
      config["decay_low_rank_dim"] = size_of(att + "w1", 0);
      config["a_low_rank_dim"] = size_of(att + "a1", 0);
      if (has("blocks.1.att.v1")) config["v_low_rank_dim"] = size_of("blocks.1.att.v1", 0);
      config["gate_low_rank_dim"] = size_of(att + "g1", 0);
      return;
    }
    const bool finch = has(att + "time_maa_x");
    HONE_CHECK(finch || (has(att + "time_faaaa") && has(att + "gate.weight")), unsupported,
               "{}: RWKV before version 5.2", path.string());
    architecture = finch ? "rwkv6.cpp" : "rwkv5.cpp";
    config["head_size"] = size_of(att + "time_faaaa", 1);
    config["attention_hidden_size"] = size_of(att + "key.weight", 0);
    config["context_length"] = kContext;
    config["head_size_divisor"] = finch ? 8 : 1;
    if (!finch) return;
    config["time_mix_extra_dim"] = size_of(att + "time_maa_w1", 0) / 5;
    config["time_decay_extra_dim"] = size_of(att + "time_decay_w1", 0);
  }

  // Token b is byte b, in the alphabet of byte-level BPE.
  static std::string byte_tokenizer() {
    Json vocabulary = Json::object();
    int next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printed = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      const int code = printed ? b : next++;
      std::string text;
      if (code < 128) {
        text = static_cast<char>(code);
      } else {
        text += static_cast<char>(0xC0 | code >> 6);
        text += static_cast<char>(0x80 | (code & 63));
      }
      vocabulary[text] = b;
    }
    const Json bytes = {{"type", "ByteLevel"},
                        {"add_prefix_space", false},
                        {"trim_offsets", true},
                        {"use_regex", true}};
    const Json all = {
        {"version", "1.0"},
        {"added_tokens", Json::array()},
        {"normalizer", nullptr},
        {"pre_tokenizer", bytes},
        {"post_processor", nullptr},
        {"decoder", bytes},
        {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}}};
    return all.dump();
  }

  static constexpr int64_t kContext = 4096;  // the files do not say it
  std::shared_ptr<const MappedFile> file_;
  size_t at_ = 0;
  int32_t vocabulary_ = 0;
  std::map<std::string, Weight> tensors_;
};

bool can_open(const fs::path& path) {
  if (!fs::is_regular_file(path)) return false;
  auto file = MappedFile::open(path);
  uint32_t magic = 0;
  if (file->bytes().size() >= 24) std::memcpy(&magic, file->bytes().data(), 4);
  return magic == kMagic;
}

std::unique_ptr<Checkpoint> open(const fs::path& path) {
  return std::make_unique<RwkvCppCheckpoint>(path);
}

std::string refusal(const WeightInfo&) { return "rwkv.cpp files are only read"; }

}  // namespace rwkv_cpp

namespace layout_entry {

const Layout& rwkv_cpp() {
  static constexpr Layout kLayout = {
      "rwkv_cpp",     "rwkv.cpp file (read only)", rwkv_cpp::can_open,
      rwkv_cpp::open, rwkv_cpp::refusal,           nullptr,
      nullptr};
  return kLayout;
}

}  // namespace layout_entry
}  // namespace hone
