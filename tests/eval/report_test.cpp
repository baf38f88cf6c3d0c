#include "eval/report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "eval/report_plots.h"
#include "eval/report_text.h"

namespace hone {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

ReportVariant variant(std::string name, double bytes, double perplexity, double decode) {
  ReportVariant v;
  v.name = std::move(name);
  v.model_bytes = bytes;
  v.perplexity = perplexity;
  v.decode_tokens_per_second = decode;
  return v;
}

/// An original, a cast, the written variant and another, with some layers.
Report example() {
  Report report;
  report.title = "Tiny";
  report.model = "tiny-260K";
  report.parameters = 260032;
  report.threads = 2;
  report.context = 512;
  report.notes = {"a caveat"};
  report.variants = {variant("original", 400e6, 12.41, 50), variant("bf16 cast", 200e6, 12.42, 55),
                     variant("gptq int4 g64", 100e6, 12.63, 95),
                     variant("rtn int4 g64", 99e6, 13.1, 96)};
  report.variants[0].is_original = true;
  report.variants[1].noise_floor = true;
  report.variants[2].is_output = true;
  report.variants[1].kl_mean = 2.5e-5;
  report.variants[2].kl_mean = 0.0213;
  report.variants[3].kl_mean = 0.071;
  report.variants[2].top1_agreement = 0.948;
  for (int block = 0; block < 3; ++block)
    for (const char* kind : {"self_attn.q_proj", "mlp.up_proj"})
      report.layers.push_back({"model.layers." + std::to_string(block) + "." + kind, "bf16",
                               "int4 g64", 2e6, 5.6e5, 0.05, 0.08, block ? "gptq" : "rtn", true});
  report.samples = {{"original", "Once", " upon a time"}, {"gptq int4 g64", "Once", " there was"}};
  return report;
}

Report pair(ReportVariant before, ReportVariant after) {
  Report report;
  before.is_original = after.is_output = true;
  report.variants = {before, after};
  return report;
}

int count(const std::string& text, const std::string& part) {
  int found = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++found;
  return found;
}

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> result;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) result.push_back(line);
  return result;
}

// ---- Headline --------------------------------------------------------------------------------

TEST(ReportHeadline, NamesTheGains) {
  EXPECT_EQ(report_headline(example()),
            "4.0× smaller, perplexity 12.41 → 12.63 (+1.8 %), 1.9× faster decode");
}

TEST(ReportHeadline, SaysWhatGotWorse) {
  EXPECT_EQ(report_headline(pair(variant("a", 100e6, 12.41, 60), variant("b", 120e6, 14.9, 50))),
            "No gain: 1.2× larger, perplexity 12.41 → 14.90 (+20 %), 1.2× slower decode");
  // Smaller and slower is a gain with a price.
  EXPECT_EQ(report_headline(pair(variant("a", 100e6, 10, 60), variant("b", 50e6, 9.9, 30))),
            "2.0× smaller, perplexity 10.00 → 9.90 (−1.0 %), 2.0× slower decode");
}

TEST(ReportHeadline, SmallChangesAreNotInflated) {
  EXPECT_EQ(report_headline(pair(variant("a", 100e6, 10, 100), variant("b", 95e6, 10.001, 102))),
            "5 % smaller, perplexity unchanged at 10.00, same decode speed");
  EXPECT_EQ(report_headline(pair(variant("a", 100e6, 10, 100), variant("b", 100e6, 10, 100))),
            "No gain: same size, perplexity unchanged at 10.00, same decode speed");
}

TEST(ReportHeadline, LeavesOutWhatWasNotMeasured) {
  EXPECT_EQ(report_headline(
                pair(variant("a", 100e6, kNotMeasured, 60), variant("b", 25e6, 12, kNotMeasured))),
            "4.0× smaller");
  EXPECT_EQ(report_headline(pair(variant("a", kNotMeasured, 10, kNotMeasured),
                                 variant("b", 25e6, 12, kNotMeasured))),
            "perplexity 10.00 → 12.00 (+20 %)");
  EXPECT_EQ(report_headline(pair({}, variant("b", 25e6, 12, 3))),
            "b: nothing to compare was measured");
  EXPECT_EQ(report_headline(Report{}), "Nothing was written");
  EXPECT_EQ(report_headline(pair(variant("a", 100e6, 10, 60), variant("b", 50e6, kInfinity, 60))),
            "2.0× smaller, perplexity no longer finite: the model is broken, same decode speed");
}

