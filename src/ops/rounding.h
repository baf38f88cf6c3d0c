// Rounding of products' operands and results in mixed precision, and a record of what it loses.
//
// Values stay f32 in memory, and hold what the narrower type would. Which operation loses how much
// is written down by the FlightRecorder that lives on the thread, if one does.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "kernels/kernel_table.h"
#include "tensor/tensor.h"

namespace hone::ops {

using kernels::Rounding;

class FlightRecorder {
 public:
  struct Counts {
    int64_t values = 0, overflows = 0, underflows = 0;
  };
  FlightRecorder();
  ~FlightRecorder();
  FlightRecorder(const FlightRecorder&) = delete;
  FlightRecorder& operator=(const FlightRecorder&) = delete;
  static FlightRecorder* current();

  void add(std::string_view operation, const Counts& counts);
  /// By operation, since the beginning.
  const std::map<std::string, Counts, std::less<>>& counts() const { return counts_; }
  /// The first operation that overflowed since forget_overflow(), or empty.
  const std::string& first_overflow() const { return first_overflow_; }
  void forget_overflow() { first_overflow_.clear(); }

  /// While it lives values are not counted, as what runs will run again; an overflow is named.
  class Pause {
   public:
    Pause();
    ~Pause();
    Pause(const Pause&) = delete;
    Pause& operator=(const Pause&) = delete;

   private:
    bool counted_;
  };

 private:
  std::map<std::string, Counts, std::less<>> counts_;
  std::string first_overflow_;
  FlightRecorder* outer_;
};

/// x rounded, a new tensor. `operation` is what a recorder writes down.
Tensor rounded(const Tensor& x, Rounding to, std::string_view operation);
void round_in_place(Tensor& x, Rounding to, std::string_view operation);
/// x rounded to bf16, stored as bf16.
Tensor rounded_bf16(const Tensor& x, std::string_view operation);
/// x rounded to f16, stored as f16.
Tensor rounded_f16(const Tensor& x, std::string_view operation);

/// A result that is rounded in parts, by whoever makes them while they are in a cache.
class PartRounding {
 public:
  explicit PartRounding(Rounding to) : to_(to) {}
  /// Rows of `columns` values, `stride` apart, in place; from any thread.
  void round(float* values, int64_t rows, int64_t columns, int64_t stride);
  /// Once all parts are.
  void record(std::string_view operation, int64_t values) const;

 private:
  Rounding to_;
  std::atomic<int64_t> overflows_ = 0, underflows_ = 0;
};

}  // namespace hone::ops
