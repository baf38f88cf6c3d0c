// Perplexity and divergence against their definitions: plain loops over the full logits of every
// chunk, in double, with chunks cut as llama.cpp and as Hugging Face's documentation cut them.
#include "eval/perplexity.h"

#include <algorithm>

#include "models/session.h"
#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

// What one scored token says.
struct Scored {
  int32_t target;
  std::vector<double> p, reference;  // probabilities; reference may be empty
};

std::vector<double> softmax(const float* logits, int64_t v) {
  double top = *std::max_element(logits, logits + v), total = 0;
  std::vector<double> p;
  for (int64_t i = 0; i < v; ++i) p.push_back(std::exp(logits[i] - top));
  for (double x : p) total += x;
  for (double& x : p) x /= total;
  return p;
}

// Scores the targets [from, size) of one stretch of tokens, each from the tokens in front of it.
void score(LoadedModel& m, LoadedModel* reference, const std::vector<int32_t>& tokens, size_t from,
           std::vector<Scored>& out) {
  auto all = [&](LoadedModel& x) {
    Session s(*x.model, Activations::f32);
    return s.logits(s.hidden(tokens));
  };
  Tensor logits = all(m), ref = reference ? all(*reference) : Tensor();
  int64_t v = logits.dim(1);
  for (size_t i = from; i < tokens.size(); ++i) {
    auto row = static_cast<int64_t>(i - 1);
    Scored s{tokens[i], softmax(logits.data<float>() + row * v, v), {}};
    if (reference) s.reference = softmax(ref.data<float>() + row * v, v);
    out.push_back(std::move(s));
  }
}

// llama.cpp's perplexity tool: whole chunks only, bos instead of each one's first token; of n
// tokens the first n/2 positions only give context, and the last predicts nothing.
std::vector<Scored> llama_cpp(LoadedModel& m, LoadedModel* ref, const std::vector<int32_t>& tokens,
                              size_t n) {
  std::vector<Scored> out;
  for (size_t chunk = 0; chunk < tokens.size() / n; ++chunk) {
    std::vector<int32_t> part(tokens.begin() + static_cast<int64_t>(chunk * n),
                              tokens.begin() + static_cast<int64_t>(chunk * n + n));
    part[0] = *m.tokenizer->bos();
    score(m, ref, part, n / 2 + 1, out);
  }
  return out;
}

// "Perplexity of fixed-length models": of each window only what the one before has not seen.
std::vector<Scored> sliding(LoadedModel& m, LoadedModel* ref, const std::vector<int32_t>& tokens,
                            size_t n, size_t stride) {
  std::vector<Scored> out;
  size_t previous_end = 0;
  for (size_t begin = 0; begin < tokens.size(); begin += stride) {
    size_t end = std::min(begin + n, tokens.size()), fresh = end - previous_end;
    std::vector<int32_t> part(tokens.begin() + static_cast<int64_t>(begin),
                              tokens.begin() + static_cast<int64_t>(end));
    score(m, ref, part, std::max<size_t>(1, part.size() - fresh), out);
    previous_end = end;
    if (end == tokens.size()) break;
  }
  return out;
}

