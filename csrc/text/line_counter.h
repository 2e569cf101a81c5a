// The part of the lexical measures that is about lines: their lengths, indentation and kinds, and lines that come
// again. The lexer tells it what it found on a line, and where the line ends.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "text/find.h"
#include "text/lexical.h"

namespace codeshell::text {

// A count divided by another; `otherwise` where there is nothing to divide by.
inline double ratio(int64_t part, int64_t whole, double otherwise = 0.0) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : otherwise;
}

class LineCounter {
 public:
  LineCounter(int64_t limit, bool ascii, Counts& seen, const char* text, size_t size)
      : limit_(limit), ascii_(ascii), seen_(seen), text_(text), end_(text + size) {
    seen_.clear(std::min(size, repetition_bytes) / 32);
  }

  // What the lexer notes on the present line; `end` forgets it.
  bool code = false;       // a token
  bool comment = false;    // a comment or a docstring
  bool continued = false;  // begins within brackets or a string: its indentation says nothing
  bool crowded = false;    // a token after a semicolon
  bool semicolon = false;  // the last token is a semicolon

  int64_t characters(const char* from, const char* to) const {
    const auto size = static_cast<size_t>(to - from);
    return ascii_ ? static_cast<int64_t>(size) : count_characters(from, size);
  }

  // Ends the line [begin, stop), line end apart. [begin, first) are spaces and tabs that the lexer has passed; it passes
  // none where a line begins within a string or a comment.
  void end(const char* begin, const char* first, const char* stop) {
    if (first == begin) first = skip_spaces_and_tabs(begin, stop);
    while (first < stop && is_blank(*first)) ++first;
    lines_ += 1;
    if (first == stop) {
      blank_lines_ += 1;
      blank_runs_ += after_blank_;
      after_blank_ = true;
    } else {
      after_blank_ = false;
      filled(begin, first, stop);
    }
    forget();
  }

  // What was noted on the present line counts no more.
  void forget() { code = comment = continued = crowded = semicolon = false; }

  int64_t code_lines() const { return code_lines_; }
  int64_t comment_lines() const { return lines_ - blank_lines_ - code_lines_; }
  int64_t filled_lines() const { return lines_ - blank_lines_; }

  void finish(Row& row) const {
    const int64_t filled = filled_lines(), comments = comment_lines();
    at(row, Column::code_lines) = static_cast<double>(code_lines_);
    at(row, Column::comment_lines) = static_cast<double>(comments);
    at(row, Column::blank_lines) = static_cast<double>(blank_lines_);
    at(row, Column::blank_share) = ratio(blank_lines_, lines_);
    at(row, Column::comment_line_share) = ratio(comments, filled);
    // The spread from sums of integers, which are exact: sqrt(n * sum of squares - square of the sum) / n.
    if (filled > 0) {
      const auto n = static_cast<long double>(filled), sum = static_cast<long double>(length_);
      const long double variance = n * static_cast<long double>(squares_) - sum * sum;
      at(row, Column::line_spread) =
          std::sqrt(static_cast<double>(variance > 0 ? variance : 0)) / static_cast<double>(filled);
    }
    at(row, Column::line_median) = quantile(filled, 1, 2);
    at(row, Column::line_p90) = quantile(filled, 9, 10);
    at(row, Column::long_lines) = ratio(long_lines_, filled);
    at(row, Column::crowded_lines) = ratio(crowded_lines_, code_lines_);
    at(row, Column::semicolons) = ratio(semicolon_lines_, code_lines_);
    at(row, Column::blank_runs) = ratio(blank_runs_, blank_lines_);
    at(row, Column::trailing_blanks) = ratio(trailing_, filled);
    finish_indentation(row);
    at(row, Column::duplicate_lines) = ratio(repeated_lines_, compared_lines_);
    at(row, Column::duplicate_text) = ratio(repeated_bytes_, compared_bytes_);
  }

 private:
  static constexpr size_t deepest_counted = 96;   // columns
  static constexpr size_t longest_counted = 511;  // characters, for the quantiles

  // Whether all bytes of [p, stop) are the first of them.
  bool repeats(const char* p, const char* stop) const {
    const auto size = static_cast<size_t>(stop - p);
    if (size <= 16) {
      const HashBlock block = load_block(p, size, end_);
      constexpr uint64_t ones = 0x0101010101010101u;
      const uint64_t byte = static_cast<uint8_t>(*p) * ones;
      const uint64_t low = size >= 8 ? ~uint64_t{0} : (uint64_t{1} << (8 * size)) - 1;
      const uint64_t high = size >= 16 ? ~uint64_t{0} : size <= 8 ? 0 : (uint64_t{1} << (8 * (size - 8))) - 1;
      return block.low == (byte & low) && block.high == (byte & high);
    }
    return std::memcmp(p, p + 1, size - 1) == 0;
  }

  static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\v' || c == '\f'; }

