// Casts against their definitions: counts of hand-made values, predictions of models whose weights
// were really replaced, and models that are spoilt on purpose, where what is found is known.
#include "eval/precision.h"

#include <algorithm>
#include <cstring>

#include "base/threads.h"
#include "encodings/encoding.h"
#include "models/session.h"
#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

using Samples = std::vector<std::vector<int32_t>>;

Samples tiny_samples() { return {tiny_ids(60, 1), tiny_ids(80, 2), tiny_ids(3, 3)}; }

const TypeReport& of(const PrecisionReport& r, const std::string& type) {
  for (const TypeReport& t : r.types)
    if (t.target.name == type) return t;
  throw std::runtime_error("no " + type);
}

const ActivationSite& site(const PrecisionReport& r, const std::string& name) {
  for (const ActivationSite& s : r.sites)
    if (s.name == name) return s;
  throw std::runtime_error("no site " + name);
}

CastCounts counts(const std::string& type, const std::vector<float>& values, bool scaled = false) {
  return round_rows(float_target(type, scaled), Tensor::from(values, {1, std::ssize(values)}));
}

TEST(CastCountsTest, CountWhatBecameOfEachValue) {
  // Exact; the largest; the first that becomes infinite; nearest to 0; a subnormal; −0.
  const std::vector<float> v = {1.5f, -65504, 65520, -1e6f, 0x1p-25f, -0x1p-24f, 0x3p-20f, -0.0f};
  CastCounts half = counts("f16", v);
  EXPECT_EQ(half.values, 8);
  EXPECT_EQ(half.overflow, 2);
  EXPECT_EQ(half.underflow, 1);
  EXPECT_EQ(half.subnormal, 2);
  EXPECT_EQ(half.exact, 5);
  EXPECT_EQ(half.absmax, 1e6);
  EXPECT_EQ(half.largest_error, 1);
  EXPECT_EQ(half.measured, 5);  // not the infinite ones, not 0
  EXPECT_DOUBLE_EQ(half.mean_error(), 1.0 / 5);

  CastCounts brain = counts("bf16", {3.4e38f, 3.39e38f, 1e-40f, 1 + 0x1p-8f, 1e-45f});
  EXPECT_EQ(brain.overflow, 1);
  EXPECT_EQ(brain.subnormal, 1);
  EXPECT_EQ(brain.underflow, 1);
  EXPECT_EQ(brain.exact, 0);

  CastCounts four = counts("f8_e4m3", {448, 449, -1e9f, 0x1p-10f, 0x1p-9f, 0x1.8p-7f, 1.0625f});
  EXPECT_EQ(four.overflow, 2);  // clamped
  EXPECT_EQ(four.underflow, 1);
  EXPECT_EQ(four.subnormal, 2);
  EXPECT_EQ(four.exact, 3);
  EXPECT_NEAR(four.largest_error, 1, 1e-6);
  EXPECT_EQ(counts("f8_e5m2", {57344, -60000, 0x1p-17f, 0x1p-16f}).overflow, 1);
  EXPECT_EQ(counts("f8_e5m2", {57344, -60000, 0x1p-17f, 0x1p-16f}).underflow, 1);

  // A row of its own scale has nothing to clamp.
  CastCounts scaled = counts("f8_e4m3", {1e9f, 1e8f, 1e3f, 1}, true);
  EXPECT_EQ(scaled.overflow, 0);
  EXPECT_EQ(scaled.underflow, 2);
  CastCounts wrong = counts("bf16", {NAN, INFINITY, 1});
  EXPECT_EQ(wrong.non_finite, 2);
  EXPECT_EQ(wrong.exact, 1);
  EXPECT_THROW(float_target("f12", true), Error);
}