class PerplexityTest : public ::testing::Test {
 protected:
  PerplexityTest() {
    write_tiny(scratch_ / "a", tiny_fixture("llama"), 1);
    write_tiny(scratch_ / "b", tiny_fixture("llama"), 200);
    m_ = load_model(scratch_ / "a");
    other_ = load_model(scratch_ / "b");
    std::mt19937 random(5);
    const char* const kParts[] = {"a", "b", "abc", " ", "é", "d", "e", "x", "Ω", "\n", "ab"};
    for (int i = 0; i < 150; ++i) text_ += kParts[random() % 11];
    tokens_ = m_.tokenizer->encode(text_, true, false);
  }
  static PerplexityOptions options(int64_t context) {
    PerplexityOptions o;
    o.context = context;
    o.activations = Activations::f32;
    return o;
  }
  static PerplexityOptions hf(int64_t context, int64_t stride) {
    PerplexityOptions o = options(context);
    o.convention = PerplexityConvention::hf;
    o.stride = stride;
    return o;
  }
  double bytes_of(const std::vector<Scored>& all) const {
    size_t n = 0;
    for (const Scored& s : all) {
      std::string text(tiny_tokens().tokens[static_cast<size_t>(s.target)]);
      if (text.starts_with("<0x")) text = "?";
      if (size_t at = text.find("▁"); at != std::string::npos) text.replace(at, 3, " ");
      n += text.size();
    }
    return static_cast<double>(n);
  }
  void expect_plain(const Perplexity& got, const std::vector<Scored>& all) {
    ASSERT_EQ(got.tokens, static_cast<int64_t>(all.size()));
    auto n = static_cast<double>(all.size());
    std::vector<double> nll;
    double sum = 0, spread = 0;
    for (const Scored& s : all) nll.push_back(-std::log(s.p[static_cast<size_t>(s.target)]));
    for (double x : nll) sum += x;
    for (double x : nll) spread += (x - sum / n) * (x - sum / n) / (n - 1);
    EXPECT_NEAR(got.nll, sum / n, 1e-5);
    EXPECT_NEAR(got.perplexity, std::exp(sum / n), 1e-5 * got.perplexity);
    EXPECT_NEAR(got.standard_error, std::exp(sum / n) * std::sqrt(spread / n),
                1e-4 * got.standard_error);
    EXPECT_NEAR(got.bits_per_byte, sum / std::log(2.0) / bytes_of(all), 1e-5);
  }

  TemporaryDirectory scratch_;
  LoadedModel m_, other_;
  std::string text_;
  std::vector<int32_t> tokens_;
};

TEST_F(PerplexityTest, LlamaCppChunksEqualTheDefinition) {
  ASSERT_EQ(tokens_[0], 1) << "this tokenizer adds bos";
  for (int64_t n : {3, 4, 16, 33, 100}) {
    SCOPED_TRACE(n);
    expect_plain(measure_perplexity(m_, text_, options(n)),
                 llama_cpp(m_, nullptr, tokens_, static_cast<size_t>(n)));
  }
}

TEST_F(PerplexityTest, SlidingWindowsEqualTheDefinition) {
  for (auto [n, stride] : {std::pair(32, 32), {32, 16}, {33, 7}, {32, 1}, {2, 1}, {256, 100}}) {
    SCOPED_TRACE(fmt::format("{} every {}", n, stride));
    expect_plain(
        measure_perplexity(m_, text_, hf(n, stride)),
        sliding(m_, nullptr, tokens_, static_cast<size_t>(n), static_cast<size_t>(stride)));
  }
  // By default half the context.
  Perplexity half = measure_perplexity(m_, text_, hf(32, 0));
  EXPECT_EQ(half.nll, measure_perplexity(m_, text_, hf(32, 16)).nll);
}

// The first token of a window that begins where the last one ended has nothing in front of it.
TEST_F(PerplexityTest, SlidingWindowsScoreEachTokenOnce) {
  auto n = static_cast<int64_t>(tokens_.size());
  for (int64_t stride : {1, 5, 16})
    EXPECT_EQ(measure_perplexity(m_, text_, hf(30, stride)).tokens, n - 1);
  EXPECT_EQ(measure_perplexity(m_, text_, hf(30, 30)).tokens, n - (n + 29) / 30);
}