// ---- JSON ------------------------------------------------------------------------------------

TEST(ReportJson, RoundTripKeepsEverything) {
  Report report = example();
  report.variants[3].perplexity = kInfinity;
  Json json = report_json(report);
  Report back = report_from_json(parse_json(json.dump(), "test"));
  EXPECT_EQ(report_json(back).dump(), json.dump());
  EXPECT_EQ(report_html(back), report_html(report));
  EXPECT_EQ(back.parameters, 260032);
  EXPECT_EQ(back.variants[2].kl_mean, 0.0213);
  EXPECT_TRUE(back.variants[2].is_output);
  EXPECT_EQ(back.variants[3].perplexity, kInfinity);
  EXPECT_EQ(back.layers[5].module, "model.layers.2.mlp.up_proj");
  EXPECT_EQ(back.samples[1].text, " there was");
  EXPECT_EQ(back.notes, report.notes);
}

// Every member of the structs, by structured bindings: one more does not compile until it is here,
// and one that the JSON forgets comes back as its default.
TEST(ReportJson, NoMemberIsForgotten) {
  int next = 1;
  auto fill = [&](auto&... member) {
    auto set = [&](auto& x) {
      using T = std::decay_t<decltype(x)>;
      if constexpr (std::is_same_v<T, std::string>)
        x = "text " + std::to_string(next++);
      else if constexpr (std::is_same_v<T, bool>)
        x = true;
      else if constexpr (std::is_arithmetic_v<T>)
        x = static_cast<T>(next++);
    };
    (set(member), ...);
    return sizeof...(member);
  };
  Report r;
  r.variants.resize(1);
  r.layers.resize(1);
  r.samples.resize(1);
  r.caches.resize(1);
  {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, s, t, u, v, w, x, y, z] =
        r.variants[0];
    Json json = report_json(r);
    EXPECT_EQ(json["variants"][0].size(),
              fill(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, s, t, u, v, w, x, y, z));
  }
  {
    auto& [a, b, c, d, e, f, g, h, i] = r.layers[0];
    EXPECT_EQ(report_json(r)["layers"][0].size(), fill(a, b, c, d, e, f, g, h, i));
  }
  {
    auto& [a, b, c] = r.samples[0];
    EXPECT_EQ(report_json(r)["samples"][0].size(), fill(a, b, c));
  }
  {
    auto& [a, b, c, d, e, f, g, h, i] = r.caches[0];
    EXPECT_EQ(report_json(r)["caches"][0].size(), fill(a, b, c, d, e, f, g, h, i));
  }
  {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, s, t, u] = r;
    // And "format" and its version.
    EXPECT_EQ(report_json(r).size(),
              2 + fill(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, s, t, u));
  }
  r.notes = {"a note"};
  Json json = report_json(r);
  EXPECT_EQ(report_json(report_from_json(parse_json(json.dump(), "test"))).dump(), json.dump());
  // No two members share a key: every value set is there once.
  std::string text = json.dump();
  for (int i = 1; i < next; ++i) {
    std::string number = std::to_string(i);
    EXPECT_EQ(count(text, ":" + number + ",") + count(text, ":" + number + "}") +
                  count(text, "\"text " + number + "\""),
              1 + (i == 1))
        << i;
  }
}

TEST(ReportJson, MissingNumbersAreNull) {
  Json json = report_json(example());
  EXPECT_TRUE(json["variants"][0]["kl_mean"].is_null());
  EXPECT_EQ(json["variants"][0]["model_bytes"].dump(), "400000000");
  Report back = report_from_json(json);
  EXPECT_TRUE(std::isnan(back.variants[0].kl_mean));
}

