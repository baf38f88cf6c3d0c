// What choosing a token costs beside computing its logits.
//   sampler_speed MODEL TEXT [--benchmark_*]
// MODEL reads the beginning of TEXT, a file, and decodes on through it; each way to sample then
// chooses from the logits of those steps. "of_step" is its time in parts of the median step.
#include <benchmark/benchmark.h>

#include <cstdio>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "base/median.h"
#include "models/loader.h"
#include "models/sampler.h"
#include "models/session.h"
#include "text/stream_decoder.h"

namespace hone {
namespace {

constexpr int64_t kPrompt = 256, kSteps = 64;

struct Steps {
  std::vector<int32_t> ids;
  std::vector<Tensor> logits;
  double seconds = 0;  // of the median step
};

Steps decode(const LoadedModel& m, const std::string& text) {
  Steps out;
  out.ids = m.encode(std::string_view(text).substr(0, 16384));
  HONE_CHECK(std::ssize(out.ids) >= kPrompt + kSteps, invalid_argument, "the text is too short");
  out.ids.resize(static_cast<size_t>(kPrompt + kSteps));
  Session session(*m.model, Activations::int8);
  session.append(std::span(out.ids).first(kPrompt));
  std::vector<double> times;
  for (int64_t i = kPrompt; i < kPrompt + kSteps; ++i) {
    double started = monotonic_seconds();
    out.logits.push_back(session.append({&out.ids[static_cast<size_t>(i)], 1}));
    times.push_back(monotonic_seconds() - started);
  }
  out.seconds = median(times);
  return out;
}

void add(const char* name, const Steps& steps, const std::function<void(size_t step)>& run) {
  benchmark::RegisterBenchmark(name, [=, &steps](benchmark::State& state) {
    double started = monotonic_seconds();
    size_t step = 0;
    for (auto _ : state) run(step++ % steps.logits.size());
    double each = (monotonic_seconds() - started) / static_cast<double>(state.iterations());
    state.counters["of_step"] = each / steps.seconds;
  })->Unit(benchmark::kMicrosecond);
}

void add_all(const LoadedModel& m, const Steps& steps) {
  auto sampler = [&](const char* name, auto set) {
    SamplerOptions o;
    set(o);
    auto s = std::make_shared<Sampler>(o);
    add(name, steps, [s, &steps](size_t step) {
      const Tensor& l = steps.logits[step];
      benchmark::DoNotOptimize(
          s->sample({l.data<float>(), static_cast<size_t>(l.numel())}, steps.ids));
    });
  };
  using O = SamplerOptions;
  sampler("greedy", [](O& o) { o.temperature = 0; });
  sampler("temperature 1", [](O&) {});
  sampler("temperature 2", [](O& o) { o.temperature = 2; });
  sampler("top-k 40", [](O& o) { o.top_k = 40; });
  sampler("top-p 0.9", [](O& o) { o.top_p = 0.9f; });
  sampler("top-p 0.99", [](O& o) { o.top_p = 0.99f; });
  sampler("min-p 0.05", [](O& o) { o.min_p = 0.05f; });
  sampler("penalty 1.1", [](O& o) { o.repetition_penalty = 1.1f; });
  sampler("all", [](O& o) {
    o.temperature = 0.7f;
    o.top_k = 40;
    o.top_p = 0.9f;
    o.min_p = 0.05f;
    o.repetition_penalty = 1.1f;
  });
  auto decoder = std::make_shared<StreamDecoder>(*m.tokenizer);
  add("token to text", steps,
      [decoder, &steps](size_t step) { benchmark::DoNotOptimize(decoder->push(steps.ids[step])); });
}

}  // namespace
}  // namespace hone

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  try {
    HONE_CHECK(argc == 3, invalid_argument, "usage: sampler_speed MODEL TEXT");
    const hone::LoadedModel model = hone::load_model(argv[1]);
    const hone::Steps steps = hone::decode(model, hone::read_text_file(argv[2]));
    std::printf("a step takes %.3f ms\n", 1e3 * steps.seconds);
    hone::add_all(model, steps);
    benchmark::RunSpecifiedBenchmarks();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "sampler_speed: %s\n", e.what());
    return 1;
  }
}
