#include "text/contamination.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

namespace codeshell::text {

namespace {

// The first byte of a character that is a token by itself, of three bytes: kana, Han, Hangul.
constexpr bool is_alone(int byte) { return byte >= 0xE3 && byte <= 0xED; }

// The first byte of three of signs that separate: U+2000 to 2FFF (dashes, quotes, arrows) and U+F000 to FFFF (full-width
// forms, the byte order mark).
constexpr bool is_sign(int byte) { return byte == 0xE2 || byte == 0xEF; }

// The byte in lower case if a longer token may hold it, else 0.
constexpr std::array<uint8_t, 256> make_inside() {
  std::array<uint8_t, 256> inside{};
  for (int c = 0; c < 256; ++c) {
    const bool digit = c >= '0' && c <= '9', small = c >= 'a' && c <= 'z', capital = c >= 'A' && c <= 'Z';
    const bool taken = digit || small || c == '_' || (c >= 0x80 && !is_alone(c) && !is_sign(c));
    inside[static_cast<size_t>(c)] = static_cast<uint8_t>(capital ? c + 32 : taken ? c : 0);
  }
  return inside;
}
constexpr std::array<uint8_t, 256> inside = make_inside();

// A byte of a token in lower case.
char lowered(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v'; }

// SplitMix64's finaliser, a bijection in which every input bit reaches every output bit.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

constexpr uint64_t base = 0x9E3779B97F4A7C15u;

// The filter is a table of words of 64 bits, in one of which each window has three. Nearly every window of every text
// ends there, at one product and one look into a table that stays in the cache.
struct Place {
  size_t word;
  uint64_t bits;
};

Place place_of(uint64_t window, size_t length, int shift) {
  const uint64_t hash = (window ^ length) * base;
  const uint64_t bits = uint64_t{1} << (hash & 63) | uint64_t{1} << (hash >> 6 & 63) | uint64_t{1} << (hash >> 12 & 63);
  return {static_cast<size_t>(hash >> shift), bits};
}

// The hash of a window of tokens t0 … is t0 B^(L-1) + … + t(L-1): it follows the window with two products.
uint64_t power(size_t exponent) {
  uint64_t result = 1;
  for (size_t i = 0; i < exponent; ++i) result *= base;
  return result;
}

// Calls `take(begin, end, hash)` for each token of text, in order.
template <class Take>
void for_each_token(std::string_view text, Take&& take) {
  const auto* const data = reinterpret_cast<const uint8_t*>(text.data());
  const size_t size = text.size();
  // FNV-1a, whose upper bits are folded into the lower ones. What is equal is compared later, so it need not be better.
  constexpr uint64_t start = 0xCBF29CE484222325u, prime = 0x100000001B3u;
  for (size_t at = 0; at < size;) {
    const size_t begin = at;
    uint64_t hash = start;
    for (uint8_t c; at < size && (c = inside[data[at]]); ++at) hash = (hash ^ c) * prime;
    if (at == begin) {
      // U+3000 to 303F are signs too.
      if (!is_alone(data[at]) || (data[at] == 0xE3 && at + 1 < size && data[at + 1] == 0x80)) {
        at += data[at] < 0x80 ? 1 : std::min<size_t>(size - at, 3);
        continue;
      }
      for (const size_t end = std::min(size, at + 3); at < end; ++at) hash = (hash ^ data[at]) * prime;
    }
    take(begin, at, hash ^ (hash >> 29));
  }
}

}  // namespace

// The last tokens of a text: a ring of where they are, and their hashes.
struct ContaminationIndex::Window {
  std::array<size_t, max_tokens> begin, end;
  std::array<uint64_t, max_tokens> hash;
  size_t count = 0;  // tokens so far; token i is at i % max_tokens

