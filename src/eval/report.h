// The report of one optimisation: what was tried, what each variant weighs, how far it strays from
// the original, how fast it runs, and what happened layer by layer.
//
// One struct of plain data and four renderings of it: a JSON twin that reads back, a self-contained
// HTML page (static SVG, no script, one file), aligned tables for the terminal, and one headline
// in words. A number that was not measured is NaN, and every rendering shows a dash for it. All
// strings are data from outside: the renderings escape them and replace bytes that are not UTF-8.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "base/json.h"

namespace hone {

/// The value of a number nobody measured; JSON null, a dash on the page.
inline constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();

/// One row: the original, a cast of it, or a method tried.
struct ReportVariant {
  std::string name;          // "original", "bf16 cast", "gptq int4 g64"
  bool is_original = false;  // what the others are compared with
  bool noise_floor = false;  // a mere cast: differences below it mean nothing
  bool is_output = false;    // the one that was written
  double model_bytes = kNotMeasured;
  double bits_per_weight = kNotMeasured;
  double perplexity = kNotMeasured;
  double perplexity_stderr = kNotMeasured;
  double bits_per_byte = kNotMeasured;
  double kl_mean = kNotMeasured;  // nats a token, against the original
  double kl_median = kNotMeasured;
  double kl_p99 = kNotMeasured;
  double top1_agreement = kNotMeasured;  // fraction 0..1 of positions with the same first choice
  double rms_dp = kNotMeasured;          // change of the right token's probability, 0..1
  double max_dp = kNotMeasured;
  double prefill_tokens_per_second = kNotMeasured;
  double decode_tokens_per_second = kNotMeasured;
  double prefill_of_limit = kNotMeasured;  // fraction of what the machine could do at most
  double decode_of_limit = kNotMeasured;
  double peak_rss_bytes = kNotMeasured;
  double seconds_to_make = kNotMeasured;
  double kv_bytes_per_token = kNotMeasured;  // of keys and values, before windows drop others
  double sequence_bytes = kNotMeasured;      // of Report::sequence_length tokens: cache and state
  double state_bytes = kNotMeasured;         // the recurrent state's part of it
  std::string
      activations;  // precision of activations while measured: "f32", "int8", "int8 and f32"
};

/// One weight of the written variant, in model order.
struct ReportLayer {
  std::string module;  // "model.layers.3.mlp.up_proj" or "blk.3.ffn_up"
  std::string encoding_before, encoding_after;
  double bytes_before = kNotMeasured, bytes_after = kNotMeasured;
  double method_error = kNotMeasured;  // relative error of the layer's output, this method
  double rtn_error = kNotMeasured;     // the same after plain rounding to nearest
  std::string kept;                    // which of the two was written: "gptq", "rtn"
  // The errors are of the output on calibration inputs; else of the weights alone.
  bool from_inputs = false;
};

/// What a variant wrote after a prompt.
struct ReportSample {
  std::string variant, prompt, text;
};

/// One type of KV cache under the written variant, against that variant with an f32 cache.
struct ReportCache {
  std::string kv_cache;  // "fp8_e4m3"
  double kv_bytes_per_token = kNotMeasured, sequence_bytes = kNotMeasured;
  double perplexity = kNotMeasured, perplexity_stderr = kNotMeasured;
  double kl_mean = kNotMeasured, kl_p99 = kNotMeasured;
  double top1_agreement = kNotMeasured, rms_dp = kNotMeasured;
};

struct Report {
  std::string title;
  std::string model;         // "SmolLM2-135M-Instruct"
  std::string architecture;  // "llama, 30 layers, width 576"
  int64_t parameters = 0;    // 0: not known
  std::string recipe;        // the recipe's YAML, verbatim
  std::string machine;       // CPU, memory, system
  int threads = 0;           // 0: not known
  std::string isa;
  std::string text;     // what perplexity and KL were measured on
  int64_t context = 0;  // tokens a chunk; 0: not known
  std::string convention;
  std::string date;
  std::string hone_version;
  std::vector<std::string> notes;  // caveats a reader has to know
  std::vector<ReportVariant> variants;
  std::vector<ReportLayer> layers;
  std::vector<ReportSample> samples;
  std::string kv_cache;         // under all variants
  int64_t sequence_length = 0;  // of sequence_bytes: the model's context; 0: not known
  std::vector<ReportCache> caches;
};

/// Every field under its name in the structs; missing numbers are null, infinite ones the string
/// "inf" or "-inf".
Json report_json(const Report& report);

/// Reads what report_json wrote. Absent keys keep their defaults and unknown keys are ignored, so
/// that pages can be made again by a newer hone; a value of the wrong type raises Error(corrupt)
/// naming the key.
Report report_from_json(const Json& json);

/// The whole page, UTF-8, nothing to fetch.
std::string report_html(const Report& report);

/// The variants as a table of at most 120 columns, with a legend line; ends in a newline. The best
/// value of a column (casts and the original aside) carries a star, or is bold where `ansi` allows
/// escape sequences. Columns without a single number are left out.
std::string report_table(const Report& report, bool ansi = false);

/// The output against the original in one line, without a full stop: "4.1× smaller, perplexity
/// 12.41 → 12.63 (+1.8 %), 1.9× faster decode". What was not measured is not mentioned; an output
/// that gained nothing is introduced by "No gain:".
std::string report_headline(const Report& report);

/// What a sequence takes beside the weights, the original against the output: "KV cache (f32):
/// 4.10 kB → 2.05 kB a token, ...". Empty where it is not known.
std::string report_memory_line(const Report& report);

/// The types of KV cache as a table, one a row, of sequences of `length` tokens; ends in a newline.
/// Empty where there are none.
std::string cache_table(const std::vector<ReportCache>& caches, int64_t length);

}  // namespace hone