TEST_F(PerplexityTest, DivergenceEqualsTheDefinition) {
  for (bool slide : {false, true}) {
    PerplexityOptions o = slide ? hf(40, 13) : options(40);
    Perplexity got = measure_perplexity(m_, text_, o, &other_);
    std::vector<Scored> all =
        slide ? sliding(m_, &other_, tokens_, 40, 13) : llama_cpp(m_, &other_, tokens_, 40);
    expect_plain(got, all);
    auto n = static_cast<double>(all.size());
    std::vector<double> kl;
    double mean = 0, same = 0, squares = 0, most = 0, ref_nll = 0;
    for (const Scored& s : all) {
      double sum = 0;
      for (size_t i = 0; i < s.p.size(); ++i)
        sum += s.reference[i] * std::log(s.reference[i] / s.p[i]);
      kl.push_back(sum);
      mean += sum / n;
      auto top = [](const std::vector<double>& p) {
        return std::max_element(p.begin(), p.end()) - p.begin();
      };
      same += top(s.p) == top(s.reference);
      auto t = static_cast<size_t>(s.target);
      double dp = s.p[t] - s.reference[t];
      squares += dp * dp;
      most = std::max(most, std::fabs(dp));
      ref_nll -= std::log(s.reference[t]) / n;
    }
    std::sort(kl.begin(), kl.end());
    auto quantile = [&](double q) {
      double at = q * (n - 1), whole = std::floor(at);
      double low = kl[static_cast<size_t>(whole)], high = kl[static_cast<size_t>(std::ceil(at))];
      return low + (at - whole) * (high - low);
    };
    EXPECT_GT(mean, 0.05) << "two different models";
    EXPECT_NEAR(got.kl_mean, mean, 1e-5);
    EXPECT_NEAR(got.kl_median, quantile(0.5), 1e-5);
    EXPECT_NEAR(got.kl_p99, quantile(0.99), 1e-5);
    EXPECT_DOUBLE_EQ(got.top1_agreement, same / n);
    EXPECT_TRUE(same > 0 && same < n) << "both kinds occur";
    EXPECT_NEAR(got.rms_dp, std::sqrt(squares / n), 1e-6);
    EXPECT_NEAR(got.max_dp, most, 1e-6);
    EXPECT_NEAR(got.reference_perplexity, std::exp(ref_nll), 1e-5 * got.reference_perplexity);
  }
}

TEST_F(PerplexityTest, AModelDoesNotDivergeFromItself) {
  Perplexity p = measure_perplexity(m_, text_, options(40), &m_);
  EXPECT_LT(p.kl_mean, 1e-9);
  EXPECT_EQ(p.top1_agreement, 1);
  EXPECT_EQ(p.rms_dp, 0);
  EXPECT_EQ(p.max_dp, 0);
  EXPECT_DOUBLE_EQ(p.reference_perplexity, p.perplexity);
  Perplexity alone = measure_perplexity(m_, text_, options(40));
  EXPECT_EQ(alone.nll, p.nll);
  for (double missing : {alone.kl_mean, alone.kl_median, alone.kl_p99, alone.top1_agreement,
                         alone.rms_dp, alone.max_dp, alone.reference_perplexity})
    EXPECT_TRUE(std::isnan(missing));
}

// Of the model itself, run exactly: what int8 activations cost, and f32 ones do not.
TEST(ExactReference, ShowsWhatInt8ActivationsCost) {
  LoadOptions load;
  load.load_as = "int8";
  LoadedModel m = load_model(testing::source_file("models/hone-austen-3m"), load);
  LoadedModel same = load_model(testing::source_file("models/hone-austen-3m"), load);
  std::string text = read_text_file(testing::source_file("examples/text/heldout.txt"));
  PerplexityOptions o;
  o.context = 64;
  o.max_tokens = 512;
  EXPECT_EQ(measure_perplexity(m, text, o, &same).kl_mean, 0);
  o.exact_reference = true;
  Perplexity p = measure_perplexity(m, text, o, &same);
  EXPECT_GT(p.kl_mean, 0);
  EXPECT_LT(p.kl_mean, 0.01);
  o.activations = Activations::f32;
  EXPECT_EQ(measure_perplexity(m, text, o, &same).kl_mean, 0);
  o.kv = KvType::f16;
  EXPECT_GT(measure_perplexity(m, text, o, &same).kl_mean, 0);
}