// What is run is what the encodings store.
TEST(CastCountsTest, RoundingIsThatOfTheEncodings) {
  Tensor x = random_tensor({2000, 96}, 4, 0.02f);
  for (const std::string& type : precision_types()) {
    Weight w = encoding(type).encode(x.data<float>(), 2000, 96, {});
    Tensor expected = decode_weight(w), got = rounded(float_target(type, true), x);
    EXPECT_EQ(std::memcmp(got.raw(), expected.raw(), static_cast<size_t>(got.byte_size())), 0)
        << type;
    std::vector<double> columns;
    round_rows(float_target(type, true), x, nullptr, &columns);
    for (int64_t c = 0; c < 96; ++c) {
      double sum = 0;
      for (int64_t r = 0; r < 2000; ++r) {
        double d = double{x.data<float>()[r * 96 + c]} - expected.data<float>()[r * 96 + c];
        sum += d * d;
      }
      EXPECT_NEAR(columns[static_cast<size_t>(c)], sum, 1e-12 * (1 + sum));
    }
  }
  Tensor flipped = rounded(last_bit_target(), x);
  for (int64_t i = 0; i < x.numel(); ++i) {
    float a = x.data<float>()[i], b = flipped.data<float>()[i];
    ASSERT_TRUE(b == std::nextafter(a, INFINITY) || b == std::nextafter(a, -INFINITY));
  }
}

class PrecisionTest : public ::testing::Test {
 protected:
  LoadedModel write(const std::string& fixture,
                    const std::function<void(std::map<std::string, Tensor>&)>& edit = nullptr,
                    const Json& more = Json::object()) {
    const TinyFixture& f = tiny_fixture(fixture);
    Json config = parse_json(f.config, f.name);
    config.update(more);
    auto tensors = tiny_tensors(f);
    if (edit) edit(tensors);
    fs::path path = scratch_ / std::to_string(written_++);
    write_tiny(path, config, tensors);
    return load_editable(path);
  }
  // One weight of 1e6, whose output goes into the residual stream.
  LoadedModel write_hot() {
    return write("llama", [this](std::map<std::string, Tensor>& t) {
      t.at(kHot + ".weight").mutable_data<float>()[5] = 1e6f;
    });
  }
  const std::string kHot = "model.layers.0.mlp.down_proj";
  TemporaryDirectory scratch_;
  int written_ = 0;
};

// Every weight of `m` as the type stores it, by its encoding; vectors for the 16-bit types.
void replace_weights(Model& m, const std::string& type) {
  bool vectors = !type.starts_with("f8");
  auto encoded = [&](const Weight& w) {
    Tensor values = decode_weight(w);
    return encoding(type).encode(values.data<float>(), w.rows(), w.cols(), {});
  };
  auto cast = [&](Tensor& t) {
    if (vectors && !t.empty_handle())
      t = t.to(type == "f16" ? DType::f16 : DType::bf16).to(DType::f32);
  };
  auto norm = [&](Norm& n) {
    cast(n.weight);
    cast(n.bias);
  };
  for (Linear* l : m.linears()) {
    l->set_weight(encoded(l->weight()));
    Tensor bias = l->bias();
    cast(bias);
    if (!bias.empty_handle()) l->set_bias(bias);
  }
  m.embedding.set_weight(encoded(m.embedding.weight()));
  cast(m.position_table);
  norm(m.embedding_norm);
  norm(m.final_norm);
  for (Block& b : m.blocks) {
    for (Norm* n : {&b.mixer_norm, &b.post_mixer_norm, &b.mlp_norm, &b.post_mlp_norm}) norm(*n);
    auto& a = dynamic_cast<SoftmaxAttention&>(*b.mixer);
    norm(a.q_norm);
    norm(a.k_norm);
  }
}

// KL and flips over all positions, from whole logits in double; ‖b−a‖/‖a‖ of the hidden states.
struct Plain {
  double kl = 0, departure = 0;
  int64_t flips = 0, n = 0;
};
Plain compare_plainly(Model& a, Model& b, const Samples& samples) {
  Plain p;
  double difference = 0, norm = 0;
  for (const auto& tokens : samples) {
    Session first(a, Activations::f32), second(b, Activations::f32);
    Tensor h = first.hidden(tokens), g = second.hidden(tokens);
    for (int64_t i = 0; i < h.numel(); ++i) {
      double u = h.data<float>()[i], w = g.data<float>()[i];
      difference += (u - w) * (u - w);
      norm += u * u;
    }
    Tensor x = first.logits(h), y = second.logits(g);
    int64_t v = x.dim(1);
    for (int64_t t = 0; t + 1 < std::ssize(tokens); ++t, ++p.n) {
      const float *r = x.data<float>() + t * v, *c = y.data<float>() + t * v;
      double zr = 0, zc = 0;
      for (int64_t i = 0; i < v; ++i) {
        zr += std::exp(double{r[i]});
        zc += std::exp(double{c[i]});
      }
      for (int64_t i = 0; i < v; ++i)
        p.kl += std::exp(double{r[i]}) / zr * (r[i] - std::log(zr) - c[i] + std::log(zc));
      p.flips += std::max_element(r, r + v) - r != std::max_element(c, c + v) - c;
    }
  }
  p.kl /= double(p.n);
  p.departure = std::sqrt(difference / norm);
  return p;
}