TEST(ReportJson, AbsentAndUnknownKeysAreFine) {
  Report back = report_from_json(
      parse_json(R"({"format": "hone report", "later": 1, "variants": [{"name": "x"}]})", "test"));
  ASSERT_EQ(back.variants.size(), 1u);
  EXPECT_EQ(back.variants[0].name, "x");
  EXPECT_TRUE(std::isnan(back.variants[0].model_bytes));
}

TEST(ReportJson, BadInputNamesTheKey) {
  auto message = [](const char* text) -> std::string {
    try {
      report_from_json(parse_json(text, "test"));
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::corrupt);
      return e.what();
    }
    return "no error";
  };
  EXPECT_NE(message(R"({"format": "hone report", "variants": [{}, {"kl_mean": "much"}]})")
                .find("'variants[1].kl_mean'"),
            std::string::npos);
  EXPECT_NE(message(R"({"format": "hone report", "threads": -1})").find("'threads'"),
            std::string::npos);
  EXPECT_NE(message(R"({"format": "hone report", "parameters": 18446744073709551615})")
                .find("'parameters'"),
            std::string::npos);
  EXPECT_NE(message(R"({"format": "hone report", "layers": {}})").find("an array"),
            std::string::npos);
  EXPECT_NE(message("[]").find("hone report"), std::string::npos);
  EXPECT_NE(message("{}").find("hone report"), std::string::npos);
}

TEST(ReportJson, BrokenUtf8IsReplaced) {
  Report report = example();
  report.samples[0].text = "ok \xff\xed\xa0\x80 \xc3\xa9 \xe2\x82";
  std::string text = report_json(report)["samples"][0]["text"];
  EXPECT_EQ(text, "ok \uFFFD\uFFFD\uFFFD\uFFFD \u00e9 \uFFFD\uFFFD");
  EXPECT_NO_THROW(report_json(report).dump());
}

// ---- Table -----------------------------------------------------------------------------------

TEST(ReportTable, ColumnsAreAligned) {
  std::vector<std::string> rows = lines(report_table(example()));
  ASSERT_EQ(rows.size(), 7u);  // two of titles, four variants, the legend
  // Numbers end where their title ends.
  for (const char* title : {"size", "perplexity", "KL mean", "decode"}) {
    size_t end = rows[0].find(title) + std::string(title).size();
    for (size_t row = 2; row < 6; ++row) {
      // The table's dash is three bytes for one column.
      std::string ascii = rows[row];
      for (size_t at; (at = ascii.find("–")) != std::string::npos;) ascii.replace(at, 3, "-");
      ascii.resize(130, ' ');
      EXPECT_NE(ascii[end - 1], ' ') << title << " in " << ascii;
      EXPECT_TRUE(ascii[end] == ' ' || ascii[end] == '*') << title << " in " << ascii;
    }
  }
  EXPECT_EQ(rows[4].substr(0, 15), "> gptq int4 g64");
  EXPECT_EQ(rows[3].substr(0, 11), "~ bf16 cast");
  EXPECT_NE(rows[4].find("12.63*"), std::string::npos);
  EXPECT_EQ(rows[2].find('*'), std::string::npos) << "the original is not a variant tried";
  EXPECT_NE(rows[2].find("–"), std::string::npos);
}

TEST(ReportTable, LeavesOutColumnsNobodyMeasured) {
  std::string table = report_table(example());
  EXPECT_EQ(table.find("prefill"), std::string::npos);
  EXPECT_EQ(table.find("KL p99"), std::string::npos);
  EXPECT_NE(table.find("KL mean"), std::string::npos);
}