  void add(size_t from, size_t to, uint64_t value) {
    const size_t at = count++ % max_tokens;
    begin[at] = from;
    end[at] = to;
    hash[at] = value;
  }
};

ContaminationIndex::ContaminationIndex(std::span<const std::string_view> parts, size_t n, size_t shortest) : n_(n) {
  if (shortest < 1 || shortest > n || n > max_tokens) throw std::invalid_argument("1 <= shortest <= n <= 64");
  // Every n-gram of every part, with the part's number; equal ones are joined below.
  struct Found {
    Gram gram;
    uint32_t part;
    uint64_t window;
  };
  std::vector<Found> found;
  total_.assign(parts.size(), 0);
  std::vector<uint64_t> hashes;
  for (size_t part = 0; part < parts.size(); ++part) {
    const std::string_view text = parts[part];
    const size_t first = tokens_.size();
    hashes.clear();
    size_t begin = text.size(), end = 0;
    for_each_token(text, [&](size_t from, size_t to, uint64_t hash) {
      tokens_.push_back({static_cast<uint32_t>(bytes_.size()), static_cast<uint32_t>(to - from)});
      for (size_t i = from; i < to; ++i) {
        bytes_.push_back(lowered(text[i]));
      }
      hashes.push_back(hash);
      begin = std::min(begin, from);
      end = to;
    });
    if (bytes_.size() > std::numeric_limits<uint32_t>::max() || found.size() > (1u << 28)) {
      throw std::invalid_argument("more than 4 GiB of text, or 2^28 n-grams");
    }
    const size_t count = hashes.size(), length = std::min(count, n);
    if (count < shortest) continue;
    for (size_t at = 0; at + length <= count; ++at) {
      uint64_t key = 0;
      for (size_t i = 0; i < length; ++i) key = key * base + hashes[at + i];
      Gram gram{mix(key ^ length), static_cast<uint32_t>(first + at), static_cast<uint32_t>(length), 0, 0, 0, 0};
      if (length < n) {
        gram.exact_begin = static_cast<uint32_t>(exact_.size());
        for (const char c : text.substr(begin, end - begin)) {
          if (!is_blank(c)) exact_.push_back(c);
        }
        gram.exact_size = static_cast<uint32_t>(exact_.size() - gram.exact_begin);
      }
      found.push_back({gram, static_cast<uint32_t>(part), key});
    }
    if (std::find(lengths_.begin(), lengths_.end(), length) == lengths_.end()) {
      lengths_.push_back(static_cast<uint32_t>(length));
    }
  }
  // Equal n-grams stand together, ordered by what they are and then by their part.
  const auto words = [&](const Gram& gram) {
    const Token &a = tokens_[gram.token], &b = tokens_[gram.token + gram.length - 1];
    return std::string_view(bytes_).substr(a.begin, b.begin + b.size - a.begin);
  };
  const auto exact = [&](const Gram& gram) {
    return std::string_view(exact_).substr(gram.exact_begin, gram.exact_size);
  };
  const auto same_sizes = [&](const Gram& a, const Gram& b) {
    for (uint32_t i = 0; i < a.length; ++i) {
      if (tokens_[a.token + i].size != tokens_[b.token + i].size) return false;
    }
    return true;
  };
  const auto sizes_less = [&](const Gram& a, const Gram& b) {
    for (uint32_t i = 0; i < a.length; ++i) {
      const uint32_t x = tokens_[a.token + i].size, y = tokens_[b.token + i].size;
      if (x != y) return x < y;
    }
    return false;
  };
  std::sort(found.begin(), found.end(), [&](const Found& a, const Found& b) {
    if (a.gram.key != b.gram.key) return a.gram.key < b.gram.key;
    if (a.gram.length != b.gram.length) return a.gram.length < b.gram.length;
    if (const int order = words(a.gram).compare(words(b.gram))) return order < 0;
    if (!same_sizes(a.gram, b.gram)) return sizes_less(a.gram, b.gram);
    if (const int order = exact(a.gram).compare(exact(b.gram))) return order < 0;
    return a.part < b.part;
  });
  for (size_t i = 0; i < found.size(); ++i) {
    const Gram& gram = found[i].gram;
    const bool equal = i > 0 && grams_.back().key == gram.key && grams_.back().length == gram.length &&
                       words(grams_.back()) == words(gram) && same_sizes(grams_.back(), gram) &&
                       exact(grams_.back()) == exact(gram);
    if (!equal) {
      grams_.push_back(gram);
      grams_.back().parts_begin = static_cast<uint32_t>(parts_.size());
    }
    // A part that has the n-gram twice counts it once.
    Gram& last = grams_.back();
    if (last.parts_size && parts_.back() == found[i].part) continue;
    parts_.push_back(found[i].part);
    ++last.parts_size;
    ++total_[found[i].part];
  }
  // Half empty, so that a search ends soon. n-grams of one key (a collision, or short parts that differ in their
  // brackets) are neighbours in `grams_`; the table leads to the first of them.
  const size_t slots = std::bit_ceil(2 * grams_.size() + 2);
  table_.assign(slots, 0);
  const size_t words_of_filter = std::max<size_t>(2, std::bit_ceil(grams_.size() / 4 + 1));  // 16 bits for each
  filter_.assign(words_of_filter, 0);
  filter_shift_ = 64 - std::countr_zero(words_of_filter);
  for (const Found& one : found) {
    const Place place = place_of(one.window, one.gram.length, filter_shift_);
    filter_[place.word] |= place.bits;
  }
  for (size_t i = 0; i < grams_.size(); ++i) {
    const uint64_t key = grams_[i].key;
    if (i > 0 && grams_[i - 1].key == key) continue;
    size_t slot = key & (slots - 1);
    while (table_[slot]) slot = (slot + 1) & (slots - 1);
    table_[slot] = static_cast<uint32_t>(i + 1);
  }
}

bool ContaminationIndex::same(const Gram& gram, const Window& window, std::string_view text) const {
  const size_t first = window.count - gram.length;
  for (size_t i = 0; i < gram.length; ++i) {
    const Token token = tokens_[gram.token + i];
    const size_t at = (first + i) % max_tokens, begin = window.begin[at];
    if (window.end[at] - begin != token.size) return false;
    for (size_t j = 0; j < token.size; ++j) {
      if (lowered(text[begin + j]) != bytes_[token.begin + j]) return false;
    }
  }
  if (gram.length == n_) return true;
  // A short part: every character from its first token to its last, white space apart.
  size_t place = gram.exact_begin;
  const size_t stop = place + gram.exact_size;
  for (size_t at = window.begin[first % max_tokens]; at < window.end[(window.count - 1) % max_tokens]; ++at) {
    if (is_blank(text[at])) continue;
    if (place == stop || exact_[place++] != text[at]) return false;
  }
  return place == stop;
}

ContaminationIndex::Match ContaminationIndex::match(std::string_view text, Scratch& scratch) const {
  Match best;
  if (grams_.empty()) return best;
  if (++scratch.number == 0) {  // after 2^32 texts
    std::fill(scratch.gram_seen.begin(), scratch.gram_seen.end(), 0);
    scratch.number = 1;
  }
  Window window;
  // For each length of n-grams: the hash of the window, and what the token that leaves it is multiplied with.
  std::array<uint64_t, max_tokens> keys{}, leaves{};
  const size_t lengths = lengths_.size();
  for (size_t i = 0; i < lengths; ++i) leaves[i] = power(lengths_[i]);
  for_each_token(text, [&](size_t from, size_t to, uint64_t hash) {
    for (size_t i = 0; i < lengths; ++i) {
      const size_t length = lengths_[i];
      keys[i] = keys[i] * base + hash;
      if (window.count >= length) keys[i] -= leaves[i] * window.hash[(window.count - length) % max_tokens];
    }
    window.add(from, to, hash);
    for (size_t i = 0; i < lengths; ++i) {
      if (window.count < lengths_[i]) continue;
      const Place place = place_of(keys[i], lengths_[i], filter_shift_);
      if ((filter_[place.word] & place.bits) != place.bits) continue;
      const uint64_t key = mix(keys[i] ^ lengths_[i]);
      size_t slot = key & (table_.size() - 1);
      while (table_[slot] && grams_[table_[slot] - 1].key != key) slot = (slot + 1) & (table_.size() - 1);
      if (!table_[slot]) continue;
      for (size_t at = table_[slot] - 1; at < grams_.size() && grams_[at].key == key; ++at) {
        const Gram& gram = grams_[at];
        if (gram.length != lengths_[i] || scratch.gram_seen[at] == scratch.number) continue;
        if (!same(gram, window, text)) continue;
        scratch.gram_seen[at] = scratch.number;
        for (size_t p = gram.parts_begin; p < gram.parts_begin + gram.parts_size; ++p) {
          if (scratch.found[parts_[p]]++ == 0) scratch.touched.push_back(parts_[p]);
        }
      }
    }
  });
  for (const uint32_t part : scratch.touched) {
    const double share = static_cast<double>(scratch.found[part]) / total_[part];
    const auto grams = static_cast<int64_t>(scratch.found[part]);
    const bool same_share = share == best.share, same_grams = grams == best.grams;
    if (share > best.share || (same_share && (grams > best.grams || (same_grams && part < best.part)))) {
      best = {share, part, grams};
    }
    scratch.found[part] = 0;
  }
  scratch.touched.clear();
  return best;
}

}  // namespace codeshell::text
