#include "bpe/train.h"

#include <algorithm>
#include <stdexcept>
#include <string_view>
#include <unordered_map>

namespace codeshell::bpe {

namespace {

// Every pair that has ever been seen has a number; by number, its count and the word that was last noted for it.
class Pairs {
 public:
  Pairs() : places_(1 << 16, kNone) {}

  uint32_t number(uint64_t pair) {
    size_t i = place(pair);
    for (; places_[i] != kNone; i = (i + 1) & (places_.size() - 1)) {
      if (pairs_[places_[i]] == pair) return places_[i];
    }
    if (pairs_.size() >= kNone) throw std::length_error("pairs: more than 4 billion");
    const auto number = static_cast<uint32_t>(pairs_.size());
    places_[i] = number;
    pairs_.push_back(pair);
    counts_.push_back(0);
    if (2 * pairs_.size() > places_.size()) grow();
    return number;
  }
  uint64_t pair(uint32_t number) const { return pairs_[number]; }
  int64_t& count(uint32_t number) { return counts_[number]; }
  size_t size() const { return pairs_.size(); }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;

  size_t place(uint64_t pair) const { return (pair * 0x9E3779B97F4A7C15u >> 20) & (places_.size() - 1); }
  void grow() {
    places_.assign(2 * places_.size(), kNone);
    for (uint32_t number = 0; number < pairs_.size(); ++number) {
      size_t i = place(pairs_[number]);
      while (places_[i] != kNone) i = (i + 1) & (places_.size() - 1);
      places_[i] = number;
    }
  }

  std::vector<uint32_t> places_;
  std::vector<uint64_t> pairs_;
  std::vector<int64_t> counts_;
};

// A pair in the heap: the count that it had, and the words in which it was seen, words_[begin .. begin + size).
struct Entry {
  int64_t count;
  uint64_t pair;
  uint64_t begin;
  uint32_t size;
  uint32_t number;
};

// The top of a heap is the largest: of the higher count, or of the lower ids.
bool below(const Entry& a, const Entry& b) { return a.count != b.count ? a.count < b.count : a.pair > b.pair; }

uint64_t join(uint32_t left, uint32_t right) { return static_cast<uint64_t>(left) << 32 | right; }

class Learner {
 public:
  Learner(CountedWords words, std::vector<std::string>& names, uint64_t least)
      : words_(std::move(words)), names_(names), least_(static_cast<int64_t>(least)) {
    sizes_.resize(words_.counts.size());
    for (size_t i = 0; i < sizes_.size(); ++i) {
      const uint64_t size = words_.begins[i + 1] - words_.begins[i];
      if (size > UINT32_MAX) throw std::length_error("words: one of more than 4 billion tokens");
      sizes_[i] = static_cast<uint32_t>(size);
    }
    // Where two tokens have the same bytes, the first is the one that a merge makes.
    for (uint32_t id = 0; id < names_.size(); ++id) ids_.emplace(names_[id], id);
  }

  std::vector<Merge> run(size_t size, const std::function<bool()>& stop) {
    count_all();
    std::vector<Merge> merges;
    while (names_.size() < size && !stop()) {
      if (heap_.empty()) {
        // The pairs below the least count matter only now: one of them may have become more frequent since.
        if (rare_.empty()) break;
        heap_.swap(rare_);
        std::make_heap(heap_.begin(), heap_.end(), below);
        exhausted_ = true;
      }
      std::pop_heap(heap_.begin(), heap_.end(), below);
      Entry top = heap_.back();
      heap_.pop_back();
      const int64_t now = pairs_.count(top.number);
      if (top.count != now) {
        top.count = now;
        push(top);
        continue;
      }
      if (top.count < 1 || top.count < least_) break;
      const auto left = static_cast<uint32_t>(top.pair >> 32), right = static_cast<uint32_t>(top.pair);
      const uint32_t product = token(names_[left] + names_[right]);
      merges.push_back({left, right, product});
      merge(top, left, right, product);
    }
    return merges;
  }

 private:
  // The id of the token of these bytes, a new one if there is none.
  uint32_t token(const std::string& name) {
    const auto [found, fresh] = ids_.emplace(name, static_cast<uint32_t>(names_.size()));
    if (fresh) names_.push_back(name);
    return found->second;
  }

  void push(const Entry& entry) {
    if (entry.count < least_ && !exhausted_) {
      rare_.push_back(entry);
      return;
    }
    heap_.push_back(entry);
    std::push_heap(heap_.begin(), heap_.end(), below);
  }