TEST(ReportTable, StaysWithin120ColumnsAndHarmless) {
  Report report = example();
  report.variants[1].name = std::string(300, 'x') + "é";
  report.variants[2].name = "\033[2J\nевропа";
  for (auto& v : report.variants) {
    for (auto field : {&ReportVariant::perplexity, &ReportVariant::kl_mean, &ReportVariant::kl_p99,
                       &ReportVariant::prefill_tokens_per_second, &ReportVariant::bits_per_weight,
                       &ReportVariant::decode_tokens_per_second})
      v.*field = 123456789.123;
    v.model_bytes = v.peak_rss_bytes = 9.876e13;
    v.top1_agreement = 0.99999;
    v.seconds_to_make = 123456;
  }
  for (const auto& line : lines(report_table(report)))
    EXPECT_LE(report_text::columns(line), 120) << line;
  EXPECT_EQ(report_table(report).find('\033'), std::string::npos);
  EXPECT_NE(report_table(report, true).find("\033[1m"), std::string::npos);
  EXPECT_EQ(lines(report_table(Report{})).size(), 2u);
}

// ---- Memory of a sequence --------------------------------------------------------------------

Report with_memory(double before, double after) {
  Report report = example();
  report.kv_cache = "f32";
  report.sequence_length = 8192;
  for (ReportVariant& v : report.variants) {
    v.kv_bytes_per_token = v.is_output ? after : before;
    v.sequence_bytes = 8192 * v.kv_bytes_per_token;
    v.state_bytes = 0;
  }
  return report;
}

TEST(ReportMemory, IsComparedInEveryRendering) {
  Report report = with_memory(46080, 23040);
  EXPECT_EQ(
      report_memory_line(report),
      "Memory of a sequence: f32 KV cache 46.1 kB → 23.0 kB a token; 377 MB → 189 MB for 8192 "
      "tokens (2.0× smaller)");
  EXPECT_NE(report_headline(report).find("2.0× less memory a sequence"), std::string::npos);
  EXPECT_NE(report_table(report).find("kB/token"), std::string::npos);
  EXPECT_NE(report_table(report).find("23.0*"), std::string::npos);
  const std::string page = report_html(report);
  EXPECT_NE(page.find("Memory of a sequence"), std::string::npos);
  EXPECT_EQ(count(page, "23.0 kB"), 2) << "in the line and in the table";
  EXPECT_EQ(count(page, "of 8192"), 5) << "the head and a label in each row";
  EXPECT_EQ(report_html(report_from_json(report_json(report))), page);
}

TEST(ReportMemory, ThatStaysIsOneLine) {
  Report report = with_memory(46080, 46080);
  EXPECT_EQ(report_memory_line(report),
            "Memory of a sequence: f32 KV cache 46.1 kB a token; 377 MB for 8192 tokens");
  EXPECT_EQ(report_headline(report), report_headline(example()));
  EXPECT_EQ(report_table(report), report_table(example()));
  EXPECT_EQ(count(report_html(report), "of 8192"), 0);
}

TEST(ReportMemory, OfARecurrentModelIsItsState) {
  Report report = with_memory(46080, 0);
  for (ReportVariant& v : report.variants)
    if (v.is_output) v.sequence_bytes = v.state_bytes = 1.5e6;
  const std::string line = report_memory_line(report);
  EXPECT_NE(line.find("46.1 kB → 0 B a token"), std::string::npos) << line;
  EXPECT_NE(line.find("of which 0 B → 1.50 MB are recurrent state"), std::string::npos) << line;
  for (ReportVariant& v : report.variants) {
    v.kv_bytes_per_token = 0;
    v.sequence_bytes = v.state_bytes = 1.5e6;
  }
  EXPECT_EQ(report_memory_line(report),
            "Memory of a sequence: 1.50 MB for 8192 tokens, of which 1.50 MB are recurrent state");
  EXPECT_EQ(report_memory_line(example()), "") << "not known";
}

