// Counts the words of texts, exactly and within a limit of memory, to find the commonest.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "dedup/texts.h"
#include "dedup/workers.h"
#include "ngram/spool.h"

namespace codeshell::ngram {

class WordTally;

struct CommonWords {
  std::vector<std::string> words;  // the commonest first; equally common ones in the order of their bytes
  uint64_t types = 0;              // different words
  uint64_t occurrences = 0;        // of all of them
  uint64_t covered = 0;            // of `words`
};

// Counts the words of the lexer, numbers too, but not those over `longest_word` bytes. The result does not depend on
// the number of threads, on batches or on memory.
class WordCounter {
 public:
  WordCounter(unsigned threads, size_t memory, std::string folder);
  ~WordCounter();

  // False if `stop` ended it. Throws std::system_error if a temporary file cannot be written.
  bool add(const dedup::Texts& texts, const dedup::Stop& stop);

  // The `most` commonest words of those that occur `least` times at least. Ends the counting.
  CommonWords commonest(size_t most, uint64_t least);

 private:
  Storage storage_;
  unsigned threads_;
  std::vector<std::unique_ptr<WordTally>> tallies_;
};

}  // namespace codeshell::ngram