  // Notes that the pair has come up in this word.
  void seen(uint32_t number, uint32_t word) {
    if (number >= slots_.size()) slots_.resize(std::max<size_t>(number + 1, 2 * slots_.size()), kNone);
    uint32_t slot = slots_[number];
    if (slot == kNone) {
      slot = slots_[number] = static_cast<uint32_t>(fresh_.size());
      fresh_.push_back({number, kNone, 0});
    }
    Fresh& fresh = fresh_[slot];
    if (fresh.last == word) return;  // a word counts once
    fresh.last = word;
    ++fresh.size;
    sightings_.push_back({slot, word});
  }

  // Makes entries of what was seen since the last call.
  void push_seen() {
    // Each entry's words side by side: their number is known, so each gets its stretch.
    uint64_t begin = where_.size();
    where_.resize(begin + sightings_.size());
    for (Fresh& fresh : fresh_) {
      slots_[fresh.number] = kNone;
      fresh.begin = begin;
      begin += fresh.size;
      fresh.size = 0;
    }
    for (const Sighting& sighting : sightings_) {
      Fresh& fresh = fresh_[sighting.slot];
      where_[fresh.begin + fresh.size++] = sighting.word;
    }
    for (const Fresh& fresh : fresh_) {
      const int64_t count = pairs_.count(fresh.number);
      if (count > 0) push({count, pairs_.pair(fresh.number), fresh.begin, fresh.size, fresh.number});
    }
    fresh_.clear();
    sightings_.clear();
  }

  void count_all() {
    for (uint32_t word = 0; word < sizes_.size(); ++word) {
      const uint32_t* const tokens = words_.tokens.data() + words_.begins[word];
      for (uint32_t i = 0; i + 1 < sizes_[word]; ++i) {
        const uint32_t number = pairs_.number(join(tokens[i], tokens[i + 1]));
        pairs_.count(number) += static_cast<int64_t>(words_.counts[word]);
        seen(number, word);
      }
    }
    push_seen();
  }

  void merge(const Entry& top, uint32_t left, uint32_t right, uint32_t product) {
    for (uint64_t at = top.begin; at < top.begin + top.size; ++at) merge_in(where_[at], left, right, product);
    push_seen();
  }

  // Joins the pair in one word, from left to right, and counts what that changes. The word is closed up as it is read:
  // `to` tokens of it are done, and `from` is the next to read.
  void merge_in(uint32_t word, uint32_t left, uint32_t right, uint32_t product) {
    uint32_t* const tokens = words_.tokens.data() + words_.begins[word];
    const uint32_t size = sizes_[word];
    const auto count = static_cast<int64_t>(words_.counts[word]);
    const auto change = [&](uint32_t a, uint32_t b, bool more) {
      const uint32_t number = pairs_.number(join(a, b));
      pairs_.count(number) += more ? count : -count;
      if (more) seen(number, word);
    };
    uint32_t to = 0, from = 0;
    while (from < size) {
      if (tokens[from] == left && from + 1 < size && tokens[from + 1] == right) {
        if (to) {
          change(tokens[to - 1], left, false);
          change(tokens[to - 1], product, true);
        }
        from += 2;
        if (from < size) {
          change(right, tokens[from], false);
          change(product, tokens[from], true);
        }
        tokens[to++] = product;
      } else {
        tokens[to++] = tokens[from++];
      }
    }
    sizes_[word] = to;
  }

  static constexpr uint32_t kNone = UINT32_MAX;
  // A pair that has come up since the last push.
  struct Fresh {
    uint32_t number, last, size;
    uint64_t begin = 0;
  };
  struct Sighting {
    uint32_t slot, word;
  };

  CountedWords words_;
  std::vector<uint32_t> sizes_;
  std::vector<std::string>& names_;
  std::unordered_map<std::string, uint32_t> ids_;
  int64_t least_;
  Pairs pairs_;
  std::vector<Entry> heap_, rare_;
  bool exhausted_ = false;
  std::vector<uint32_t> where_;
  std::vector<uint32_t> slots_;
  std::vector<Fresh> fresh_;
  std::vector<Sighting> sightings_;
};

}  // namespace

std::vector<Merge> learn(CountedWords words, std::vector<std::string>& names, size_t size, uint64_t least,
                         const std::function<bool()>& stop) {
  return Learner(std::move(words), names, least).run(size, stop);
}

}  // namespace codeshell::bpe