TEST(ReportMemory, CachesAreARowEach) {
  Report report = with_memory(46080, 46080);
  report.caches = {{"f32", 46080, 377.5e6, 36.1371, 1, 0, 0, 1, 0},
                   {"fp8_e4m3", 11610, 98.1e6, 36.1502, 1, 0.000731, 0.0052, 0.981, 0.0044},
                   {"<bad>\033", 1, 2, kNotMeasured, 1, kNotMeasured, kInfinity, 0.5, 1e300}};
  const std::string table = cache_table(report.caches, 8192);
  const std::vector<std::string> rows = lines(table);
  ASSERT_EQ(rows.size(), 5u);
  for (const char* cell : {"fp8_e4m3", "11610", "98.1", "36.150", "0.000731", "98.1", "0.44"})
    EXPECT_NE(rows[3].find(cell), std::string::npos) << cell << " in " << rows[3];
  EXPECT_NE(rows[0].find("of 8192"), std::string::npos);
  EXPECT_EQ(cache_table({}, 8192), "");
  const std::string page = report_html(report);
  EXPECT_NE(page.find("fp8_e4m3"), std::string::npos);
  EXPECT_NE(page.find("&lt;bad&gt;"), std::string::npos);
  EXPECT_EQ(report_html(report_from_json(report_json(report))), page);
}

// ---- Page ------------------------------------------------------------------------------------

TEST(ReportHtml, EscapesEverythingFromOutside) {
  const std::string evil = "<script>'\"&\x01\xff";
  Report report = example();
  for (auto field :
       {&Report::title, &Report::model, &Report::architecture, &Report::recipe, &Report::machine,
        &Report::isa, &Report::text, &Report::convention, &Report::date, &Report::hone_version})
    report.*field = evil;
  report.notes = {evil};
  for (auto& v : report.variants) v.name = evil + v.name, v.activations = evil + v.name;
  for (auto& l : report.layers) {
    l.module += evil;
    l.encoding_before = l.encoding_after = l.kept = evil;
  }
  for (auto& s : report.samples) s.variant = s.prompt = s.text = evil;
  std::string page = report_html(report);
  EXPECT_EQ(page.find("<script"), std::string::npos);
  EXPECT_EQ(page.find('\x01'), std::string::npos);
  EXPECT_EQ(page.find('\xff'), std::string::npos);
  EXPECT_GT(count(page, "&lt;script&gt;&#39;&quot;&amp;"), 30);
}

TEST(ReportHtml, IsOneFile) {
  std::string page = report_html(example());
  for (const char* part : {"http:", "https:", "<link", "src=", "url(", "@import"})
    EXPECT_EQ(page.find(part), std::string::npos) << part;
}

TEST(ReportHtml, ShowsWhatIsThere) {
  std::string page = report_html(example());
  EXPECT_NE(page.find("94.8 %"), std::string::npos);
  EXPECT_NE(page.find("852× that of the bf16 cast"), std::string::npos);
  EXPECT_NE(page.find("gptq was kept in 4 layers, rtn in 2 layers"), std::string::npos);
  EXPECT_NE(page.find("KL divergence against model size"), std::string::npos);
  EXPECT_NE(page.find("class='band'"), std::string::npos);
  EXPECT_EQ(count(page, "<table"), count(page, "</table>"));
  EXPECT_EQ(count(page, "<svg"), count(page, "</svg>"));
  EXPECT_EQ(count(page, "<g"), count(page, "</g"));
  EXPECT_EQ(page.find("nan"), std::string::npos);
}

TEST(ReportHtml, SaysWhatTheErrorsAreOf) {
  Report report = example();
  std::string page = report_html(report);
  EXPECT_NE(page.find("each layer’s output on the calibration text"), std::string::npos);
  EXPECT_NE(page.find("round to nearest</b>"), std::string::npos);
  for (auto& l : report.layers) {
    l.from_inputs = false;
    l.rtn_error = kNotMeasured;
  }
  page = report_html(report);
  EXPECT_NE(page.find("each layer’s weights"), std::string::npos);
  EXPECT_EQ(page.find("calibration text"), std::string::npos);
  EXPECT_EQ(page.find("round to nearest</b>"), std::string::npos);
}

