// Tensor: a value handle to dense, row-major storage on the CPU.
//
// Copying a Tensor copies the handle; the bytes are shared. The storage is either owned (64-byte
// aligned, huge pages for large ones) or borrowed from something that the tensor keeps alive (a
// mapped file). Borrowed storage is read-only.
//
// A tensor may require a gradient: it then has a place where what flows back to it is added up
// (ops/tape.h), which its handles share, and those under another shape too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/dtype.h"

namespace hone {

using Shape = std::vector<int64_t>;

/// "[2048, 576]"
std::string shape_string(const Shape& shape);

struct Gradient;

class Tensor {
 public:
  Tensor() = default;

  /// Uninitialised. Raises invalid_argument on a negative size, out_of_memory with the bytes asked.
  static Tensor empty(Shape shape, DType dtype);
  static Tensor zeros(Shape shape, DType dtype);
  /// As empty, for weights: even small ones lie in huge pages, beside each other.
  static Tensor empty_lasting(Shape shape, DType dtype);
  /// Borrows `bytes`, which must hold exactly the shape's elements and stay valid while `owner`
  /// lives. Unaligned data is allowed for one-byte types; other types raise corrupt.
  static Tensor borrow(Shape shape, DType dtype, std::span<const std::byte> bytes,
                       std::shared_ptr<const void> owner);
  /// A new f32/i32/... vector holding `values`.
  template <typename T>
  static Tensor from(const std::vector<T>& values, Shape shape = {}) {
    if (shape.empty()) shape = {static_cast<int64_t>(values.size())};
    Tensor t = empty(std::move(shape), dtype_of<T>::value);
    t.copy_in(values.data(), values.size() * sizeof(T));
    return t;
  }

  bool defined() const { return data_ != nullptr || numel_ == 0; }
  bool empty_handle() const { return data_ == nullptr; }
  const Shape& shape() const { return shape_; }
  int64_t dim(int i) const { return shape_[i < 0 ? shape_.size() + i : i]; }
  int rank() const { return static_cast<int>(shape_.size()); }
  int64_t numel() const { return numel_; }
  DType dtype() const { return dtype_; }
  int64_t byte_size() const { return numel_ * dtype_size(dtype_); }
  bool borrowed() const { return borrowed_; }

  /// The elements; T must be the tensor's scalar type.
  template <typename T>
  const T* data() const {
    HONE_ASSERT(dtype_of<T>::value == dtype_);
    return reinterpret_cast<const T*>(data_);
  }
  template <typename T>
  T* mutable_data() {
    HONE_ASSERT(dtype_of<T>::value == dtype_ && !borrowed_);
    return reinterpret_cast<T*>(const_cast<std::byte*>(data_));
  }
  const std::byte* raw() const { return data_; }
  std::byte* mutable_raw() {
    HONE_ASSERT(!borrowed_);
    return const_cast<std::byte*>(data_);
  }

  bool requires_gradient() const { return gradient_ != nullptr; }
  /// From now on; a new place, whatever this handle had before.
  void require_gradient();
  const std::shared_ptr<Gradient>& gradient_node() const { return gradient_; }
  /// What has been added up, f32 of this tensor's element count; an empty handle where nothing was.
  const Tensor& gradient() const;
  /// The same storage without a gradient.
  Tensor detached() const;
  /// The gradient without the storage: for a record that needs no values, so that it keeps none.
  Tensor hollow() const;

  /// The same bytes under another shape of equal element count.
  Tensor reshape(Shape shape) const;
  /// Rows [begin, end) of the first dimension, sharing storage; without a gradient.
  Tensor rows(int64_t begin, int64_t end) const;
  /// A new owned copy converted to `dtype` (float types only, unless dtype is unchanged).
  Tensor to(DType dtype) const;
  Tensor clone() const { return to(dtype_); }
  /// Borrowed storage: tells the system that the file pages under it are not needed for now, so
  /// that they stop counting against resident memory; they are read again when touched. Else
  /// nothing.
  void release_pages() const;
  /// Borrowed storage: has the system read its file on from the first element in the background.
  void read_ahead() const;

 private:
  static Tensor make(Shape shape, DType dtype, std::shared_ptr<void> (*allocate)(size_t));
  void copy_in(const void* from, size_t size);

  std::shared_ptr<const void> owner_;
  const std::byte* data_ = nullptr;
  Shape shape_;
  int64_t numel_ = 0;
  DType dtype_ = DType::f32;
  bool borrowed_ = false;
  std::shared_ptr<Gradient> gradient_;
};

struct Gradient {
  Tensor sum;
};

struct NamedTensor {
  std::string name;
  Tensor value;
};

/// Element-wise float conversion of n values; in and out may not overlap.
void convert_floats(const void* in, DType in_type, void* out, DType out_type, int64_t n);

}  // namespace hone