  // A line with something on it, from `first` on.
  void filled(const char* begin, const char* first, const char* stop) {
    const int64_t length = characters(begin, stop);
    length_ += length;
    squares_ += static_cast<unsigned __int128>(length) * static_cast<unsigned __int128>(length);
    lengths_[std::min(static_cast<size_t>(length), longest_counted)] += 1;
    long_lines_ += length > limit_;
    trailing_ += is_blank(stop[-1]);
    if (code || !comment) {
      code_lines_ += 1;
      crowded_lines_ += crowded;
      semicolon_lines_ += semicolon;
      if (!continued) indentation(begin, first);
    }
    // The same line, blanks around it apart.
    if (compared_lines_ < repetition_items && begin - text_ < static_cast<std::ptrdiff_t>(repetition_bytes)) {
      const char* last = stop;
      while (is_blank(last[-1])) --last;
      const auto size = static_cast<size_t>(last - first);
      const bool again = seen_.add(hash_bytes(first, size, end_)) > 0;
      compared_lines_ += 1;
      compared_bytes_ += static_cast<int64_t>(size);
      repeated_lines_ += again;
      repeated_bytes_ += again ? static_cast<int64_t>(size) : 0;
    }
  }

  // Columns of the indentation (a tab reaches to the next multiple of four) and what it is made of.
  void indentation(const char* begin, const char* first) {
    // Nearly always there are spaces alone, or tabs alone.
    const int64_t width = first - begin;
    const bool one_kind = width == 0 || repeats(begin, first);
    int64_t columns = width;
    bool tab = width > 0 && *begin == '\t', blank = width > 0 && !tab;
    if (one_kind) {
      columns = tab ? 4 * width : width;
    } else {
      columns = 0;
      for (const char* p = begin; p < first; ++p) {
        tab |= *p == '\t';
        blank |= *p != '\t';
        columns += *p == '\t' ? 4 - columns % 4 : 1;
      }
    }
    indented_from_ += 1;
    columns_ += columns;
    deepest_ = std::max(deepest_, columns);
    tabs_ += tab && !blank;
    blanks_ += blank && !tab;
    both_ += blank && tab;
    if (!tab) {
      depths_[std::min(static_cast<size_t>(columns), deepest_counted)] += 1;
      const int64_t rise = columns - before_;
      if (rise > 0 && rise <= 16) rises_[static_cast<size_t>(rise)] += 1;
    }
    before_ = tab ? std::numeric_limits<int64_t>::max() / 2 : columns;
  }

  void finish_indentation(Row& row) const {
    const int64_t indented = tabs_ + blanks_ + both_;
    // The commonest rise from one line to the next; of equally common ones the smallest.
    const auto top = std::max_element(rises_.begin(), rises_.end());
    const int64_t unit = *top > 0 && blanks_ > tabs_ ? top - rises_.begin() : 0;
    int64_t steady = 0, counted = 0;
    for (size_t depth = 0; depth <= deepest_counted; ++depth) {
      counted += depths_[depth];
      if (depth == deepest_counted || !unit || static_cast<int64_t>(depth) % unit == 0) steady += depths_[depth];
    }
    at(row, Column::indent_unit) = static_cast<double>(unit);
    at(row, Column::indent_tabs) = ratio(tabs_, indented);
    at(row, Column::indent_mixed) = ratio(indented - std::max(tabs_, blanks_), indented);
    at(row, Column::indent_steady) = unit ? ratio(steady, counted, 1.0) : 1.0;
    at(row, Column::indent_mean) = ratio(columns_, indented_from_);
    at(row, Column::indent_deepest) = static_cast<double>(deepest_);
  }

  // The smallest length that the share numerator/denominator of the lines do not exceed.
  double quantile(int64_t filled, int64_t numerator, int64_t denominator) const {
    int64_t below = 0;
    for (size_t length = 0; length <= longest_counted; ++length) {
      below += lengths_[length];
      if (below > 0 && below * denominator >= filled * numerator) return static_cast<double>(length);
    }
    return 0.0;
  }

  const int64_t limit_;
  const bool ascii_;
  Counts& seen_;
  const char* const text_;
  const char* const end_;

  int64_t lines_ = 0, code_lines_ = 0, blank_lines_ = 0, blank_runs_ = 0;
  bool after_blank_ = false;
  int64_t length_ = 0, long_lines_ = 0, trailing_ = 0, crowded_lines_ = 0, semicolon_lines_ = 0;
  unsigned __int128 squares_ = 0;
  std::array<int64_t, longest_counted + 1> lengths_{};
  int64_t indented_from_ = 0, columns_ = 0, deepest_ = 0, tabs_ = 0, blanks_ = 0, both_ = 0, before_ = 0;
  std::array<int64_t, deepest_counted + 1> depths_{};
  std::array<int64_t, 17> rises_{};
  int64_t compared_lines_ = 0, compared_bytes_ = 0, repeated_lines_ = 0, repeated_bytes_ = 0;
};

}  // namespace codeshell::text
