#include "formats/imatrix.h"

#include <cmath>
#include <cstring>

#include "formats/gguf.h"
#include "formats/printable.h"

namespace hone {
namespace {

constexpr std::string_view kSums = ".in_sum2";

// A tensor of floats, of a given shape.
std::vector<float> floats_of(const GgufFile& file, const std::string& name, const Shape& shape) {
  const GgufTensor* t = file.find_tensor(name);
  HONE_CHECK(t != nullptr, corrupt, "{}: the tensor {} is missing", file.path().string(),
             printable(name));
  HONE_CHECK(t->ggml_type == 0 && t->shape() == shape, corrupt, "{}: {}: expected f32 {}, got {}",
             file.path().string(), printable(name), shape_string(shape), shape_string(t->shape()));
  const std::span<const std::byte> bytes = file.bytes(*t);
  // A file may place tensors at any byte.
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

}  // namespace

ImportanceMatrix read_imatrix(const fs::path& path) {
  const GgufFile file = GgufFile::open(path);
  HONE_CHECK(file.find_string("general.type") == "imatrix", unsupported,
             "{}: general.type is not imatrix: no importance matrix of llama.cpp", path.string());
  ImportanceMatrix matrix;
  for (const GgufTensor& t : file.tensors()) {
    if (!t.name.ends_with(kSums)) continue;
    const std::string name = t.name.substr(0, t.name.size() - kSums.size());
    Shape shape = t.shape();
    HONE_CHECK(shape.size() <= 2 && (shape.size() < 2 || shape[0] == 1), unsupported,
               "{}: {}: importances of several experts", path.string(), printable(name));
    const std::vector<float> sums = floats_of(file, t.name, shape);
    shape.back() = 1;
    const float count = floats_of(file, name + ".counts", shape)[0];
    HONE_CHECK(std::isfinite(count) && count >= 0, corrupt, "{}: {}: a count of {}", path.string(),
               printable(name), count);
    if (count == 0) continue;
    std::vector<float>& mean = matrix[name];
    for (float s : sums) {
      HONE_CHECK(std::isfinite(s / count) && s >= 0, corrupt, "{}: {}: {} is no importance",
                 path.string(), printable(name), s);
      mean.push_back(s / count);
    }
  }
  HONE_CHECK(!matrix.empty(), corrupt, "{}: no importances in it", path.string());
  return matrix;
}

}  // namespace hone