std::vector<TinyFixture> followed_fixtures() {
  std::vector<TinyFixture> all = softmax_fixtures();
  std::erase_if(all, [](const TinyFixture& f) { return tiny_config(f).experts > 0; });
  return all;
}

TEST_F(PrecisionTest, MixturesAreRefused) {
  LoadedModel m = write("qwen3_moe");
  EXPECT_THROW(measure_precision(m, tiny_samples(), {}), Error);
}

TEST_F(PrecisionTest, PredictionsAreThoseOfModelsWithReplacedWeights) {
  for (const TinyFixture& f : followed_fixtures()) {
    LoadedModel m = write(f.name);
    PrecisionReport r = measure_precision(m, tiny_samples(), {});
    const std::string end = fmt::format("block {} after mlp", m.model->blocks.size() - 1);
    for (size_t i = 0; i < r.types.size(); ++i) {
      const TypeReport& t = r.types[i];
      SCOPED_TRACE(std::string(f.name) + " " + t.target.name);
      LoadedModel cast = load_editable(m.path);
      replace_weights(*cast.model, t.target.name);
      Plain plain = compare_plainly(*m.model, *cast.model, tiny_samples());
      EXPECT_EQ(r.tokens, plain.n);
      EXPECT_NEAR(site(r, end).departure[i], plain.departure, 1e-5 * plain.departure);
      EXPECT_NEAR(t.cast.converted.scores.kl_mean, plain.kl, 0.01 * plain.kl + 1e-6);
      EXPECT_LE(std::abs(t.cast.converted.flips - plain.flips), 1);
      EXPECT_EQ(t.cast.converted.non_finite, 0);
    }
    EXPECT_GT(of(r, "f8_e5m2").cast.converted.scores.kl_mean,
              10 * of(r, "bf16").cast.converted.scores.kl_mean);
  }
}

TEST_F(PrecisionTest, ANormalModelIsSafeInBothHalves) {
  for (const TinyFixture& f : followed_fixtures()) {
    SCOPED_TRACE(f.name);
    LoadedModel m = write(f.name);
    PrecisionOptions o;
    o.types = {"f16", "bf16"};
    PrecisionReport r = measure_precision(m, tiny_samples(), o);
    ASSERT_EQ(r.types.size(), 2u);
    EXPECT_LT(r.noise.scores.kl_mean, 1e-5);
    EXPECT_EQ(r.limit, 1e-3);
    for (const TypeReport& t : r.types) {
      EXPECT_EQ(t.cast.verdict, Verdict::safe) << t.cast.converted.scores.kl_mean;
      EXPECT_TRUE(t.cast.keep.empty() && !t.cast.repaired && t.cast.first_site.empty());
      ASSERT_TRUE(t.held);
      EXPECT_EQ(t.held->verdict, Verdict::safe) << t.held->converted.scores.kl_mean;
      EXPECT_GT(t.held->converted.scores.kl_mean, 0);
      EXPECT_EQ(t.weights.values, m.model->parameter_count());
      EXPECT_EQ(t.weights.overflow, 0);
      for (const ActivationSite& s : r.sites) ASSERT_EQ(s.departure.size(), 2u);
    }
    EXPECT_GT(of(r, "bf16").weights.mean_error(), 5 * of(r, "f16").weights.mean_error());
  }
}

