// What a record of training data is, by the names of its fields, and how each kind becomes either a
// text or a conversation.
//
//   kind           fields (in brackets: may be absent)
//   messages       messages: [{role, content}], [tools]
//   conversations  conversations: [{from, value}] (ShareGPT), [system]
//   instruction    instruction, [input], output (Alpaca), [system]
//   completion     prompt, completion, [system]
//   question       question, answer (GSM8K), [system]
//   text           text; or the record is a string
//   plain          no record: a stretch of a text file
//
// A record is of the first kind in this order whose fields it has.
#pragma once

#include <map>
#include <string>

#include "base/json.h"

namespace hone {

enum class DataKind { messages, conversations, instruction, completion, question, text, plain };

const char* data_kind_name(DataKind kind);
/// Raises invalid_argument, with the names there are, on any other.
DataKind data_kind_of_name(const std::string& name);

/// The names of the fields in a file, where they are not the usual ones.
class FieldNames {
 public:
  FieldNames() = default;
  /// "usual=actual,usual=actual". Raises invalid_argument on anything else, and on a usual name
  /// that no kind has.
  explicit FieldNames(const std::string& spec);
  /// The file's name for a usual one.
  const std::string& operator()(const std::string& usual) const;

 private:
  std::map<std::string, std::string> actual_;
};

/// The kind of `record`; raises corrupt, naming `where` and the fields found, where it is none.
DataKind detect_kind(const Json& record, const FieldNames& names, const std::string& where);

/// The text of a record of kind text. Raises corrupt, naming `where`, on a missing or mistyped
/// field.
std::string record_text(const Json& record, const FieldNames& names, const std::string& where);

/// The conversation of a record of any other kind but plain: a list of {role, content, ...} with
/// the roles system, user, assistant, tool and what else the file says. An instruction's input
/// follows it behind an empty line. Raises corrupt, naming `where`.
Json record_messages(const Json& record, DataKind kind, const FieldNames& names,
                     const std::string& where);

/// The record's list of tools for the chat template, or null.
Json record_tools(const Json& record, const FieldNames& names);

}  // namespace hone