// Each type as if it ran alone; against the same model with an f32 cache.
TEST_F(PerplexityTest, CachesSideBySideEqualEachAlone) {
  PerplexityOptions o = options(100);
  const std::vector<KvType> types{KvType::int4, KvType::f32, KvType::fp8_e4m3, KvType::int8};
  const std::vector<Perplexity> all = measure_caches(m_, text_, o, types);
  ASSERT_EQ(all.size(), 4u);
  o.exact_reference = true;
  for (size_t i = 0; i < types.size(); ++i) {
    o.kv = types[i];
    const Perplexity alone = measure_perplexity(m_, text_, o, &m_);
    EXPECT_EQ(all[i].perplexity, alone.perplexity);
    EXPECT_EQ(all[i].kl_mean, alone.kl_mean);
    EXPECT_EQ(all[i].top1_agreement, alone.top1_agreement);
    EXPECT_EQ(all[i].bits_per_byte, alone.bits_per_byte);
  }
  EXPECT_EQ(all[1].kl_mean, 0);
  EXPECT_EQ(all[1].perplexity, all[0].reference_perplexity);
  EXPECT_GT(all[0].kl_mean, all[2].kl_mean) << "4 bits are worse than 8";
  EXPECT_GT(all[2].kl_mean, 0);
  EXPECT_GT(measure_caches(m_, text_, o, types, &other_)[1].kl_mean, 0) << "another reference";
  EXPECT_THROW(measure_caches(m_, text_, o, {}), Error);
}

TEST_F(PerplexityTest, MaxTokensCutsTheText) {
  PerplexityOptions o = options(16);
  o.max_tokens = 70;
  std::vector<int32_t> cut(tokens_.begin(), tokens_.begin() + 70);
  expect_plain(measure_perplexity(m_, text_, o), llama_cpp(m_, nullptr, cut, 16));
  o.max_tokens = 1 << 20;
  expect_plain(measure_perplexity(m_, text_, o), llama_cpp(m_, nullptr, tokens_, 16));
}

TEST_F(PerplexityTest, RefusesWhatCannotBeMeasured) {
  auto refuses = [&](const PerplexityOptions& o, const std::string& text, const char* part,
                     LoadedModel* reference = nullptr) {
    try {
      measure_perplexity(m_, text, o, reference);
      ADD_FAILURE() << "measured; expected an error with " << part;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::invalid_argument);
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    }
  };
  refuses(options(257), text_, "257");
  refuses(options(1), text_, "at least 2");
  refuses(options(-5), text_, "at least 2");
  refuses(options(2), text_, "no token to score");
  refuses(options(100), "abc", "fewer than one chunk");
  refuses(options(100), "", "fewer than one chunk");
  refuses(hf(32, 33), text_, "stride 33");
  refuses(hf(32, -1), text_, "stride -1");
  refuses(hf(32, 0), "", "at least 2");
  PerplexityOptions few = options(32);
  few.max_tokens = 31;
  refuses(few, text_, "31 tokens");
  Json config = parse_json(tiny_fixture("llama").config, "config");
  config["vocab_size"] = 271;
  auto tensors = tiny_tensors(tiny_fixture("llama"));
  Tensor& table = tensors["model.embed_tokens.weight"];
  table = table.rows(0, 271).clone();
  write_tiny(scratch_ / "small", config, tensors);
  LoadedModel small = load_model(scratch_ / "small");
  refuses(options(32), text_, "different vocabularies", &small);
}

TEST(PerplexityConvention, HasTwoNames) {
  EXPECT_EQ(convention_from_name("llama.cpp"), PerplexityConvention::llama_cpp);
  EXPECT_EQ(convention_from_name("hf"), PerplexityConvention::hf);
  EXPECT_STREQ(convention_name(PerplexityConvention::hf), "hf");
  EXPECT_STREQ(convention_name(PerplexityConvention::llama_cpp), "llama.cpp");
  EXPECT_THROW(convention_from_name("HF"), Error);
}

}  // namespace
}  // namespace hone
