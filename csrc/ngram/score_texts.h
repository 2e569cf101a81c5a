// Scores of whole texts: a text becomes ids (csrc/ngram/units.h), and each model scores them.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "ngram/model.h"
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

 private:
  Model model_;
  std::shared_ptr<Units> units_;
  IdSwap swap_;
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

// scores[m * count + i] is text i under model m. A text is cut into units once for all models that share their units.
// Up to `threads` threads; the results do not depend on their number. All models must encode (Units::encodes).
void score_texts(const std::vector<const TextModel*>& models, const char* data, const int64_t* offsets, size_t count,
                 Ends ends, int threads, TextScore* scores);

// The same for ids that were made elsewhere (a tokenizer); text i is ids[offsets[i] .. offsets[i + 1]). Throws
// std::invalid_argument for an id beyond the vocabulary.
void score_ids(const TextModel& model, const uint32_t* ids, const int64_t* offsets, size_t count, Ends ends,
               TextScore* scores);

std::vector<WordScore> score_each(const TextModel& model, std::string_view text, Ends ends);

// The same for ids that were made elsewhere; their spans are empty.
std::vector<WordScore> score_each(const TextModel& model, const std::vector<uint32_t>& ids, Ends ends);

}  // namespace codeshell::ngram
