// A text is taken in stretches from one white space to the next. A stretch of ASCII (nearly all of code) goes through
// split_ascii, which needs no code points: after simplify_text it consists of a-z and 0 only, so just two rules are
// left. Any other stretch goes through split_other, the whole of both packages' rules.
#include "dedup/datatrove.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "dedup/datatrove_tables.h"
#include "dedup/presets.h"
#include "text/fold.h"
#include "text/utf8.h"

namespace codeshell::dedup {

namespace {

namespace tables = datatrove_tables;
using text::in_ranges;

// What simplify_text makes of an ASCII character: a letter stays (in lower case), a number becomes 0, all else a gap.
enum class Ascii : uint8_t { gap, letter, digit };

constexpr std::array<Ascii, 128> make_ascii() {
  std::array<Ascii, 128> table{};
  for (int c = 0; c < 128; ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    table[c] = letter ? Ascii::letter : c >= '0' && c <= '9' ? Ascii::digit : Ascii::gap;
  }
  return table;
}

constexpr std::array<Ascii, 128> ascii = make_ascii();

// White space that no rule looks across, so that a text can be cut there.
bool is_break(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// The special words and the units. Nearly every other word is refused quickly, by its length or by its first and last
// character: bit (last & 63) of first_last_[first] is set if some special word has both.
class Lexicon {
 public:
  Lexicon() {
    // The table has the parts of a special word separated by spaces: "do nt" is the word "dont", cut after two bytes.
    for (const std::string_view divided : tables::special) {
      std::string word;
      std::vector<uint8_t> lengths(1, 0);
      for (const char c : divided) {
        if (c == ' ') {
          lengths.push_back(0);
        } else {
          word.push_back(c);
          ++lengths.back();
        }
      }
      longest_ = std::max(longest_, word.size());
      mark(word);
      special_.emplace(word, lengths);
    }
    for (const std::string_view unit : tables::units) units_.emplace(unit);
  }

  // The lengths in bytes of the parts of a special word, or null.
  const std::vector<uint8_t>* special(std::string_view word) const {
    if (word.empty() || word.size() > longest_) return nullptr;
    if (!(first_last_[static_cast<uint8_t>(word.front())] >> (word.back() & 63) & 1)) return nullptr;
    const auto found = special_.find(std::string(word));
    return found == special_.end() ? nullptr : &found->second;
  }

  bool unit(std::string_view word) const { return units_.contains(std::string(word)); }

 private:
  void mark(const std::string& word) {
    first_last_[static_cast<uint8_t>(word.front())] |= uint64_t{1} << (word.back() & 63);
  }

  std::unordered_map<std::string, std::vector<uint8_t>> special_;
  std::unordered_set<std::string> units_;
  std::array<uint64_t, 256> first_last_{};
  size_t longest_ = 0;
};

// Made at the first use, once for all threads.
const Lexicon& lexicon() {
  static const Lexicon value;
  return value;
}

// A token is bytes [begin, end) of pieces.buffer.
void add(size_t begin, size_t end, Pieces& pieces) {
  pieces.begins.push_back(static_cast<int64_t>(begin));
  pieces.ends.push_back(static_cast<int64_t>(end));
}

// The parts of a special word that begins at `at`.
void add_special(const std::vector<uint8_t>& lengths, size_t at, Pieces& pieces) {
  for (const uint8_t length : lengths) {
    add(at, at + length, pieces);
    at += length;
  }
}

// Makes tokens of the word pieces.buffer[begin ..), which consists of a-z and 0 only. `zero` is the place after its
// last 0, or `begin` if it has none. A unit after a 0 is cut off; a special word is cut into its parts.
void add_ascii_word(size_t begin, size_t zero, const Lexicon& words, Pieces& pieces) {
  // A unit counts only directly after a 0 and up to the end of the word; special words contain no 0.
  const std::string_view buffer = pieces.buffer;
  const std::string_view word = buffer.substr(begin);
  if (zero > begin && zero < buffer.size()) {
    if (words.unit(buffer.substr(zero))) {
      add(begin, zero, pieces);
      add(zero, buffer.size(), pieces);
      return;
    }
  } else if (const auto* lengths = words.special(word)) {
    add_special(*lengths, begin, pieces);
    return;
  }
  add(begin, buffer.size(), pieces);
}

// Splits a stretch of ASCII without white space in it. Punctuation separates like white space.
void split_ascii(const char* p, const char* end, const Lexicon& words, Pieces& pieces) {
  std::string& buffer = pieces.buffer;
  const auto kind = [](char c) { return ascii[static_cast<uint8_t>(c)]; };
  while (p < end) {
    if (kind(*p) == Ascii::gap) {
      ++p;
      continue;
    }
    const size_t begin = buffer.size();
    size_t zero = begin;
    // One word: letters in lower case; each number, with at most one decimal separator inside, as one 0.
    while (p < end && kind(*p) != Ascii::gap) {
      if (kind(*p) == Ascii::letter) {
        buffer.push_back(static_cast<char>(*p++ | 0x20));
        continue;
      }
      while (p < end && kind(*p) == Ascii::digit) ++p;
      if (end - p >= 2 && (*p == '.' || *p == ',') && kind(p[1]) == Ascii::digit) {
        ++p;
        while (p < end && kind(*p) == Ascii::digit) ++p;
      }
      buffer.push_back('0');
      zero = buffer.size();
    }
    add_ascii_word(begin, zero, words, pieces);
  }
}

// Applies the rules of spaCy's tokenizer to one word, given as code points `codes`. The same word is appended to
// pieces.buffer as UTF-8, where character i begins at at_[i] (and at_[size] is its end).
//
//   word = prefix prefix ... | middle | ... suffix suffix       cut from both ends, until nothing more comes off
//          [0, first)          [first, last)   [last, size)
class WordCutter {
 public:
  WordCutter(const Lexicon& words, Pieces& pieces) : words_(words), pieces_(pieces) {}

  // Appends the tokens of one word.
  void cut(const uint32_t* codes, size_t size) {
    at_.clear();
    for (size_t i = 0; i < size; ++i) {
      at_.push_back(pieces_.buffer.size());
      char encoded[4];
      pieces_.buffer.append(encoded, text::encode(codes[i], encoded));
    }
    at_.push_back(pieces_.buffer.size());
    // Cut prefixes and suffixes, one of each per round. As in spaCy, a special word ends the cutting at once, whether
    // it is the rest itself, the rest without the prefix, or the rest without the suffix.
    const size_t first_token = pieces_.begins.size();
    size_t first = 0, last = size, before;
    suffixes_.clear();
    do {
      before = last - first;
      if (special(first, last)) break;
      // A special word without this prefix ends the cutting.
      const bool prefix = in_ranges(tables::prefix, codes[first]);
      if (prefix && special(first + 1, last)) {
        add(at_[first], at_[first + 1], pieces_);
        ++first;
        break;
      }
      // A special word without this suffix does too.
      const size_t cut = suffix(codes, first + prefix, last);
      if (cut && special(first, last - cut)) {
        suffixes_.push_back(last - cut);
        last -= cut;
        break;
      }
      // Neither: cut both, and try again.
      if (prefix) {
        add(at_[first], at_[first + 1], pieces_);
        ++first;
      }
      if (cut) {
        suffixes_.push_back(last - cut);
        last -= cut;
      }
    } while (first < last && last - first != before);
    // The middle, then the suffixes: these were found from the end inwards, so their tokens are reversed.
    if (first < last) add_middle(codes, first, last);
    size_t end = size;
    const size_t inner = pieces_.begins.size();
    for (const size_t begin : suffixes_) {
      add(at_[begin], at_[end], pieces_);
      end = begin;
    }
    std::reverse(pieces_.begins.begin() + static_cast<std::ptrdiff_t>(inner), pieces_.begins.end());
    std::reverse(pieces_.ends.begin() + static_cast<std::ptrdiff_t>(inner), pieces_.ends.end());
    join_special(first_token);
  }

 private:
  // The bytes of a token, of a range of the buffer, and the special word (or null) of characters [first, last).
  std::string_view piece(size_t token) const { return bytes(pieces_.begins[token], pieces_.ends[token]); }
  std::string_view bytes(size_t begin, size_t end) const {
    return std::string_view(pieces_.buffer).substr(begin, end - begin);
  }
  const std::vector<uint8_t>* special(size_t first, size_t last) const {
    return words_.special(bytes(at_[first], at_[last]));
  }

  // The number of characters of the longest suffix of codes[first .. last): a unit after the last 0, or one character.
  size_t suffix(const uint32_t* codes, size_t first, size_t last) const {
    if (first == last) return 0;
    size_t zero = last;
    while (zero > first && codes[zero - 1] != '0') --zero;
    if (zero > first && zero < last && words_.unit(bytes(at_[zero], at_[last]))) return last - zero;
    return in_ranges(tables::suffix, codes[last - 1]);
  }

  // Cuts what is left at infixes: symbols anywhere, and < = > only between letters (or after a 0). An infix is a token
  // too.
  void add_middle(const uint32_t* codes, size_t first, size_t last) {
    if (const auto* lengths = special(first, last)) return add_special(*lengths, at_[first], pieces_);
    size_t start = first;
    for (size_t i = first + 1; i < last; ++i) {
      // Before it a letter or a 0, after it a letter.
      const bool between = in_ranges(tables::between, codes[i]) && i + 1 < last &&
                           (codes[i - 1] == '0' || in_ranges(tables::alpha, codes[i - 1])) &&
                           in_ranges(tables::alpha, codes[i + 1]);
      if (!between && !in_ranges(tables::infix, codes[i])) continue;
      if (i > start) add(at_[start], at_[i], pieces_);
      add(at_[i], at_[i + 1], pieces_);
      start = i + 1;
    }
    if (start < last) add(at_[start], at_[last], pieces_);
  }

  // At the end spaCy looks among the tokens for special words that contain a prefix or a suffix, and joins them again.
  // Only two can still occur.
  void join_special(size_t first) {
    const auto join = [&](size_t token, size_t count) {
      const auto at = static_cast<std::ptrdiff_t>(token), end = static_cast<std::ptrdiff_t>(token + count - 1);
      pieces_.begins.erase(pieces_.begins.begin() + at + 1, pieces_.begins.begin() + end + 1);
      pieces_.ends.erase(pieces_.ends.begin() + at, pieces_.ends.begin() + end);
    };
    for (size_t t = first; t + 1 < pieces_.begins.size(); ++t) {
      if (piece(t) == "\u2018" && piece(t + 1) == "s") {
        join(t, 2);
      } else if (piece(t) == "<" && t + 2 < pieces_.begins.size() && piece(t + 1) == "space" && piece(t + 2) == ">") {
        join(t, 3);
      }
    }
  }

  const Lexicon& words_;
  Pieces& pieces_;
  std::vector<size_t> at_, suffixes_;
};

// Splits a stretch without ASCII white space, in code points.
void split_other(std::string_view stretch, const Lexicon& words, Pieces& pieces) {
  // simplify_text, in its order. 1: lower case.
  std::vector<uint32_t>& codes = pieces.codes;
  codes.clear();
  for (size_t at = 0; at < stretch.size();) {
    const text::CodePoint c = text::decode(stretch.data() + at, stretch.data() + stretch.size());
    text::append_lower(c.code, stretch, at, at + c.size, codes);
    at += c.size;
  }
  // A digit of any script, and the decimal separators that datatrove knows.
  const auto is_digit = [&codes](size_t i) {
    return i < codes.size() && (codes[i] < 0x80 ? codes[i] - '0' < 10 : in_ranges(tables::digit, codes[i]));
  };
  const auto is_point = [&codes](size_t i) {
    constexpr std::u32string_view points = U".,\u060C\u066B\u2396\u2397\u2398";
    return i < codes.size() && points.find(codes[i]) != points.npos;
  };
  // 2 and 3: numbers become 0, punctuation and white space become a space; both in place, for nothing grows.
  size_t kept = 0;
  for (size_t i = 0; i < codes.size();) {
    if (is_digit(i)) {
      // One number: digits, at most one separator, digits.
      while (is_digit(i)) ++i;
      if (is_point(i) && is_digit(i + 1)) {
        ++i;
        while (is_digit(i)) ++i;
      }
      codes[kept++] = '0';
      continue;
    }
    const bool gap = in_ranges(tables::punctuation, codes[i]) || text::is_space(codes[i]);
    codes[kept++] = gap ? ' ' : codes[i];
    ++i;
  }
  codes.resize(kept);
  // 4 and 5: decompose, and drop the nonspacing marks.
  text::decompose(codes, pieces.spare);
  std::erase_if(codes, text::is_nonspacing);
  // Then the words, by spaCy's rules.
  WordCutter cutter(words, pieces);
  for (size_t i = 0; i < codes.size();) {
    if (codes[i] == ' ') {
      ++i;
      continue;
    }
    size_t last = i;
    while (last < codes.size() && codes[last] != ' ') ++last;
    cutter.cut(codes.data() + i, last - i);
    i = last;
  }
}

}  // namespace

void split_datatrove(std::string_view raw, Pieces& pieces) {
  const std::string_view text = text::well_formed(raw, pieces.repaired);
  const Lexicon& words = lexicon();
  pieces.buffer.clear();
  pieces.buffer.reserve(text.size());
  pieces.begins.clear();
  pieces.ends.clear();
  const char *p = text.data(), *const end = p + text.size();
  while (p < end) {
    // ASCII up to the white space before the next other character, then that character's whole stretch.
    const char* const other = text::skip_ascii(p, end);
    const char* stop = other;  // back to the beginning of the stretch that is not ASCII
    while (other < end && stop > p && !is_break(stop[-1])) --stop;
    split_ascii(p, stop, words, pieces);
    p = stop;
    // Up to the next white space; empty if there was only ASCII.
    while (stop < end && !is_break(*stop)) ++stop;
    if (p < stop) split_other({p, static_cast<size_t>(stop - p)}, words, pieces);
    p = stop;
  }
  pieces.bytes = pieces.buffer;
}

}  // namespace codeshell::dedup