TEST_F(PrecisionTest, AWeightBeyondF16IsFoundAndKept) {
  LoadedModel m = write_hot();
  PrecisionOptions o;
  o.types = {"f16", "bf16"};
  PrecisionReport r = measure_precision(m, tiny_samples(), o);
  const TypeReport& half = of(r, "f16");
  EXPECT_EQ(half.weights.overflow, 1);
  for (const TensorCast& t : half.tensors)
    EXPECT_EQ(t.counts.overflow, t.tensor == kHot + ".weight" ? 1 : 0) << t.tensor;
  EXPECT_EQ(half.cast.converted.non_finite, r.tokens);
  EXPECT_EQ(half.cast.converted.flips, r.tokens);
  EXPECT_TRUE(std::isnan(half.cast.converted.scores.kl_mean));
  EXPECT_EQ(half.cast.first_site, kHot + " output");
  EXPECT_EQ(half.cast.first_reason, "not finite");
  EXPECT_EQ(half.cast.verdict, Verdict::safe_with);
  EXPECT_EQ(half.cast.keep, std::vector<std::string>{kHot});
  ASSERT_TRUE(half.cast.repaired);
  EXPECT_LE(half.cast.repaired->scores.kl_mean, r.limit);
  EXPECT_NEAR(half.kept_share, 128.0 * 256 / double(m.model->parameter_count()), 1e-9);

  // Its output, and the residual stream from there on, do not fit either.
  EXPECT_GT(site(r, kHot + " output").absmax, 65504);
  EXPECT_LT(site(r, kHot + " input").absmax, 65504);
  ASSERT_TRUE(half.held);
  EXPECT_GT(half.held->converted.non_finite, 0);
  EXPECT_EQ(half.held->first_site, kHot + " output");
  EXPECT_EQ(half.held->verdict, Verdict::safe_with);
  EXPECT_EQ(half.held->keep,
            (std::vector<std::string>{kHot + " output", "block 0 after mlp", "block 1 after mixer",
                                      "block 1 after mlp"}));
  ASSERT_TRUE(half.held->repaired);
  EXPECT_EQ(half.held->repaired->non_finite, 0);

  const TypeReport& brain = of(r, "bf16");
  EXPECT_EQ(brain.weights.overflow, 0);
  EXPECT_EQ(brain.cast.verdict, Verdict::safe) << brain.cast.converted.scores.kl_mean;
  ASSERT_TRUE(brain.held);
  EXPECT_EQ(brain.held->verdict, Verdict::safe) << brain.held->converted.scores.kl_mean;
}

// A row that no sample asks for cannot show in the predictions, and still must not become infinite.
TEST_F(PrecisionTest, AnInfiniteWeightIsNeverSafe) {
  LoadedModel m = write("llama_untied", [](std::map<std::string, Tensor>& t) {
    t.at("model.embed_tokens.weight").mutable_data<float>()[0] = 1e5f;
  });
  PrecisionOptions o;
  o.types = {"f16"};
  PrecisionReport r = measure_precision(m, {tiny_ids(40, 1)}, o);
  EXPECT_LE(r.types[0].cast.converted.scores.kl_mean, r.limit);
  EXPECT_EQ(r.types[0].cast.verdict, Verdict::safe_with);
  EXPECT_EQ(r.types[0].cast.keep, std::vector<std::string>{"model.embed_tokens"});
}

