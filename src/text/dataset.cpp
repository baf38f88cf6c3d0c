#include "text/dataset.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <exception>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "base/threads.h"
#include "text/unicode.h"

namespace hone {
namespace {

// Text that is encoded at once, by all threads.
constexpr size_t kBatchBytes = size_t{8} << 20;
// Bytes that are encoded again to find the answers of one conversation.
constexpr size_t kMaxSearched = size_t{64} << 20;

// Says where, on errors of what knows no file.
template <typename F>
Sequence located(const std::string& where, F&& make) {
  try {
    return make();
  } catch (const Error& e) {
    fail(e.kind(), "{}: {}", where, e.what());
  }
}

}  // namespace

void DataOptions::visit(OptionVisitor& v) {
  v.option("kind", kind, "of records: text, question, messages, ... (docs/data.md)");
  v.option("fields", fields, "names of the fields, where they are others: usual=actual,...");
  v.option("format", format, "of conversations: template (the model's), plain or raw");
  v.option("separator", separator, "a line between documents, beside <|endoftext|>");
  v.option("learn_prompt", learn_prompt, "learn prompts too, not only answers");
  v.option("last_answer", last_answer, "learn only the last answer of a conversation");
  v.option("special_in_contents", special_in_contents,
           "prompts and answers may spell special tokens");
}

ExampleEncoder::ExampleEncoder(const Tokenizer& tokenizer, const std::string& chat_template,
                               const DataOptions& options)
    : tokenizer_(tokenizer), options_(options), names_(options.fields) {
  if (options.kind != "auto") data_kind_of_name(options.kind);
  const std::string& f = options.format;
  HONE_CHECK(f == "auto" || f == "template" || f == "plain" || f == "raw", invalid_argument,
             "the format {}: expected auto, template, plain or raw", printed(f));
  HONE_CHECK(f != "template" || !chat_template.empty(), invalid_argument,
             "the model has no chat template; use the format plain");
  const std::vector<int32_t> bare = tokenizer.encode("a", false, false),
                             whole = tokenizer.encode("a", true, false);
  const auto inner = std::search(whole.begin(), whole.end(), bare.begin(), bare.end());
  HONE_ASSERT(inner != whole.end());
  prefix_.assign(whole.begin(), inner);
  suffix_.assign(inner + static_cast<int64_t>(bare.size()), whole.end());
  if (suffix_.empty() && tokenizer.eos()) suffix_ = {*tokenizer.eos()};
  puts_space_ = !bare.empty() && tokenizer.token_bytes(bare[0]).starts_with(' ');
  const bool own = f == "template" || (f == "auto" && !chat_template.empty());
  const bool bos = tokenizer.bos() && !prefix_.empty() && prefix_[0] == *tokenizer.bos();
  chat_ = std::make_unique<ChatAnswers>(
      own          ? std::string_view(chat_template)
      : f == "raw" ? raw_chat_template()
                   : plain_chat_template(),
      own ? "chat_template" : f, tokenizer,
      ChatAnswers::Options{options.last_answer, options.special_in_contents, own || bos});
}

Sequence ExampleEncoder::document(std::string_view text, bool begins, bool ends) const {
  // A part that follows begins with the space that the tokenizer would put there itself.
  if (!begins && puts_space_ && text.starts_with(' ')) text.remove_prefix(1);
  Sequence s;
  if (begins) s.tokens = prefix_;
  const std::vector<int32_t> ids = tokenizer_.encode(text, false, false);
  s.tokens.insert(s.tokens.end(), ids.begin(), ids.end());
  if (ends) s.tokens.insert(s.tokens.end(), suffix_.begin(), suffix_.end());
  s.learned.assign(s.tokens.size(), 1);
  if (begins && !s.learned.empty()) s.learned[0] = 0;
  return s;
}

ExampleEncoder::Encoded ExampleEncoder::encode_chat(std::string_view text,
                                                    const std::vector<size_t>& cuts) const {
  Encoded result;
  for (size_t i = 0, begin = 0; i <= cuts.size(); ++i) {
    const size_t end = i < cuts.size() ? std::min(cuts[i], text.size()) : text.size();
    if (begin >= end) continue;
    const std::string_view part = text.substr(begin, end - begin);
    const size_t first = result.ids.size();
    std::string spelled;
    for (int32_t id : tokenizer_.encode(part, false, true)) {
      const size_t before = result.ends.empty() ? 0 : result.ends.back();
      const std::string bytes = tokenizer_.token_bytes(id, result.ids.size() == first);
      spelled += bytes;
      result.ids.push_back(id);
      result.ends.push_back(before + bytes.size());
    }
    result.spelled = result.spelled && spelled == part;
    begin = end;
  }
  return result;
}

void ExampleEncoder::learn(const ChatAnswers::Text& chat, const jinja::Span& answer,
                           const Encoded& encoded, std::vector<uint8_t>& learned) const {
  if (answer.begin >= answer.end || encoded.ids.empty()) return;
  // Where a normalizer rewrote the text, what is in front of a border tells where the border went.
  auto border = [&](size_t at) {
    if (encoded.spelled || at == 0) return at;
    const Encoded before = encode_chat(std::string_view(chat.text).substr(0, at), chat.cuts);
    return before.ends.empty() ? 0 : before.ends.back();
  };
  const size_t begin = border(answer.begin), end = border(answer.end);
  const auto& ends = encoded.ends;
  const auto first =
      static_cast<size_t>(std::upper_bound(ends.begin(), ends.end(), begin) - ends.begin());
  auto last = static_cast<size_t>(std::lower_bound(ends.begin(), ends.end(), end) - ends.begin());
  last = std::min(last + 1, ends.size());
  if (!chat.marked) {
    // What a template writes behind the end of a turn is not the model's to say.
    const std::vector<int32_t>& end_ids = tokenizer_.end_of_generation();
    for (size_t t = last; t-- > first;)
      if (std::binary_search(end_ids.begin(), end_ids.end(), encoded.ids[t])) {
        const std::string rest =
            tokenizer_.decode(std::span(encoded.ids).subspan(t + 1, last - t - 1));
        if (rest.find_first_not_of(" \t\r\n") == rest.npos) last = t + 1;
        break;
      }
  }
  for (size_t t = first; t < last; ++t) learned[t] = 1;
}

Sequence ExampleEncoder::conversation(const Json& messages, const Json& tools) const {
  const ChatAnswers::Text chat = chat_->render(messages, tools);
  Encoded encoded = encode_chat(chat.text, chat.cuts);
  Sequence s;
  HONE_CHECK(encoded.spelled || chat.answers.size() <= kMaxSearched / (chat.text.size() + 1),
             unsupported, "{} answers in a conversation of {} bytes: too many to be found",
             chat.answers.size(), chat.text.size());
  s.learned.assign(encoded.ids.size(), options_.learn_prompt);
  if (!options_.learn_prompt)
    for (const jinja::Span& answer : chat.answers) learn(chat, answer, encoded, s.learned);
  s.tokens = std::move(encoded.ids);
  if (!s.learned.empty()) s.learned[0] = 0;
  return s;
}

Sequence ExampleEncoder::record(const Json& record, DataKind kind, const std::string& where) const {
  if (kind == DataKind::text) {
    const std::string text = record_text(record, names_, where);
    return located(where, [&] { return document(text); });
  }
  const Json messages = record_messages(record, kind, names_, where);
  return located(where, [&] { return conversation(messages, record_tools(record, names_)); });
}

Sequence ExampleEncoder::piece(const DataPiece& p, DataKind kind, const std::string& where) const {
  if (kind == DataKind::plain)
    return located(where, [&] { return document(p.text, p.begins, p.ends); });
  return record(parse_json(p.text, where), kind, where);
}

DataFile ExampleEncoder::open(const fs::path& path, size_t piece_bytes) const {
  const bool plain =
      options_.kind == "plain" || (options_.kind == "auto" && !DataFile::has_json_name(path));
  std::vector<std::string> separators = {"<|endoftext|>"};
  if (const auto eos = tokenizer_.eos()) separators.emplace_back(tokenizer_.token_text(*eos));
  if (!options_.separator.empty()) separators.push_back(options_.separator);
  return DataFile(path, plain, std::move(separators), piece_bytes);
}

DataKind ExampleEncoder::kind_of(const Json& first, const std::string& where) const {
  return options_.kind == "auto" ? detect_kind(first, names_, where)
                                 : data_kind_of_name(options_.kind);
}

void read_examples(const fs::path& path, const ExampleEncoder& encoder,
                   const std::function<void(const Sequence&, bool last)>& on_example,
                   size_t piece_bytes) {
  DataFile file = encoder.open(path, piece_bytes);
  Progress progress("tokenising " + path.filename().string(), file.size());
  std::optional<DataKind> kind;
  if (file.form() == DataFile::Form::plain) kind = DataKind::plain;
  int64_t examples = 0;
  std::vector<DataPiece> pieces;
  std::vector<Sequence> encoded;
  for (bool more = true; more;) {
    pieces.clear();
    size_t bytes = 0;
    std::exception_ptr bad_piece;  // the pieces in front of it may be worse
    try {
      for (DataPiece piece; bytes < kBatchBytes && (more = file.next(piece));) {
        pieces.push_back(piece);
        bytes += piece.text.size() + 64;
      }
    } catch (const Error&) {
      bad_piece = std::current_exception();
    }
    if (!kind && !pieces.empty()) {
      const std::string where = file.where(pieces[0]);
      kind = encoder.kind_of(parse_json(pieces[0].text, where), where);
    }
    const auto n = static_cast<int64_t>(pieces.size());
    encoded.assign(pieces.size(), {});
    std::vector<std::exception_ptr> failed(pieces.size());
    parallel_for(n, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        try {
          encoded[i] = encoder.piece(pieces[i], *kind, file.where(pieces[i]));
        } catch (...) {
          failed[i] = std::current_exception();
        }
      }
    });
    for (int64_t i = 0; i < n; ++i) {
      if (failed[i]) std::rethrow_exception(failed[i]);
      on_example(encoded[i], pieces[i].ends);
      examples += pieces[i].ends;
    }
    if (bad_piece) std::rethrow_exception(bad_piece);
    file.release();
    progress.update(file.position());
  }
  HONE_CHECK(examples > 0, corrupt, "{}: it holds no example", path.string());
}

}  // namespace hone
