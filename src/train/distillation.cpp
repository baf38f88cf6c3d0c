#include "train/distillation.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/threads.h"
#include "kernels/select.h"
#include "ops/tape.h"

namespace hone {
namespace {

using kernels::table;

// What the parts of the loss and of its gradient are multiplied by.
struct Factors {
  float inverse_t, ce_gradient, kl_gradient;
  double ce, kl;
  Factors(const DistillationOptions& o, float gradient)
      : inverse_t(static_cast<float>(1 / o.temperature)),
        ce_gradient(static_cast<float>(double{gradient} * (1 - o.lambda))),
        // T² of the loss, 1/T of z/T.
        kl_gradient(static_cast<float>(double{gradient} * o.lambda * o.temperature)),
        ce(1 - o.lambda),
        kl(o.lambda * o.temperature * o.temperature) {}
};

// p·log(p/q) + q − p for d = log p − log q: the terms of a divergence are then none of them
// negative, and errors that all of p or q share, those of a rounded log Σ exp, cancel. Near 0 the
// roundings of p and q would be all that is left: there it is p·(e^−d − 1 + d) as a series, whose
// first term left out is below 1e-7 of it.
double divergence_term(float p, float q, double d) {
  if (p == 0) return double{q};
  const double near = d * d * (0.5 - d * (1.0 / 6 - d * (1.0 / 24 - d / 120)));
  return std::abs(d) < 1.0 / 16 ? double{p} * near : double{p} * d + (double{q} - double{p});
}

double sum_of(const std::vector<double>& rows) {
  double sum = 0;
  for (double r : rows) sum += r;
  return sum;
}

// The row z/T, for a while.
float* tempered(const float* z, int64_t n, float inverse_t) {
  static thread_local std::vector<float> scratch;
  scratch.resize(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) scratch[size_t(i)] = z[i] * inverse_t;
  return scratch.data();
}

// Loss of one row; z becomes its gradient unless `gradient` is 0. t is spoilt.
double full_row(float* z, float* t, int64_t n, int32_t target, const Factors& f, bool gradient) {
  constexpr int64_t kBlock = 512;
  const float* s = tempered(z, n, f.inverse_t);
  for (int64_t i = 0; i < n; ++i) t[i] *= f.inverse_t;
  const float lse_z = table().log_sum_exp(z, n), lse_s = table().log_sum_exp(s, n);
  const float lse_t = table().log_sum_exp(t, n);
  const double ce = double{lse_z} - double{z[target]};
  double kl = 0;
  float p[kBlock], q[kBlock];
  for (int64_t first = 0; first < n; first += kBlock) {
    const int64_t count = std::min(kBlock, n - first);
    table().softmax_of(t + first, count, lse_t, 1, p);
    table().softmax_of(s + first, count, lse_s, 1, q);
    for (int64_t i = 0; i < count; ++i)
      kl += divergence_term(p[i], q[i],
                            (double{t[first + i]} - lse_t) - (double{s[first + i]} - lse_s));
    if (!gradient) continue;
    table().softmax_of(z + first, count, lse_z, f.ce_gradient, z + first);
    for (int64_t i = 0; i < count; ++i) z[first + i] += f.kl_gradient * (q[i] - p[i]);
  }
  if (gradient) z[target] -= f.ce_gradient;
  return f.ce * ce + f.kl * kl;
}

// The same with all but the teacher's largest logits as one outcome.
double top_row(float* z, const TopLogits& top, int64_t n, int32_t target, const Factors& f,
               bool gradient) {
  // A student that gives the others nothing: a large divergence, not an endless one.
  constexpr double kLeast = std::numeric_limits<float>::min();
  static thread_local std::vector<float> log_q, q_top;
  const size_t k = top.ids.size();
  log_q.resize(k);
  q_top.resize(k);
  float* q = tempered(z, n, f.inverse_t);
  const float lse_z = table().log_sum_exp(z, n), lse_s = table().log_sum_exp(q, n);
  const double ce = double{lse_z} - double{z[target]};
  for (size_t i = 0; i < k; ++i) log_q[i] = q[top.ids[i]] - lse_s;
  table().softmax_of(q, n, lse_s, 1, q);
  double sum = top.rest, q_rest = 0, kl = 0;
  for (float below : top.below) sum += std::exp(double{-below * f.inverse_t});
  const auto log_sum = static_cast<float>(std::log(sum));
  if (gradient) table().softmax_of(z, n, lse_z, f.ce_gradient, z);
  for (size_t i = 0; i < k; ++i) {
    q_top[i] = q[top.ids[i]];
    q[top.ids[i]] = 0;
    const float log_p = -top.below[i] * f.inverse_t - log_sum;
    const float p = std::exp(log_p);
    kl += divergence_term(p, q_top[i], double{log_p} - double{log_q[i]});
    if (gradient) z[top.ids[i]] += f.kl_gradient * (q_top[i] - p);
  }
  for (int64_t i = 0; i < n; ++i) q_rest += double{q[i]};
  const double rest = double{top.rest} / sum, q_least = std::max(q_rest, kLeast);
  kl += rest > 0 ? rest * std::log(rest / q_least) + (q_rest - rest) : q_rest;
  if (!gradient) return f.ce * ce + f.kl * kl;
  const auto others = static_cast<float>(double{f.kl_gradient} * (1 - rest / q_least));
  for (int64_t i = 0; i < n; ++i) z[i] += others * q[i];
  z[target] -= f.ce_gradient;
  return f.ce * ce + f.kl * kl;
}

}  // namespace

void DistillationOptions::visit(OptionVisitor& v) {
  v.option("lambda", lambda, "share of the divergence from the teacher, 0 to 1");
  v.option("temperature", temperature, "what logits are divided by for the divergence");
}

void DistillationOptions::check() const {
  HONE_CHECK(lambda >= 0 && lambda <= 1, invalid_argument, "lambda {}: expected 0 to 1", lambda);
  HONE_CHECK(temperature >= 0.01 && temperature <= 100, invalid_argument,
             "temperature {}: expected 0.01 to 100", temperature);
}

double DistillationLoss::take(float* logits, int64_t first, int64_t count, int64_t vocabulary,
                              float gradient) {
  TapePause pause;
  TrainingPause no_training;
  Tensor teacher = teacher_(first, first + count);
  HONE_CHECK(teacher.dim(1) == vocabulary, invalid_argument,
             "the teacher's vocabulary has {} tokens, the student's {}: expected the same",
             teacher.dim(1), vocabulary);
  const Factors factors(options_, gradient);
  float* t = teacher.mutable_data<float>();
  std::vector<double> losses(static_cast<size_t>(count));
  parallel_for(count, 1, [&](int64_t b, int64_t e) {
    for (int64_t r = b; r < e; ++r)
      losses[size_t(r)] = full_row(logits + r * vocabulary, t + r * vocabulary, vocabulary,
                                   targets_[size_t(first + r)], factors, gradient != 0);
  });
  return sum_of(losses);
}

double TopDistillationLoss::take(float* logits, int64_t first, int64_t count, int64_t vocabulary,
                                 float gradient) {
  HONE_CHECK(cache_->vocabulary() == vocabulary, invalid_argument,
             "the teacher's vocabulary has {} tokens, the student's {}: expected the same",
             cache_->vocabulary(), vocabulary);
  const Factors factors(options_, gradient);
  std::vector<double> losses(static_cast<size_t>(count));
  parallel_for(count, 1, [&](int64_t b, int64_t e) {
    TopLogits top;
    for (int64_t r = b; r < e; ++r) {
      cache_->read(rows_[size_t(first + r)], top);
      losses[size_t(r)] = top_row(logits + r * vocabulary, top, vocabulary,
                                  targets_[size_t(first + r)], factors, gradient != 0);
    }
  });
  return sum_of(losses);
}

Distillation::Distillation(Model& teacher, Activations activations,
                           const DistillationOptions& options)
    : teacher_(&teacher), activations_(activations), options_(options) {
  options_.check();
}

Distillation::Distillation(std::shared_ptr<const TeacherCache> cache,
                           const DistillationOptions& options)
    : cache_(std::move(cache)), options_(options) {
  options_.check();
  HONE_CHECK(cache_->temperature() == options_.temperature, invalid_argument,
             "the teacher's logits were cached for temperature {}, and {} is asked for",
             cache_->temperature(), options_.temperature);
}

std::unique_ptr<LogitLoss> Distillation::loss(const TrainingBatch& batch, std::span<const int64_t>,
                                              std::span<const int32_t> targets) {
  if (cache_ != nullptr)
    return std::make_unique<TopDistillationLoss>(targets, cache_->find(batch), cache_, options_);
  // Its rows are not the student's where one of them has a prompt.
  const Tensor hidden = target_states(*teacher_, batch, activations_);
  auto logits = [hidden, teacher = teacher_, a = activations_](int64_t first, int64_t last) {
    return teacher->logits(hidden.rows(first, last), a);
  };
  return std::make_unique<DistillationLoss>(targets, logits, options_);
}

}  // namespace hone