// Weights too small for FP8 become 0, unless each row has a scale: one module is behind it all.
TEST_F(PrecisionTest, TheSearchFindsTheOneModuleThatMatters) {
  const std::string spoilt = "model.layers.1.self_attn.o_proj";
  LoadedModel m = write("llama", [&](std::map<std::string, Tensor>& t) {
    auto scale = [&](const std::string& name, float s) {
      Tensor& w = t.at(name);
      for (int64_t i = 0; i < w.numel(); ++i) w.mutable_data<float>()[i] *= s;
    };
    scale(spoilt + ".weight", 1e-3f);
    scale("model.layers.1.self_attn.v_proj.weight", 1e3f);
  });
  PrecisionOptions o;
  o.types = {"f8_e4m3"};
  o.row_scaled = false;
  o.max_kl = 0.01;
  o.departure = 0.5;
  PrecisionReport r = measure_precision(m, tiny_samples(), o);
  const TypeReport& t = r.types[0];
  EXPECT_GT(t.cast.converted.scores.kl_mean, o.max_kl);
  EXPECT_EQ(t.cast.first_site, spoilt + " output");
  EXPECT_EQ(t.cast.verdict, Verdict::safe_with);
  EXPECT_EQ(t.cast.keep, std::vector<std::string>{spoilt});
  ASSERT_TRUE(t.cast.repaired);
  EXPECT_LE(t.cast.repaired->scores.kl_mean, o.max_kl);
  o.row_scaled = true;
  EXPECT_EQ(measure_precision(m, tiny_samples(), o).types[0].cast.verdict, Verdict::safe);
  // Half of the weights do not repair what all of them do wrong.
  o.max_kl = 1e-7;
  PrecisionReport strict = measure_precision(m, tiny_samples(), o);
  EXPECT_EQ(strict.types[0].cast.verdict, Verdict::not_safe);
  EXPECT_TRUE(strict.types[0].cast.keep.empty() && !strict.types[0].held);
}

TEST_F(PrecisionTest, SitesHoldWhatFlowsThroughTheOriginal) {
  for (const char* fixture : {"llama", "gpt2", "gemma3"}) {
    SCOPED_TRACE(fixture);
    LoadedModel m = write(fixture);
    Samples samples = tiny_samples();
    PrecisionReport r = measure_precision(m, samples, {});
    double last = 0, logits = 0;
    int64_t rows = 0;
    for (const auto& tokens : samples) {
      Session s(*m.model, Activations::f32);
      Tensor h = s.hidden(tokens), y = s.logits(h);
      for (int64_t i = 0; i < h.numel(); ++i)
        last = std::max(last, std::fabs(double{h.data<float>()[i]}));
      // The last row predicts nothing.
      for (int64_t i = 0; i < y.numel() - y.dim(1); ++i)
        logits = std::max(logits, std::fabs(double{y.data<float>()[i]}));
      rows += std::ssize(tokens);
    }
    auto blocks = std::ssize(m.model->blocks);
    const ActivationSite& end = site(r, fmt::format("block {} after mlp", blocks - 1));
    EXPECT_NEAR(end.absmax, last, 1e-5 * last);
    EXPECT_EQ(end.held[0].values, rows * m.model->width());
    EXPECT_NEAR(site(r, m.model->head.name() + " output").absmax, logits, 1e-4 * logits);
    // Every linear has an output, and what it multiplies is there too.
    for (Linear* l : m.model->linears()) EXPECT_GT(site(r, l->name() + " output").absmax, 0);
    EXPECT_EQ(r.sites.size(),
              size_t(1 + 2 * blocks + 2 + 4 * blocks) + m.model->linears().size() - 1);
    for (const ActivationSite& s : r.sites) {
      EXPECT_GT(s.departure[0], 0) << s.name;
      EXPECT_LT(s.departure[0], s.departure[1]) << "bf16 is coarser: " << s.name;
    }
  }
}

TEST_F(PrecisionTest, WhatIsExactDepartsNowhere) {
  auto exact = [](std::map<std::string, Tensor>& t) {
    for (auto& [name, x] : t) x = x.to(DType::bf16).to(DType::f32);
  };
  for (const char* fixture : {"gpt2", "gemma3"}) {
    SCOPED_TRACE(fixture);
    Json capped = {{"final_logit_softcapping", 0.5}};
    LoadedModel m = write(fixture, exact, capped);
    PrecisionOptions o;
    o.types = {"bf16", "f16"};
    PrecisionReport r = measure_precision(m, tiny_samples(), o);
    EXPECT_EQ(of(r, "bf16").weights.exact, m.model->parameter_count());
    EXPECT_EQ(of(r, "bf16").cast.converted.scores.kl_mean, 0);
    for (const ActivationSite& s : r.sites) EXPECT_EQ(s.departure[0], 0) << s.name;
    LoadedModel cast = load_editable(m.path);
    replace_weights(*cast.model, "f16");
    Plain plain = compare_plainly(*m.model, *cast.model, tiny_samples());
    EXPECT_NEAR(of(r, "f16").cast.converted.scores.kl_mean, plain.kl, 0.01 * plain.kl + 1e-6);
  }
}

