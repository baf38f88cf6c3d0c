#include <utility>

#include "base/checked.h"
#include "formats/file_util.h"
#include "formats/gguf.h"
#include "formats/printable.h"

namespace hone {
namespace {

constexpr size_t kMaxTensorName = 63;  // llama.cpp keeps names in 64 bytes with a final NUL

class Encoder {
 public:
  template <typename T>
  void number(T x) {
    out.append(reinterpret_cast<const char*>(&x), sizeof(T));
  }
  void string(std::string_view s) {
    number<uint64_t>(s.size());
    out.append(s);
  }
  std::string out;
};

/// Writes an integer in its type; false where it does not fit.
bool put_integer(Encoder& e, GgufType type, auto x) {
  auto put = [&](auto wire) {
    using Wire = decltype(wire);
    if (!std::in_range<Wire>(x)) return false;
    e.number(static_cast<Wire>(x));
    return true;
  };
  switch (type) {
    case GgufType::u8:
      return put(uint8_t{});
    case GgufType::i8:
      return put(int8_t{});
    case GgufType::u16:
      return put(uint16_t{});
    case GgufType::i16:
      return put(int16_t{});
    case GgufType::u32:
      return put(uint32_t{});
    case GgufType::i32:
      return put(int32_t{});
    case GgufType::u64:
      return put(uint64_t{});
    case GgufType::i64:
      return put(int64_t{});
    default:
      return false;
  }
}

/// Writes one value of `type`; false where the value is of another kind or does not fit.
template <typename T>
bool put(Encoder& e, GgufType type, const T& x) {
  if constexpr (std::is_same_v<T, bool>) {
    if (type != GgufType::boolean) return false;
    e.number<uint8_t>(x ? 1 : 0);
    return true;
  } else if constexpr (std::is_convertible_v<T, std::string_view>) {
    if (type != GgufType::string) return false;
    e.string(x);
    return true;
  } else if constexpr (std::is_floating_point_v<T>) {
    if (type == GgufType::f32)
      e.number(static_cast<float>(x));
    else if (type == GgufType::f64)
      e.number(static_cast<double>(x));
    else
      return false;
    return true;
  } else {
    return put_integer(e, type, x);
  }
}

template <typename T, typename List>
bool put_all(Encoder& e, GgufType element, const List& values) {
  e.number(static_cast<uint32_t>(element));
  e.number<uint64_t>(values.size());
  for (const auto& x : values)
    if (!put<T>(e, element, x)) return false;
  return true;
}
template <typename T>
bool put(Encoder& e, GgufType element, const std::vector<T>& values) {
  return put_all<T>(e, element, values);
}
bool put(Encoder& e, GgufType element, const Strings& values) {
  return put_all<std::string_view>(e, element, values);
}

std::string encode_value(const GgufValue& value, const std::string& key) {
  Encoder e;
  e.number(static_cast<uint32_t>(value.type));
  bool good = std::visit(
      [&](const auto& x) {
        constexpr bool kArray = requires {
          x.empty();
          x.begin();
        }
        &&!std::is_same_v<std::decay_t<decltype(x)>, std::string>;
        if (kArray != (value.type == GgufType::array)) return false;
        return put(e, kArray ? value.element : value.type, x);
      },
      value.data);
  HONE_CHECK(good, invalid_argument, "GGUF key {}: its value does not fit the type {}",
             printable(key),
             gguf_type_name(value.type == GgufType::array ? value.element : value.type));
  return std::move(e.out);
}

}  // namespace

void GgufWriter::set(const std::string& key, GgufValue value) {
  HONE_CHECK(!header_done_, invalid_argument, "{}: the key {} was set after the first tensor",
             path_.string(), printable(key));
  HONE_CHECK(!key.empty() && key.size() <= 65535 && seen_keys_.insert(key).second, invalid_argument,
             "{}: the GGUF key {} is set twice, empty or too long", path_.string(), printable(key));
  encode_value(value, key);
  metadata_.push_back({key, std::move(value)});
}

void GgufWriter::declare(const std::string& name, const Shape& shape, const std::string& encoding) {
  HONE_CHECK(!header_done_, invalid_argument, "{}: the tensor {} was declared after the first data",
             path_.string(), printable(name));
  const GgmlType* type = find_ggml_type(encoding);
  HONE_CHECK(type != nullptr, unsupported, "{}: tensor {}: GGUF has no tensor type for {}",
             path_.string(), printable(name), encoding);
  HONE_CHECK(!name.empty() && name.size() <= kMaxTensorName && seen_names_.insert(name).second,
             invalid_argument,
             "{}: the tensor name {} is declared twice, empty, or longer than {} bytes",
             path_.string(), printable(name), kMaxTensorName);
  int64_t elements = checked_numel(shape, name.c_str());
  HONE_CHECK(!shape.empty() && shape.size() <= 4 && elements > 0 &&
                 shape.back() % type->block_elements == 0,
             invalid_argument,
             "{}: tensor {} {}: expected rank 1 to 4 and rows of a multiple of {} elements for {}",
             path_.string(), printable(name), shape_string(shape), type->block_elements, encoding);
  int64_t size = checked_mul(elements / type->block_elements, type->block_bytes, name.c_str());
  tensors_.push_back({name, shape, type, size});
}

void GgufWriter::write_header() {
  header_done_ = true;
  Encoder e;
  e.out = "GGUF";
  e.number<uint32_t>(3);
  e.number<uint64_t>(tensors_.size());
  e.number<uint64_t>(metadata_.size());
  for (const GgufEntry& entry : metadata_) {
    e.string(entry.key);
    e.out += encode_value(entry.value, entry.key);
  }
  int64_t offset = 0;
  for (const Declared& t : tensors_) {
    e.string(t.name);
    e.number(static_cast<uint32_t>(t.shape.size()));
    for (auto d = t.shape.rbegin(); d != t.shape.rend(); ++d) e.number(static_cast<uint64_t>(*d));
    e.number(t.type->number);
    e.number(static_cast<uint64_t>(offset));
    offset = round_up(checked_add(offset, t.size, "GGUF data"), kAlignment);
  }
  file_.write(e.out);
  file_.pad_to(kAlignment);
}

void GgufWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  if (!header_done_) write_header();
  HONE_CHECK(written_ < tensors_.size() && tensors_[written_].name == name, invalid_argument,
             "{}: tensor {} is not the next one declared", path_.string(), printable(name));
  const Declared& t = tensors_[written_];
  HONE_CHECK(static_cast<int64_t>(bytes.size()) == t.size, invalid_argument,
             "{}: tensor {}: declared with {} bytes, got {}", path_.string(), printable(name),
             t.size, bytes.size());
  write_in_pieces(file_, bytes);
  file_.pad_to(kAlignment);
  ++written_;
}

void GgufWriter::write(const std::string& name, const Weight& weight) {
  const Declared* next = written_ < tensors_.size() ? &tensors_[written_] : nullptr;
  HONE_CHECK(next == nullptr || (next->type->id == weight.encoding && next->shape == weight.shape),
             invalid_argument, "{}: tensor {}: declared as {} {}, got {} {}", path_.string(),
             printable(name), next->type->id, shape_string(next->shape), weight.encoding,
             shape_string(weight.shape));
  const Tensor& plane = weight.plane(next != nullptr && next->type->scalar ? "values" : "blocks");
  write(name, std::span(plane.raw(), static_cast<size_t>(plane.byte_size())));
}

void GgufWriter::finish() {
  if (!header_done_) write_header();
  HONE_CHECK(written_ == tensors_.size(), invalid_argument, "{}: {} of {} tensors were written",
             path_.string(), written_, tensors_.size());
  file_.commit();
}

}  // namespace hone
