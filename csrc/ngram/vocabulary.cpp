// Each thread has a hash table of words. A table that is full is written as a run of words in the order of their bytes;
// at the end all runs are merged, and a heap keeps the commonest.
#include "ngram/vocabulary.h"

#include <algorithm>
#include <cstring>
#include <queue>

#include "ngram/lexer.h"
#include "ngram/units.h"

namespace codeshell::ngram {

namespace {

// A run's entry: one byte for the size of the word, its bytes, and its count.
class RunReader {
 public:
  RunReader(const Spool<char>& spool, size_t begin, size_t end) : reader_({&spool, begin, end}) { next(); }

  bool done() const { return done_; }
  const std::string& word() const { return word_; }
  uint64_t count() const { return count_; }

  void next() {
    done_ = reader_.done();
    if (done_) return;
    word_.resize(static_cast<uint8_t>(take()));
    for (char& byte : word_) byte = take();
    char bytes[8];
    for (char& byte : bytes) byte = take();
    std::memcpy(&count_, bytes, 8);
  }

 private:
  char take() {
    const char byte = *reader_;
    reader_.next();
    return byte;
  }

  Reader<char> reader_;
  std::string word_;
  uint64_t count_ = 0;
  bool done_ = false;
};

}  // namespace

// The words of one thread.
class WordTally {
 public:
  WordTally(Storage& storage, size_t memory) : spool_(storage), memory_(memory) { places_.resize(1 << 12); }

  void word(const char* begin, const char* end, bool) {
    const size_t size = static_cast<size_t>(end - begin);
    if (size > longest_word) return;
    const uint64_t hash = hash_word(begin, end);
    size_t i = hash & (places_.size() - 1);
    for (; places_[i].count; i = (i + 1) & (places_.size() - 1)) {
      if (places_[i].hash == hash && is(places_[i], begin, size)) {
        ++places_[i].count;
        return;
      }
    }
    places_[i] = {hash, 1, bytes_.size()};
    bytes_ += static_cast<char>(size);
    bytes_.append(begin, size);
    if (2 * ++types_ > places_.size()) grow();
  }
  void mark(char, const char*, const char*) {}
  void pair(size_t, const char*, const char*) {}
  void run(char, const char*, const char*) {}
  void control(const char*, const char*) {}

  // Writes all words as a run, and forgets them.
  void flush() {
    if (!types_) return;
    std::erase_if(places_, [](const Place& place) { return !place.count; });
    std::sort(places_.begin(), places_.end(), [this](const Place& a, const Place& b) { return text(a) < text(b); });
    std::string entry;
    for (const Place& place : places_) {
      entry.assign(bytes_, place.at, text(place).size() + 1);
      entry.append(reinterpret_cast<const char*>(&place.count), 8);
      for (const char byte : entry) spool_.append(byte);
    }
    ends_.push_back(spool_.size());
    places_.assign(1 << 12, {});
    bytes_.clear();
    types_ = 0;
  }

  void add_readers(std::vector<RunReader>& readers) const {
    size_t begin = 0;
    for (const size_t end : ends_) {
      readers.emplace_back(spool_, begin, end);
      begin = end;
    }
  }

 private:
  struct Place {
    uint64_t hash, count;  // no count: empty
    size_t at;             // where the size and the bytes of the word are
  };

  std::string_view text(const Place& place) const {
    return {bytes_.data() + place.at + 1, static_cast<uint8_t>(bytes_[place.at])};
  }
  bool is(const Place& place, const char* word, size_t size) const {
    return text(place) == std::string_view(word, size);
  }

  void grow() {
    // The table twice as large, beside the one there is, and the words.
    if (3 * places_.size() * sizeof(Place) + bytes_.capacity() > memory_) return flush();
    std::vector<Place> larger(2 * places_.size());
    for (const Place& place : places_) {
      if (!place.count) continue;
      size_t i = place.hash & (larger.size() - 1);
      while (larger[i].count) i = (i + 1) & (larger.size() - 1);
      larger[i] = place;
    }
    places_ = std::move(larger);
  }

  Spool<char> spool_;
  std::vector<size_t> ends_;
  std::vector<Place> places_;
  std::string bytes_;
  size_t types_ = 0, memory_;
};

WordCounter::WordCounter(unsigned threads, size_t memory, std::string folder)
    : storage_(std::move(folder), memory / 4), threads_(threads) {
  for (unsigned i = 0; i < threads_; ++i) {
    tallies_.push_back(std::make_unique<WordTally>(storage_, memory / 2 / threads_));
  }
}

WordCounter::~WordCounter() = default;

bool WordCounter::add(const dedup::Texts& texts, const dedup::Stop& stop) {
  std::atomic<size_t> slots{0};
  return dedup::share(texts.count, 16, threads_, stop, [&] {
    return [&, tally = tallies_[slots++].get()](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) scan(texts[i], *tally);
    };
  });
}

CommonWords WordCounter::commonest(size_t most, uint64_t least) {
  std::vector<RunReader> readers;
  for (auto& tally : tallies_) {
    tally->flush();
    tally->add_readers(readers);
  }
  const auto later = [&readers](size_t a, size_t b) { return readers[a].word() > readers[b].word(); };
  std::priority_queue<size_t, std::vector<size_t>, decltype(later)> next(later);
  for (size_t i = 0; i < readers.size(); ++i) {
    if (!readers[i].done()) next.push(i);
  }
  CommonWords found;
  // The worst of the best is on top: the rarest, and of equally rare ones the last.
  using Candidate = std::pair<uint64_t, std::string>;
  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  std::priority_queue<Candidate, std::vector<Candidate>, decltype(better)> best(better);
  while (!next.empty()) {
    Candidate word{0, readers[next.top()].word()};
    // The word's counts in all runs that have it.
    while (!next.empty() && readers[next.top()].word() == word.second) {
      const size_t reader = next.top();
      next.pop();
      word.first += readers[reader].count();
      readers[reader].next();
      if (!readers[reader].done()) next.push(reader);
    }
    ++found.types;
    found.occurrences += word.first;
    if (word.first < least || !most) continue;
    if (best.size() < most) {
      best.push(std::move(word));
    } else if (better(word, best.top())) {
      best.pop();
      best.push(std::move(word));
    }
  }
  found.words.resize(best.size());
  for (size_t i = best.size(); i-- > 0; best.pop()) {
    found.covered += best.top().first;
    found.words[i] = best.top().second;
  }
  return found;
}

}  // namespace codeshell::ngram
