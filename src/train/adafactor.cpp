// Adafactor (Shazeer & Stern 2018, "Adaptive Learning Rates with Sublinear Memory Cost"), with the
// semantics of transformers' class.
//
// For a matrix, the second moment is the product of a row's and a column's mean over the mean of
// all: v[i, j] = row[i]·col[j] / mean(row). Tensors of more dimensions are batches of matrices;
// vectors keep every element, which here is a matrix of one row whose row factor is 1. The update
// u = g/√v is scaled down to a root mean square of at most clip_threshold over the parameter, so
// that gradients are read three times: for the means, for that norm, and for the change.
#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "base/threads.h"
#include "kernels/select.h"
#include "train/gradients.h"
#include "train/methods.h"

namespace hone {
namespace {

using kernels::table;

// Rows that one work item takes; fixed, so that threads change no bit of the columns' sums.
constexpr int64_t kRows = 64;
// Columns that one work item adds up.
constexpr int64_t kColumns = 1 << 12;
// The least root mean square of a parameter under scale_parameter.
constexpr double kLeastScale = 1e-3;

int64_t rows_of(const Tensor& t) { return t.rank() >= 2 ? t.dim(-2) : 1; }
int64_t columns_of(const Tensor& t) { return t.rank() >= 1 ? t.dim(-1) : 1; }

class Adafactor final : public Optimizer {
 public:
  explicit Adafactor(OptimizerOptions resolved) : Optimizer(std::move(resolved)) {}

 protected:
  std::vector<Slot> slots(const Tensor& value) const override {
    const Shape& shape = value.shape();
    std::vector<Slot> s;
    if (shape.size() < 2) {
      s.push_back({"v", shape, DType::f32});
    } else {
      Shape row = shape, column = shape;
      row.pop_back();
      column.erase(column.end() - 2);
      s.push_back({"v_column", column, DType::f32});
      s.push_back({"v_row", row, DType::f32});
    }
    if (options_.beta1 > 0) s.push_back({"m", shape, DType::f32});
    return s;
  }

  void run(std::span<const Work> work) override {
    for (const Work& w : work)
      if (w.parameter->value.numel() > 0) update(w);
  }

 private:
  // One parameter: `batch` matrices [rows, columns].
  struct Matrices {
    int64_t batch, rows, columns, blocks;  // blocks of kRows in one matrix
    std::vector<float> column_factors;     // [batch, columns]
    std::vector<double> row_factors;       // [batch, rows]
  };

  // body(matrix, first row, rows) for the blocks of all matrices; its result in place of the block.
  template <typename T, typename F>
  static std::vector<T> each_block(const Matrices& m, F body) {
    std::vector<T> results(static_cast<size_t>(m.batch * m.blocks));
    parallel_for(m.batch * m.blocks, 1, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) {
        const int64_t row = i % m.blocks * kRows;
        results[i] = body(i / m.blocks, row, std::min(kRows, m.rows - row));
      }
    });
    return results;
  }

  // The moments after this step, and their inverse roots as factors of g.
  void moments(const Work& w, double beta2, Matrices& m) const {
    const float* g = w.parameter->value.gradient().data<float>();
    const auto factor = static_cast<float>(w.gradient_factor);
    const double f2 = double{factor} * factor, eps = options_.eps;
    const auto add = [&](float old, double mean) {
      return static_cast<float>(beta2 * old + (1 - beta2) * mean);
    };
    Tensor sums = Tensor::zeros({m.batch * m.blocks, m.columns}, DType::f32);
    float* partial = sums.mutable_data<float>();
    each_block<int>(m, [&](int64_t batch, int64_t row, int64_t rows) {
      float* sum = partial + (batch * m.blocks + row / kRows) * m.columns;
      for (int64_t r = row; r < row + rows; ++r) {
        const float* x = g + (batch * m.rows + r) * m.columns;
        table().add_squares_to(x, factor, static_cast<float>(eps), m.columns, sum);
        m.row_factors[batch * m.rows + r] =
            f2 * table().sum_of_squares(x, nullptr, m.columns) / double(m.columns) + eps;
      }
      return 0;
    });
    float* column = w.slot(0).mutable_data<float>();
    const int64_t strips = (m.columns - 1) / kColumns + 1;
    parallel_for(m.batch * strips, 1, [&](int64_t b, int64_t e) {
      std::vector<double> total(kColumns);
      for (int64_t i = b; i < e; ++i) {
        const int64_t batch = i / strips, c0 = i % strips * kColumns;
        const int64_t n = std::min(kColumns, m.columns - c0);
        std::fill(total.begin(), total.end(), 0);
        for (int64_t k = 0; k < m.blocks; ++k)
          for (int64_t c = 0; c < n; ++c)
            total[c] += partial[(batch * m.blocks + k) * m.columns + c0 + c];
        for (int64_t c = 0; c < n; ++c) {
          float& v = column[batch * m.columns + c0 + c];
          v = add(v, total[c] / double(m.rows));
          m.column_factors[batch * m.columns + c0 + c] = 1 / std::sqrt(v);
        }
      }
    });
    if (w.parameter->value.rank() < 2) {
      m.row_factors[0] = 1;
      return;
    }
    float* rows = w.slot(1).mutable_data<float>();
    for (int64_t batch = 0; batch < m.batch; ++batch) {
      float* v = rows + batch * m.rows;
      double* f = m.row_factors.data() + batch * m.rows;
      double mean = 0;
      for (int64_t r = 0; r < m.rows; ++r) mean += v[r] = add(v[r], f[r]);
      mean /= double(m.rows);
      for (int64_t r = 0; r < m.rows; ++r) f[r] = 1 / std::sqrt(v[r] / mean);
    }
  }

