#include "text/tokenizer_file.h"

#include <cmath>
#include <optional>
#include <set>

#include "base/error.h"
#include "text/unicode.h"

namespace hone {
namespace {

constexpr size_t kMaxDepth = 64;

// Receives the parser's events. Where an event belongs is the top of a stack of open containers.
class Handler {
 public:
  using number_integer_t = Json::number_integer_t;
  using number_unsigned_t = Json::number_unsigned_t;
  using number_float_t = Json::number_float_t;
  using string_t = Json::string_t;
  using binary_t = Json::binary_t;

  Handler(TokenizerFile& file, const std::string& source) : file_(file), source_(source) {}

  bool null() { return value(Json()); }
  bool boolean(bool v) { return value(v); }
  bool number_float(number_float_t v, const string_t&) {
    return place() == Place::piece ? score(v) : value(v);
  }
  bool binary(binary_t&) { return false; }
  bool number_integer(number_integer_t v) {
    if (place() == Place::piece) return score(static_cast<double>(v));
    return place() == Place::vocabulary ? token(v) : value(v);
  }
  bool number_unsigned(number_unsigned_t v) {
    if (place() == Place::piece) return score(static_cast<double>(v));
    if (place() != Place::vocabulary) return value(v);
    HONE_CHECK(v <= INT64_MAX, corrupt, "{}: a token id of {}", source_, v);
    return token(static_cast<int64_t>(v));
  }

  bool string(string_t& v) {
    if (place() == Place::merges) return merge(v);
    if (place() == Place::piece) return piece(v);
    if (place() != Place::merge) return value(std::move(v));
    HONE_CHECK(parts_ < 2, corrupt, "{}: merge {} has more than two parts", source_,
               file_.merges.size());
    if (parts_++ == 0) {
      left_ = v;
      return true;
    }
    file_.merge_cuts.push_back(static_cast<uint32_t>(left_.size()));
    file_.merges.push_back(left_ + ' ' + v);
    return true;
  }

  bool start_object(size_t) {
    if (at_model() && key_ == "vocab") {
      file_.has_vocabulary = true;
      return open(Place::vocabulary, nullptr);
    }
    return open(Place::object, add(Json::object()));
  }
  bool start_array(size_t) {
    if (place() == Place::merges) {
      parts_ = 0;
      return open(Place::merge, nullptr);
    }
    if (place() == Place::pieces) {
      parts_ = 0;
      return open(Place::piece, nullptr);
    }
    if (at_model() && key_ == "vocab") {
      file_.has_vocabulary = file_.has_scores = true;
      return open(Place::pieces, nullptr);
    }
    if (at_model() && key_ == "merges") {
      file_.has_merges = true;
      return open(Place::merges, nullptr);
    }
    return open(Place::array, add(Json::array()));
  }
  bool end_object() { return close(); }
  bool end_array() {
    HONE_CHECK(place() != Place::merge || parts_ == 2, corrupt,
               "{}: merge {} has fewer than two parts", source_, file_.merges.size());
    HONE_CHECK(place() != Place::piece || parts_ == 2, corrupt,
               "{}: the entry of token {} is not a text and a score", source_, file_.scores.size());
    return close();
  }

  bool key(string_t& v) {
    key_ = std::move(v);
    if (place() == Place::vocabulary) return true;
    HONE_CHECK(stack_.back().keys.insert(key_).second, corrupt, "{}: the key {} appears twice",
               source_, printed(key_));
    return true;
  }

  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& e) {
    fail(ErrorKind::corrupt, "{}: not valid JSON: {}", source_, printed(e.what()));
  }

 private:
  enum class Place { top, object, array, vocabulary, merges, merge, pieces, piece };
  struct Open {
    Place place;
    Json* container;
    std::set<std::string> keys;
    std::string key;  // under which it stands
  };

  Place place() const { return stack_.empty() ? Place::top : stack_.back().place; }
  bool at_model() const {
    return stack_.size() == 2 && place() == Place::object && stack_.back().key == "model";
  }

  bool open(Place place, Json* container) {
    HONE_CHECK(stack_.size() < kMaxDepth, corrupt, "{}: JSON nested deeper than {} levels", source_,
               kMaxDepth);
    stack_.push_back({place, container, {}, key_});
    return true;
  }
  bool close() {
    stack_.pop_back();
    return true;
  }

  // Appends a value to the open container. Values of an object are appended unseen: its own insert
  // would look through all of them.
  Json* add(Json v) {
    switch (place()) {
      case Place::top:
        file_.document = std::move(v);
        return &file_.document;
      case Place::object: {
        auto& object = stack_.back().container->get_ref<Json::object_t&>();
        object.push_back({key_, std::move(v)});
        return &object.back().second;
      }
      case Place::array: {
        auto& array = stack_.back().container->get_ref<Json::array_t&>();
        array.push_back(std::move(v));
        return &array.back();
      }
      default:
        fail(ErrorKind::corrupt,
             "{}: the vocabulary or the merges hold a {}, after {} tokens and {} "
             "merges",
             source_, v.type_name(), file_.vocabulary.size(), file_.merges.size());
    }
  }
  bool value(Json v) {
    add(std::move(v));
    return true;
  }

  bool token(int64_t id) {
    file_.vocabulary.emplace_back(std::move(key_), id);
    return true;
  }

  // A token with a score: first its text, then the score.
  bool piece(std::string& text) {
    HONE_CHECK(parts_++ == 0, corrupt, "{}: the entry of token {} is not a text and a score",
               source_, file_.scores.size());
    file_.vocabulary.emplace_back(std::move(text), std::ssize(file_.vocabulary));
    return true;
  }
  bool score(double v) {
    HONE_CHECK(parts_++ == 1 && std::isfinite(v), corrupt,
               "{}: the entry of token {} is not a text and a score", source_, file_.scores.size());
    file_.scores.push_back(v);
    return true;
  }

  bool merge(const std::string& text) {
    const size_t space = text.find(' ');
    HONE_CHECK(space != text.npos && text.size() < UINT32_MAX, corrupt,
               "{}: merge {} is {}; expected two tokens and a space between", source_,
               file_.merges.size(), printed(text));
    file_.merges.push_back(text);
    file_.merge_cuts.push_back(static_cast<uint32_t>(space));
    return true;
  }

  TokenizerFile& file_;
  const std::string& source_;
  std::vector<Open> stack_;
  std::string key_;
  int parts_ = 0;  // of the merge or the piece that is open
  std::string left_;
};

}  // namespace

TokenizerFile read_tokenizer_file(std::string_view text, const std::string& source) {
  TokenizerFile file;
  Handler handler(file, source);
  Json::sax_parse(text.begin(), text.end(), &handler);
  return file;
}

}  // namespace hone
