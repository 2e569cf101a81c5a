// Trains an n-gram model with modified Kneser-Ney smoothing, within a limit of memory whatever the text.
//
// Sources: Chen and Goodman, "An empirical study of smoothing techniques for language modeling" (1998), equation 26 and
// section 3; Heafield et al., "Scalable modified Kneser-Ney language model estimation" (2013), whose counts and
// discounts these equal. There is no sorting by comparison: n-grams are numbers, sorted by their digits.
//
//   1. count (count.h)        ids -> the n-grams of the highest order with their counts, sorted by their last word, then
//                             the one before it, and so on: "suffix order"
//   2. adjust (adjust.h)      one pass: the counts of all orders, counts of counts, and which n-grams are pruned
//   3. discount (estimate.h)  three discounts for each order
//   4. contexts (estimate.h)  n-grams sorted by their context: what each context gives away, its backoff
//   5. join (estimate.h)      in suffix order again, each n-gram meets its shorter one: the interpolated probabilities
//
// Nothing depends on the number of threads, on the batches or on the memory: counts are whole numbers, and each
// probability is computed from the same counts in the same order.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dedup/texts.h"
#include "dedup/workers.h"
#include "ngram/units.h"

namespace codeshell::ngram {

inline constexpr int max_trained_order = 6;

struct TrainOptions {
  int order = 3;
  std::vector<uint64_t> prune;  // by order: n-grams that occur this often or less are left out; the first is 0
  size_t memory = size_t{1} << 30;
  unsigned threads = 1;
  std::string folder = ".";  // of temporary files
};

// What is known of an order after its counts.
struct OrderSummary {
  uint64_t ngrams = 0;                   // different ones
  uint64_t kept = 0;                     // of them, not pruned
  std::array<uint64_t, 5> with_count{};  // n-grams with the (adjusted) count i
  std::array<double, 4> discount{};      // of the counts 1, 2, and 3 and more; [0] is 0
  bool fallback = false;                 // discounts could not be computed: 0.5, 1 and 1.5
};

// Takes the n-grams of a model: orders ascend; within an order they come in suffix order.
class Sink {
 public:
  virtual ~Sink() = default;
  // `words`: `order` ids, oldest first. `seen`: the n-gram occurred, or is a special word.
  virtual void add(int order, const uint32_t* words, bool seen, float log10_probability, float log10_backoff) = 0;
};

class Trainer {
 public:
  // Throws std::invalid_argument for options out of range.
  static std::unique_ptr<Trainer> make(std::shared_ptr<const Units> units, const TrainOptions& options);
  virtual ~Trainer() = default;

  // Counts texts, one document each; or documents of ids: document i is ids[offsets[i] .. offsets[i + 1]). False if
  // `stop` ended it: then the trainer is of no more use. Throws std::system_error if a file cannot be written, and
  // std::invalid_argument for ids that are special or too high.
  virtual bool add(const dedup::Texts& texts, const dedup::Stop& stop) = 0;
  virtual bool add(const uint32_t* ids, const int64_t* offsets, size_t documents, const dedup::Stop& stop) = 0;

  // Steps 2 to 4, once, after the last add(). An empty vector: stopped.
  virtual std::vector<OrderSummary> estimate(const dedup::Stop& stop) = 0;

  // Step 5, once, after estimate(). Order 1 has every id: those that never occurred have the probability of <unk>.
  virtual bool emit(Sink& sink, const dedup::Stop& stop) = 0;

  uint64_t documents() const { return documents_; }
  uint64_t tokens() const { return tokens_; }  // without <s>, with </s>
  virtual uint64_t spilled() const = 0;        // bytes written to temporary files

 protected:
  uint64_t documents_ = 0, tokens_ = 0;
};

}  // namespace codeshell::ngram
