#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/checked.h"
#include "base/json.h"
#include "formats/file_util.h"
#include "formats/printable.h"
#include "formats/safetensors.h"
#include "formats/safetensors_types.h"

namespace hone {
namespace {

constexpr size_t kMaxWrittenHeader = 100'000'000;

/// Place of a type in the file: larger alignments first, as the reference library sorts.
size_t type_rank(DType dtype) {
  return static_cast<size_t>(&safetensors_type_of(dtype) - safetensors_types().data());
}

}  // namespace

void SafetensorsWriter::declare(const std::string& name, DType dtype, const Shape& shape) {
  HONE_CHECK(order_.empty() && !header_done_, invalid_argument,
             "{}: tensor {} was declared after the first data", path_.string(), printable(name));
  HONE_CHECK(!name.empty() && name != "__metadata__" &&
                 tensors_.emplace(name, Declared{name, dtype, shape}).second,
             invalid_argument, "{}: tensor {} is declared twice or has no valid name",
             path_.string(), printable(name));
}

const std::vector<std::string>& SafetensorsWriter::order() {
  if (!header_done_) write_header();
  return order_;
}

void SafetensorsWriter::write_header() {
  header_done_ = true;
  for (const auto& [name, t] : tensors_) order_.push_back(name);
  std::stable_sort(order_.begin(), order_.end(), [&](const auto& a, const auto& b) {
    return type_rank(tensors_.at(a).dtype) < type_rank(tensors_.at(b).dtype);
  });
  // Written piece by piece: one ordered_json object of every tensor would cost quadratic time.
  std::string header;
  auto add = [&](const std::string& key, const Json& value) {
    header += header.empty() ? '{' : ',';
    header += Json(key).dump() + ':' + value.dump();
  };
  try {
    if (!metadata_.empty()) add("__metadata__", Json(metadata_));
    int64_t offset = 0;
    for (const std::string& name : order_) {
      const Declared& t = tensors_.at(name);
      int64_t size = checked_mul(checked_numel(t.shape, "tensor"), dtype_size(t.dtype), "tensor");
      int64_t end = checked_add(offset, size, "safetensors data");
      add(name, {{"dtype", safetensors_type_of(t.dtype).name},
                 {"shape", Json(t.shape)},
                 {"data_offsets", {offset, end}}});
      offset = end;
    }
  } catch (const nlohmann::json::exception&) {
    fail(ErrorKind::invalid_argument, "{}: a name or the metadata is not valid UTF-8",
         path_.string());
  }
  if (header.empty()) header = "{";
  header += '}';
  header.resize(static_cast<size_t>(round_up(static_cast<int64_t>(header.size()), 8)), ' ');
  HONE_CHECK(header.size() <= kMaxWrittenHeader, unsupported,
             "{}: a header of {} bytes, at most {}", path_.string(), header.size(),
             kMaxWrittenHeader);
  uint64_t length = header.size();
  file_.write(&length, sizeof(length));
  file_.write(header);
}

void SafetensorsWriter::write(const std::string& name, const Tensor& tensor) {
  const auto& names = order();
  HONE_CHECK(written_ < names.size() && names[written_] == name, invalid_argument,
             "{}: tensor {} is not the next one in order", path_.string(), printable(name));
  const Declared& t = tensors_.at(name);
  HONE_CHECK(tensor.dtype() == t.dtype && tensor.shape() == t.shape, invalid_argument,
             "{}: tensor {}: declared as {} {}, got {} {}", path_.string(), printable(name),
             dtype_name(t.dtype), shape_string(t.shape), dtype_name(tensor.dtype()),
             shape_string(tensor.shape()));
  write_in_pieces(file_, {tensor.raw(), static_cast<size_t>(tensor.byte_size())});
  ++written_;
}

void SafetensorsWriter::finish() {
  HONE_CHECK(written_ == order().size(), invalid_argument, "{}: {} of {} tensors were written",
             path_.string(), written_, order().size());
  file_.commit();
}

}  // namespace hone