TEST(ReportHtml, EmptyAndPartialReportsWork) {
  EXPECT_NE(report_html(Report{}).find("Nothing was written"), std::string::npos);
  Report report = example();
  for (auto& v : report.variants) v.kl_mean = kNotMeasured;
  EXPECT_NE(report_html(report).find("Change of perplexity"), std::string::npos);
  for (auto& v : report.variants) {
    v.model_bytes = v.perplexity = v.decode_tokens_per_second = kNotMeasured;
    v.kl_mean = kInfinity;
  }
  for (auto& l : report.layers) l.bytes_before = l.method_error = kNotMeasured;
  std::string page = report_html(report);
  EXPECT_EQ(page.find("Quality against size"), std::string::npos);
  EXPECT_EQ(page.find("nan"), std::string::npos);
  EXPECT_EQ(page.find("inf"), std::string::npos);
}

TEST(ReportHtml, ZeroDivergenceHasAPlaceOnTheLogScale) {
  Report report = example();
  report.variants[1].kl_mean = 0;
  EXPECT_EQ(report_html(report).find("nan"), std::string::npos);
  for (auto& v : report.variants) v.kl_mean = 0;
  EXPECT_EQ(report_html(report).find("nan"), std::string::npos);
}

TEST(ReportHtml, AbsurdNumbersDoNoHarm) {
  for (double absurd : {1e308, -1e308, 5e-324, 1e-308, 1e30, kInfinity, -kInfinity, -1.0}) {
    Report report = example();
    for (auto& v : report.variants)
      for (auto field :
           {&ReportVariant::model_bytes, &ReportVariant::kl_mean, &ReportVariant::rms_dp,
            &ReportVariant::perplexity, &ReportVariant::decode_tokens_per_second,
            &ReportVariant::seconds_to_make, &ReportVariant::bits_per_weight})
        v.*field = absurd;
    report.variants[2].model_bytes = report.variants[2].kl_mean = 1;
    for (auto& l : report.layers) l.bytes_before = l.method_error = absurd;
    report.layers[0].method_error = 0.1;
    std::string page = report_html(report);
    EXPECT_LT(page.size(), 100000u) << absurd;
    EXPECT_EQ(page.find("nan"), std::string::npos) << absurd;
    for (const auto& line : lines(report_table(report)))
      EXPECT_LE(report_text::columns(line), 120) << line;
  }
}

// ---- Parts -----------------------------------------------------------------------------------

TEST(ReportPlots, PlaceOfModules) {
  auto check = [](const char* module, int block, const char* kind) {
    auto place = report_plots::place_of(module);
    EXPECT_EQ(place.block, block) << module;
    EXPECT_EQ(place.kind, kind) << module;
  };
  check("model.layers.12.self_attn.q_proj", 12, "self_attn.q_proj");
  check("blk.3.ffn_up.weight", 3, "ffn_up");
  check("transformer.h.0.attn.c_attn", 0, "attn.c_attn");
  check("model.layers.4.mlp.experts.17.down_proj", 4, "mlp.experts.*.down_proj");
  check("model.embed_tokens", -1, "embed_tokens");
  check("lm_head.weight", -1, "lm_head");
  check("", -1, "");
  check("7", 7, "7");
}

TEST(ReportText, NumbersReadWell) {
  using namespace report_text;
  EXPECT_EQ(significant(0.0213), "0.0213");
  EXPECT_EQ(significant(1.5), "1.50");
  EXPECT_EQ(significant(0.000231), "0.000231");
  EXPECT_EQ(significant(2.31e-5), "2.3e-05");
  EXPECT_EQ(significant(-12345), "-12345");
  EXPECT_EQ(significant(0), "0");
  EXPECT_EQ(significant(kNotMeasured), "–");
  EXPECT_EQ(report_plots::number("2.3e-05"), "2.3×10⁻⁵");
  EXPECT_EQ(report_plots::number("1.0e+12"), "1.0×10¹²");
  EXPECT_EQ(percent(0.99999), "99.99");
  EXPECT_EQ(percent(1), "100.0");
  EXPECT_EQ(percent(0.948), "94.8");
  EXPECT_EQ(perplexity(123456), "1.2e+05");
  EXPECT_EQ(relative(10, 9), "−10 %");
  EXPECT_EQ(shorten("größer", 4), "grö…");
  EXPECT_EQ(shorten("größer", 6), "größer");
  EXPECT_EQ(columns("größer"), 6);
}

}  // namespace
}  // namespace hone
