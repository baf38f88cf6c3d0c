// What make_tokenizers.py wrote: texts, and what Hugging Face tokenizers makes of them.
#pragma once

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "text/tokenizer.h"

namespace hone {

inline fs::path golden_path(const std::string& file) {
  return fs::path(HONE_SOURCE_DIR) / "tests/golden/tokenizers" / file;
}
inline std::string golden_text(const std::string& file) {
  return read_text_file(golden_path(file));
}
inline nlohmann::json golden_json(const std::string& file) {
  return nlohmann::json::parse(golden_text(file));
}
inline std::vector<std::string> golden_texts() { return golden_json("texts.json"); }

/// Every kind of tokenizer there is a golden of.
inline std::vector<std::string> golden_names() {
  return {"gpt2",
          "roberta",
          "llama3",
          "qwen2",
          "smollm",
          "gpt4o",
          "falcon",
          "llama2",
          "llama2_metaspace",
          "metaspace_split",
          "gemma",
          "mixed",
          "bloom",
          "olmo2",
          "neox",
          "phi3",
          "bert",
          "bert_cased",
          "t5",
          "xlmr",
          "unigram_bytes"};
}
inline std::unique_ptr<Tokenizer> golden_tokenizer(const std::string& name) {
  return tokenizer_from_json(golden_text(name + ".tokenizer.json"), "", name);
}

/// The kind and the message of the Error that `f` raises; fails where it raises none.
template <typename F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return std::string(error_kind_name(e.kind())) + ": " + e.what();
  }
  ADD_FAILURE() << "no error was raised";
  return {};
}

}  // namespace hone
