// Strings: a list of strings in one block of memory. A vocabulary of 50,000 short texts is two
// allocations and a quarter of what as many std::string take.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace hone {

/// Copies share their memory until one of them is changed. Views into it hold until then.
class Strings {
 public:
  Strings() = default;
  Strings(std::initializer_list<std::string_view> texts) {
    for (std::string_view t : texts) push_back(t);
  }
  explicit Strings(const std::vector<std::string>& texts) {
    for (const std::string& t : texts) push_back(t);
  }

  size_t size() const { return data_ ? data_->places.size() : 0; }
  bool empty() const { return size() == 0; }
  std::string_view operator[](size_t i) const {
    const Place p = data_->places[i];
    return {data_->text.data() + p.begin, p.size};
  }
  std::string_view back() const { return (*this)[size() - 1]; }

  /// Raises unsupported where all texts together reach 4 GiB.
  void push_back(std::string_view text) {
    Data& d = own();
    const Place place = d.append(text);
    d.places.push_back(place);
  }
  void set(size_t i, std::string_view text) {
    Data& d = own();
    d.places[i] = d.append(text);
  }
  /// New ones are empty.
  void resize(size_t n) { own().places.resize(n); }
  void reserve(size_t n) { own().places.reserve(n); }
  /// Gives back memory that was taken to grow into.
  void shrink_to_fit() {
    Data& d = own();
    d.places.shrink_to_fit();
    d.text.shrink_to_fit();
  }
  void clear() { data_ = nullptr; }

  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = std::string_view;
    using difference_type = std::ptrdiff_t;
    using pointer = const std::string_view*;
    using reference = std::string_view;
    Iterator(const Strings* of, size_t at) : of_(of), at_(at) {}
    std::string_view operator*() const { return (*of_)[at_]; }
    Iterator& operator++() {
      ++at_;
      return *this;
    }
    bool operator==(const Iterator& o) const { return at_ == o.at_; }

   private:
    const Strings* of_;
    size_t at_;
  };
  Iterator begin() const { return {this, 0}; }
  Iterator end() const { return {this, size()}; }

  bool operator==(const Strings& o) const {
    if (size() != o.size()) return false;
    for (size_t i = 0; i < size(); ++i)
      if ((*this)[i] != o[i]) return false;
    return true;
  }

 private:
  struct Place {
    uint32_t begin = 0, size = 0;
  };
  struct Data {
    std::string text;
    std::vector<Place> places;

    Place append(std::string_view more) {
      HONE_CHECK(more.size() < UINT32_MAX - text.size(), unsupported,
                 "a list of strings of 4 GiB or more");
      const Place p{static_cast<uint32_t>(text.size()), static_cast<uint32_t>(more.size())};
      text += more;
      return p;
    }
  };

  Data& own() {
    if (!data_)
      data_ = std::make_shared<Data>();
    else if (data_.use_count() > 1)
      data_ = std::make_shared<Data>(*data_);
    return *data_;
  }

  std::shared_ptr<Data> data_;
};

}  // namespace hone