  // The root mean square of the update before it is clipped.
  static double update_size(const Work& w, const Matrices& m) {
    const float* g = w.parameter->value.gradient().data<float>();
    auto sums = each_block<double>(m, [&](int64_t batch, int64_t row, int64_t rows) {
      double sum = 0;
      for (int64_t r = batch * m.rows + row; r < batch * m.rows + row + rows; ++r)
        sum += m.row_factors[r] * m.row_factors[r] *
               table().sum_of_squares(g + r * m.columns,
                                      m.column_factors.data() + batch * m.columns, m.columns);
      return sum;
    });
    double total = 0;
    for (double s : sums) total += s;
    return std::abs(w.gradient_factor) * std::sqrt(total / double(m.batch * m.rows * m.columns));
  }

  double learning_rate(const Work& w) const {
    const auto t = static_cast<double>(w.state->steps);
    double lr = w.lr * w.parameter->rate;
    if (options_.relative_step)
      lr = std::min(options_.warmup_init ? 1e-6 * t : 1e-2, 1 / std::sqrt(t));
    if (!options_.scale_parameter) return lr;
    const Tensor& value = w.parameter->value;
    return lr * std::max(kLeastScale, std::sqrt(sum_of_squares(value) / double(value.numel())));
  }

  void update(const Work& w) {
    Tensor& value = w.parameter->value;
    Matrices m;
    m.rows = rows_of(value);
    m.columns = columns_of(value);
    m.batch = value.numel() / (m.rows * m.columns);
    m.blocks = (m.rows - 1) / kRows + 1;
    m.column_factors.resize(static_cast<size_t>(m.batch * m.columns));
    m.row_factors.resize(static_cast<size_t>(m.batch * m.rows));
    const double lr = learning_rate(w);
    moments(w, 1 - std::pow(double(w.state->steps), options_.decay_rate), m);
    const double rate = lr / std::max(1.0, update_size(w, m) / options_.clip_threshold);

    kernels::UpdateArgs all{};
    all.type = float_type(value.dtype());
    all.n = m.columns;
    all.gradient_factor = static_cast<float>(w.gradient_factor);
    all.keep = static_cast<float>(1 - (w.parameter->decay ? lr * options_.weight_decay : 0));
    all.beta1 = static_cast<float>(options_.beta1);
    all.rest1 = static_cast<float>(1 - options_.beta1);
    all.stochastic = options_.stochastic_rounding;
    all.count_unchanged = options_.count_unchanged;
    float* first_moment =
        options_.beta1 > 0 ? w.state->tensors.back().value.mutable_data<float>() : nullptr;
    auto unchanged = each_block<int64_t>(m, [&](int64_t batch, int64_t row, int64_t rows) {
      int64_t count = 0;
      for (int64_t r = batch * m.rows + row; r < batch * m.rows + row + rows; ++r) {
        kernels::UpdateArgs a = all;
        a.w = value.mutable_raw() + r * m.columns * dtype_size(value.dtype());
        a.g = value.gradient().data<float>() + r * m.columns;
        a.m = first_moment ? first_moment + r * m.columns : nullptr;
        a.v = m.column_factors.data() + batch * m.columns;
        a.rate = static_cast<float>(rate * m.row_factors[r]);
        a.key = mix64(w.key ^ static_cast<uint64_t>(r));
        count += table().adafactor(&a);
      }
      return count;
    });
    for (int64_t n : unchanged) unchanged_[w.index] += n;
  }
};

}  // namespace

std::unique_ptr<Optimizer> make_adafactor(OptimizerOptions resolved) {
  return std::make_unique<Adafactor>(std::move(resolved));
}

}  // namespace hone
