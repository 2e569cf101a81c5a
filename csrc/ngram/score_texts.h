// Scores of whole texts: a text becomes ids (csrc/ngram/units.h), and each model scores them.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "ngram/model.h"
#include "ngram/score_sums.h"
#include "ngram/units.h"

namespace codeshell::ngram {

// A model with what makes ids of a text. Throws what Model throws, and ModelError for units that do not fit the tables.
class TextModel {
 public:
  TextModel(const std::string& path, Model::Memory memory);

  const Model& model() const { return model_; }
  const Units& units() const { return *units_; }
  // For a binding, which outlives the model.
  const std::shared_ptr<Units>& shared_units() const { return units_; }
  // Appends the ids of a text as the model's tables have them.
  void encode(std::string_view text, std::vector<uint32_t>& words, std::vector<Span>* spans = nullptr) const;
  const IdSwap& swap() const { return swap_; }

  // A memo of this model and perhaps another one of its order and vocabulary, which comes after it; to be kept again
  // when it is not used any more. Memos live as long as the model, because the next batch repeats what this one says.
  std::unique_ptr<Memo> take_memo(const TextModel* second) const;
  void keep_memo(const TextModel* second, std::unique_ptr<Memo> memo) const;

 private:
  Model model_;
  std::shared_ptr<Units> units_;
  IdSwap swap_;
  // No other model of this process ever has it.
  uint64_t serial_;
  mutable std::mutex mutex_;
  mutable std::vector<std::pair<uint64_t, std::unique_ptr<Memo>>> memos_;  // with the serial of the second; 0 if none
};

// Whether <s> comes first (as a context) and </s> last (as a word that counts).
struct Ends {
  bool begin = true, end = true;
};

struct TextScore {
  int64_t units = 0;    // of the text; </s> is not counted
  int64_t unknown = 0;  // <unk> among them
  double log10 = 0;     // of the probability of all, </s> included
};

// One word of a text with its score.
struct WordScore {
  uint32_t id;      // of the units
  uint32_t length;  // of the n-gram that was found
  double log10;
  Span span;  // </s> lies at the end of the text and is empty
};

// scores[m * count + i] is text i under model m: the bytes offsets[row] to offsets[row + 1] of the data, where row is
// rows[i], or i without rows. A text is cut into units once for all models that share their units. Up to `threads`
// threads; the results do not depend on their number. All models must encode (Units::encodes).
void score_texts(const std::vector<const TextModel*>& models, const char* data, const int64_t* offsets,
                 const int64_t* rows, size_t count, Ends ends, int threads, TextScore* scores);

// The same for ids that were made elsewhere (a tokenizer); text i is ids[offsets[i] .. offsets[i + 1]). Throws
// std::invalid_argument for an id beyond the vocabulary.
void score_ids(const TextModel& model, const uint32_t* ids, const int64_t* offsets, size_t count, Ends ends,
               TextScore* scores);

std::vector<WordScore> score_each(const TextModel& model, std::string_view text, Ends ends);

// The same for ids that were made elsewhere; their spans are empty.
std::vector<WordScore> score_each(const TextModel& model, const std::vector<uint32_t>& ids, Ends ends);

}  // namespace codeshell::ngram
