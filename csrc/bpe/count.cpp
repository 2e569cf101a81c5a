#include "bpe/count.h"

#include <stdexcept>

#include "text/hash.h"

namespace codeshell::bpe {

void WordCounts::add(std::string_view word, uint64_t count) {
  const uint64_t hash = text::hash_bytes(word.data(), word.size());
  const size_t mask = places_.size() - 1;
  size_t i = hash & mask;
  for (; places_[i]; i = (i + 1) & mask) {
    const uint32_t number = places_[i] - 1;
    if (hashes_[number] == hash && this->word(number) == word) {
      counts_[number] += count;
      return;
    }
  }
  if (counts_.size() >= UINT32_MAX - 1) throw std::length_error("words: more than 4 billion different ones");
  bytes_.insert(bytes_.end(), word.begin(), word.end());
  begins_.push_back(bytes_.size());
  hashes_.push_back(hash);
  counts_.push_back(count);
  places_[i] = static_cast<uint32_t>(counts_.size());
  if (2 * counts_.size() > places_.size()) grow();
}

void WordCounts::add(const WordCounts& other) {
  for (size_t i = 0; i < other.size(); ++i) add(other.word(i), other.count(i));
}

void WordCounts::grow() {
  std::vector<uint32_t> places(2 * places_.size(), 0);
  const size_t mask = places.size() - 1;
  for (size_t number = 0; number < hashes_.size(); ++number) {
    size_t i = hashes_[number] & mask;
    while (places[i]) i = (i + 1) & mask;
    places[i] = static_cast<uint32_t>(number + 1);
  }
  places_.swap(places);
}

void count_words(std::string_view text, const Splitter& splitter, size_t longest, WordCounts& counts) {
  const char *p = text.data(), *const end = p + text.size();
  while (p < end) {
    const char* begin = p;
    p = splitter.next(begin, end);
    // Only a word of more bytes than that can have more characters. The begin of a character is no continuation byte.
    if (static_cast<size_t>(p - begin) > longest) {
      size_t characters = 0;
      for (const char* q = begin; q < p; ++q) {
        if ((static_cast<uint8_t>(*q) & 0xC0) == 0x80) continue;
        if (characters == longest) {
          counts.add({begin, static_cast<size_t>(q - begin)});
          begin = q;
          characters = 0;
        }
        ++characters;
      }
    }
    counts.add({begin, static_cast<size_t>(p - begin)});
  }
}

}  // namespace codeshell::bpe
