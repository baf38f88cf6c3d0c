// Training examples: records of data files as tokens, with a bit for each that says whether it is
// learned. docs/data.md is the user's side of this.
//
//   texts          everything is learned. bos and eos are put around as the tokenizer's file says;
//                  where it says nothing of an end, eos closes each text, so that a model learns to
//                  end. A special token's text in them is ordinary text.
//   conversations  instructions, questions and chats go through the chat template (chat_answers.h);
//                  only answers are learned, with the token that ends the turn, but not with the
//                  white space that a template writes behind that token.
//
// A token that lies partly in an answer is learned. The first token of an example is never learned:
// nothing predicts it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/options.h"
#include "text/chat_answers.h"
#include "text/data_file.h"
#include "text/data_kind.h"

namespace hone {

struct Sequence {
  std::vector<int32_t> tokens;
  std::vector<uint8_t> learned;  // 1 or 0 for each token
};

struct DataOptions {
  std::string kind = "auto";    // auto, or a name of data_kind.h
  std::string fields = {};      // names of fields: usual=actual,...
  std::string format = "auto";  // conversations: template, plain, raw; auto: template, else plain
  std::string separator = {};   // line between plain documents, beside eos and <|endoftext|>
  bool learn_prompt = false;    // conversations: learn all
  bool last_answer = false;     // conversations: learn only the last answer
  bool special_in_contents = false;  // contents may spell special tokens

  void visit(OptionVisitor& v);
};

/// Makes examples of records. const methods may be called from several threads at once.
class ExampleEncoder {
 public:
  /// `chat_template`: the model's Jinja text, empty where it has none. The tokenizer must live as
  /// long. Raises invalid_argument on options that name nothing.
  ExampleEncoder(const Tokenizer& tokenizer, const std::string& chat_template,
                 const DataOptions& options);

  /// A plain document, or a part of one: the first part `begins` it, the last one `ends` it.
  Sequence document(std::string_view text, bool begins = true, bool ends = true) const;
  /// Messages as record_messages() makes them.
  Sequence conversation(const Json& messages, const Json& tools = {}) const;
  /// A record of a known kind. Raises as the above, naming `where`.
  Sequence record(const Json& record, DataKind kind, const std::string& where) const;
  /// A piece of a file: parsed, unless it is plain, and encoded.
  Sequence piece(const DataPiece& p, DataKind kind, const std::string& where) const;

  /// Opens a data file for this encoder: as plain text where the kind is forced to plain, or is not
  /// forced and the file has no name of JSON.
  DataFile open(const fs::path& path, size_t piece_bytes = DataFile::kPieceBytes) const;
  /// Forced, or seen from the first record of a file.
  DataKind kind_of(const Json& first, const std::string& where) const;

 private:
  struct Encoded {
    std::vector<int32_t> ids;
    std::vector<size_t> ends;  // the byte of what the tokens spell at which each ends
    bool spelled = true;       // what they spell is the text, not one that a normalizer made of it
  };
  Encoded encode_chat(std::string_view text, const std::vector<size_t>& cuts) const;
  void learn(const ChatAnswers::Text& chat, const jinja::Span& answer, const Encoded& encoded,
             std::vector<uint8_t>& learned) const;

  const Tokenizer& tokenizer_;
  DataOptions options_;
  FieldNames names_;
  std::vector<int32_t> prefix_, suffix_;  // around a text
  bool puts_space_ = false;               // the tokenizer puts a space in front of a text
  std::unique_ptr<ChatAnswers> chat_;
};

/// Reads `path` through `encoder` and hands over its examples in order; `last` is false where the
/// next call continues the same example (a part of a long text). Pieces are encoded in parallel;
/// results do not depend on the threads. Shows progress. Memory holds some tens of megabytes,
/// however large the file.
/// Raises corrupt where a record is bad, naming the first such line, or the file holds no example.
void read_examples(const fs::path& path, const ExampleEncoder& encoder,
                   const std::function<void(const Sequence&, bool last)>& on_example,
                   size_t piece_bytes = DataFile::kPieceBytes);

}  // namespace hone
