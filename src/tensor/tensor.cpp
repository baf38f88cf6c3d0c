#include "tensor/tensor.h"

#include <fmt/ranges.h>

#include <cstring>

#include "base/checked.h"
#include "base/files.h"
#include "tensor/storage.h"

namespace hone {
namespace {

// One value to another float type, through double only where one of them is.
template <typename Out, typename In>
Out convert(In x) {
  if constexpr (!std::is_arithmetic_v<In>)
    return convert<Out>(to_f32(x));
  else if constexpr (std::is_arithmetic_v<Out>)
    return static_cast<Out>(x);
  else if constexpr (std::is_same_v<Out, f16>)
    return to_f16(static_cast<float>(x));
  else if constexpr (std::is_same_v<Out, bf16>)
    return to_bf16(static_cast<float>(x));
  else if constexpr (std::is_same_v<Out, f8_e4m3>)
    return to_f8_e4m3(static_cast<float>(x));
  else
    return to_f8_e5m2(static_cast<float>(x));
}

template <typename Out, typename In>
void convert_all(const In* in, Out* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = convert<Out>(in[i]);
}

}  // namespace

std::string shape_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

Tensor Tensor::make(Shape shape, DType dtype, std::shared_ptr<void> (*allocate)(size_t)) {
  Tensor t;
  for (int64_t d : shape)
    HONE_CHECK(d >= 0, invalid_argument, "tensor shape {}: negative size", shape_string(shape));
  t.numel_ = checked_numel(shape, "tensor");
  auto size = static_cast<size_t>(checked_mul(t.numel_, dtype_size(dtype), "tensor"));
  auto storage = allocate(size);
  t.data_ = static_cast<const std::byte*>(storage.get());
  t.owner_ = std::move(storage);
  t.shape_ = std::move(shape);
  t.dtype_ = dtype;
  return t;
}

void Tensor::require_gradient() { gradient_ = std::make_shared<Gradient>(); }

const Tensor& Tensor::gradient() const {
  static const Tensor none;
  return gradient_ == nullptr ? none : gradient_->sum;
}

Tensor Tensor::hollow() const {
  Tensor t;
  t.shape_ = shape_;
  t.numel_ = numel_;
  t.dtype_ = dtype_;
  t.gradient_ = gradient_;
  return t;
}

Tensor Tensor::detached() const {
  Tensor t = *this;
  t.gradient_.reset();
  return t;
}

Tensor Tensor::empty(Shape shape, DType dtype) {
  return make(std::move(shape), dtype, allocate_storage);
}

Tensor Tensor::empty_lasting(Shape shape, DType dtype) {
  return make(std::move(shape), dtype, allocate_lasting);
}

Tensor Tensor::zeros(Shape shape, DType dtype) {
  Tensor t = empty(std::move(shape), dtype);
  std::memset(t.mutable_raw(), 0, static_cast<size_t>(t.byte_size()));
  return t;
}

Tensor Tensor::borrow(Shape shape, DType dtype, std::span<const std::byte> bytes,
                      std::shared_ptr<const void> owner) {
  Tensor t;
  t.numel_ = checked_numel(shape, "tensor");
  int64_t size = checked_mul(t.numel_, dtype_size(dtype), "tensor");
  HONE_CHECK(size == static_cast<int64_t>(bytes.size()), corrupt,
             "tensor {} {}: expected {} bytes, got {}", dtype_name(dtype), shape_string(shape),
             size, bytes.size());
  HONE_CHECK(reinterpret_cast<uintptr_t>(bytes.data()) % dtype_size(dtype) == 0, corrupt,
             "tensor {} {}: its data is not aligned to {} bytes", dtype_name(dtype),
             shape_string(shape), dtype_size(dtype));
  t.owner_ = std::move(owner);
  t.data_ = bytes.data();
  t.shape_ = std::move(shape);
  t.dtype_ = dtype;
  t.borrowed_ = true;
  return t;
}

void Tensor::copy_in(const void* from, size_t size) {
  HONE_ASSERT(static_cast<int64_t>(size) == byte_size());
  if (size != 0) std::memcpy(mutable_raw(), from, size);
}

Tensor Tensor::reshape(Shape shape) const {
  HONE_ASSERT(checked_numel(shape, "reshape") == numel_);
  Tensor t = *this;
  t.shape_ = std::move(shape);
  return t;
}

Tensor Tensor::rows(int64_t begin, int64_t end) const {
  HONE_ASSERT(rank() >= 1 && 0 <= begin && begin <= end && end <= dim(0));
  int64_t row = dim(0) == 0 ? 0 : numel_ / dim(0);
  Tensor t = detached();
  t.shape_[0] = end - begin;
  t.numel_ = row * (end - begin);
  t.data_ = data_ + begin * row * dtype_size(dtype_);
  return t;
}

void Tensor::release_pages() const {
  if (borrowed_ && data_ != nullptr) release_file_pages(data_, static_cast<size_t>(byte_size()));
}

void Tensor::read_ahead() const {
  if (borrowed_ && data_ != nullptr) read_file_ahead(data_);
}

Tensor Tensor::to(DType dtype) const {
  Tensor t = empty(shape_, dtype);
  if (dtype == dtype_) {
    if (numel_ != 0) std::memcpy(t.mutable_raw(), data_, static_cast<size_t>(byte_size()));
    return t;
  }
  convert_floats(data_, dtype_, t.mutable_raw(), dtype, numel_);
  return t;
}

void convert_floats(const void* in, DType in_type, void* out, DType out_type, int64_t n) {
  HONE_ASSERT(is_float(in_type) && is_float(out_type));
  visit_dtype(in_type, [&](auto from) {
    using In = decltype(from);
    visit_dtype(out_type, [&](auto to) {
      convert_all(static_cast<const In*>(in), static_cast<decltype(to)*>(out), n);
    });
  });
}

}  // namespace hone