TEST_F(PrecisionTest, LeavesTheModelAloneAndDoesNotDependOnThreads) {
  LoadedModel m = write_hot();
  Samples samples = tiny_samples();
  auto logits = [&] {
    Session s(*m.model, Activations::f32);
    return s.logits(s.hidden(samples[0]));
  };
  Tensor before = logits();
  set_threads(1);
  PrecisionReport one = measure_precision(m, samples, {});
  set_threads(0);
  PrecisionReport all = measure_precision(m, samples, {});
  Tensor after = logits();
  EXPECT_EQ(std::memcmp(before.raw(), after.raw(), static_cast<size_t>(before.byte_size())), 0);
  for (size_t i = 0; i < all.types.size(); ++i) {
    const TypeReport &a = one.types[i], &b = all.types[i];
    EXPECT_EQ(a.cast.keep, b.cast.keep);
    EXPECT_EQ(a.weights.error_sum, b.weights.error_sum);
    auto same = [](double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); };
    EXPECT_TRUE(same(a.cast.converted.scores.kl_mean, b.cast.converted.scores.kl_mean));
    for (const ActivationSite& s : one.sites)
      EXPECT_TRUE(same(s.departure[i], site(all, s.name).departure[i])) << s.name;
  }
}

TEST_F(PrecisionTest, RefusesWhatCannotBeJudged) {
  auto refuses = [&](LoadedModel m, const char* part) {
    try {
      measure_precision(m, tiny_samples(), {});
      ADD_FAILURE() << "judged; expected an error with " << part;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::unsupported);
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    }
    // What had been put in the model's place is gone.
    for (Linear* l : m.model->linears()) EXPECT_TRUE(l->weight().plane("values").borrowed());
  };
  refuses(write("llama",
                [](auto& t) { t.at("model.norm.weight").template mutable_data<float>()[3] = NAN; }),
          "model.norm.weight");
  refuses(write("llama",
                [](auto& t) {
                  for (const char* name : {"gate", "up", "down"})
                    t.at(fmt::format("model.layers.1.mlp.{}_proj.weight", name))
                        .template mutable_data<float>()[0] = 3e30f;
                }),
          "model.layers.1.mlp");
  LoadedModel m = write("llama");
  PrecisionOptions o;
  o.types = {};
  EXPECT_THROW(measure_precision(m, tiny_samples(), o), Error);
  EXPECT_THROW(text_samples(m, "abc", 257, 0), Error);
  EXPECT_THROW(text_samples(m, "abc", 1, 0), Error);
  EXPECT_THROW(text_samples(m, "abc", 16, 1), Error);
  EXPECT_THROW(text_samples(m, "", 16, 0), Error);
}

TEST_F(PrecisionTest, SamplesAreWindowsThatBeginWithBos) {
  LoadedModel m = write("llama");
  std::string text(100, 'x');
  std::vector<int32_t> ids = m.encode(text, true, false);
  ASSERT_EQ(ids.size(), 101u);
  Samples s = text_samples(m, text, 40, 0);
  ASSERT_EQ(s.size(), 3u);
  EXPECT_EQ(s[2].size(), 21u);
  for (const auto& w : s) EXPECT_EQ(w[0], 1);
  EXPECT_EQ(s[1][1], ids[41]);
  EXPECT_EQ(text_samples(m, text, 40, 81).size(), 2u) << "one token predicts nothing";
  EXPECT_EQ(text_samples(m, text, 40, 50).back().size(), 10u);

  Samples w = written_samples(m, 16, 50, 7);
  ASSERT_EQ(w.size(), 3u);
  for (const auto& x : w) {
    EXPECT_EQ(x.size(), 16u);
    EXPECT_EQ(x[0], 1);
  }
  EXPECT_NE(w[0], w[1]);
  EXPECT_EQ(w, written_samples(m, 16, 50, 7));
  EXPECT_NE(w, written_samples(m, 16, 50, 8));
}

}  // namespace
}  // namespace hone
