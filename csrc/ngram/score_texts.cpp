#include "ngram/score_texts.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>

#include "ngram/score.h"
#include "simd/parallel.h"

namespace codeshell::ngram {

namespace {

Units units_of(const Model& model) {
  try {
    Units units = Units::deserialize(model.units());
    if (units.size() != model.header().vocabulary) {
      throw ModelError{"it has " + std::to_string(model.header().vocabulary) + " unigrams and " +
                       std::to_string(units.size()) + " words; train it again"};
    }
    return units;
  } catch (const std::invalid_argument& error) {
    throw ModelError{std::string("its vocabulary is damaged (") + error.what() + ")"};
  }
}

// <s>, room for the words, and afterwards </s>.
void begin_sentence(const Model& model, Ends ends, std::vector<uint32_t>& words) {
  words.clear();
  if (ends.begin) words.push_back(model.header().begin);
}

TextScore score_sentence(const Model& model, std::vector<uint32_t>& words, Ends ends, Scratch& scratch) {
  TextScore score;
  score.units = static_cast<int64_t>(words.size()) - ends.begin;
  for (size_t i = ends.begin; i < words.size(); ++i) score.unknown += words[i] == unknown_id;
  if (ends.end) words.push_back(model.header().end);
  double sum = 0;
  score_words(model, words.data(), words.size(), ends.begin, scratch,
              [&](size_t, double log10, uint32_t) { sum += log10; });
  if (ends.end) words.pop_back();
  score.log10 = sum;
  return score;
}

// One or two models of the same units, order and vocabulary, which score together.
struct Pair {
  const TextModel* models[2];
  size_t places[2];  // among all models
  size_t count;
  bool remembers;
};

// The models in pairs, with those of the same units in one stretch; `leads` tells where each stretch begins.
std::vector<Pair> pairs_of(const std::vector<const TextModel*>& models, std::vector<bool>& leads) {
  const auto same_units = [](const Model& a, const Model& b) {
    return a.units() == b.units() && a.header().begin == b.header().begin && a.header().end == b.header().end;
  };
  std::vector<Pair> pairs;
  std::vector<bool> done(models.size());
  for (size_t lead = 0; lead < models.size(); ++lead) {
    if (done[lead]) continue;
    const size_t first = pairs.size();
    for (size_t m = lead; m < models.size(); ++m) {
      const Model& model = models[m]->model();
      if (done[m] || !same_units(models[lead]->model(), model)) continue;
      done[m] = true;
      const bool remembers = Memo::fits(model.order(), model.header().vocabulary);
      if (pairs.size() > first && remembers && pairs.back().remembers && pairs.back().count == 1 &&
          pairs.back().models[0]->model().order() == model.order()) {
        pairs.back().models[1] = models[m];
        pairs.back().places[1] = m;
        pairs.back().count = 2;
      } else {
        pairs.push_back({{models[m], nullptr}, {m, 0}, 1, remembers});
      }
    }
    leads.resize(pairs.size());
    leads[first] = true;
  }
  return pairs;
}

// Scores under both models of a pair; scores[m] is that of its model m.
void score_pair(const Pair& pair, std::vector<uint32_t>& words, Ends ends, SumScratch& scratch, Memo& memo,
                TextScore* scores) {
  TextScore score;
  score.units = static_cast<int64_t>(words.size()) - ends.begin;
  score.unknown = std::count(words.begin() + ends.begin, words.end(), unknown_id);
  const Model& model = pair.models[0]->model();
  const Model* const models[2] = {&model, pair.count == 2 ? &pair.models[1]->model() : nullptr};
  if (ends.end) words.push_back(model.header().end);
  double sums[2];
  if (pair.count == 2) {
    score_sums<2>(models, words.data(), words.size(), ends.begin, scratch, memo, sums);
  } else {
    score_sums<1>(models, words.data(), words.size(), ends.begin, scratch, memo, sums);
  }
  if (ends.end) words.pop_back();
  for (size_t m = 0; m < pair.count; ++m) {
    scores[m] = score;
    scores[m].log10 = sums[m];
  }
}

std::atomic<uint64_t> last_serial{0};

}  // namespace

TextModel::TextModel(const std::string& path, Model::Memory memory)
    : model_(path, memory),
      units_(std::make_shared<Units>(units_of(model_))),
      swap_(model_.header().begin, model_.header().end),
      serial_(++last_serial) {}

std::unique_ptr<Memo> TextModel::take_memo(const TextModel* second) const {
  const uint64_t serial = second ? second->serial_ : 0;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [of, memo] : memos_) {
      if (of == serial && memo) return std::move(memo);
    }
  }
  return std::make_unique<Memo>(second ? 2 : 1, model_.order(), model_.header().vocabulary);
}

void TextModel::keep_memo(const TextModel* second, std::unique_ptr<Memo> memo) const {
  // As many as threads that have scored at a time, and for few models that were scored with this one.
  constexpr size_t most = 8;
  const uint64_t serial = second ? second->serial_ : 0;
  const std::lock_guard lock(mutex_);
  std::erase_if(memos_, [](const auto& entry) { return !entry.second; });
  if (memos_.size() == most) memos_.erase(memos_.begin());
  memos_.emplace_back(serial, std::move(memo));
}

void TextModel::encode(std::string_view text, std::vector<uint32_t>& words, std::vector<Span>* spans) const {
  const size_t first = words.size();
  units_->encode(text, words, spans);
  if (!swap_.any()) return;
  for (size_t i = first; i < words.size(); ++i) words[i] = swap_.to_model(words[i]);
}

void score_texts(const std::vector<const TextModel*>& models, const char* data, const int64_t* offsets,
                 const int64_t* rows, size_t count, Ends ends, int threads, TextScore* scores) {
  // leads[p]: pair p needs other ids than the one before it.
  std::vector<bool> leads;
  const std::vector<Pair> pairs = pairs_of(models, leads);
  // A task is a stretch of texts, so that few tasks are handed out and each uses its memos for long.
  constexpr size_t stretch = 64;
  const auto tasks = static_cast<int64_t>((count + stretch - 1) / stretch);
  simd::parallel_for(threads, tasks, [&](int64_t task) {
    SumScratch scratch;
    std::vector<std::unique_ptr<Memo>> memos(pairs.size());
    for (size_t p = 0; p < pairs.size(); ++p) {
      if (pairs[p].remembers) memos[p] = pairs[p].models[0]->take_memo(pairs[p].models[1]);
    }
    std::vector<uint32_t> words;
    const size_t begin = static_cast<size_t>(task) * stretch;
    for (size_t i = begin; i < std::min(begin + stretch, count); ++i) {
      const size_t row = rows ? static_cast<size_t>(rows[i]) : i;
      const std::string_view text(data + offsets[row], static_cast<size_t>(offsets[row + 1] - offsets[row]));
      for (size_t p = 0; p < pairs.size(); ++p) {
        const Pair& pair = pairs[p];
        if (leads[p]) {
          begin_sentence(pair.models[0]->model(), ends, words);
          pair.models[0]->encode(text, words);
        }
        TextScore found[2];
        if (pair.remembers) {
          score_pair(pair, words, ends, scratch, *memos[p], found);
        } else {
          found[0] = score_sentence(pair.models[0]->model(), words, ends, scratch.search);
        }
        for (size_t m = 0; m < pair.count; ++m) scores[pair.places[m] * count + i] = found[m];
      }
    }
    for (size_t p = 0; p < pairs.size(); ++p) {
      if (memos[p]) pairs[p].models[0]->keep_memo(pairs[p].models[1], std::move(memos[p]));
    }
  });
}

void score_ids(const TextModel& model, const uint32_t* ids, const int64_t* offsets, size_t count, Ends ends,
               TextScore* scores) {
  for (int64_t i = offsets[0]; i < offsets[count]; ++i) {
    if (ids[i] >= model.model().header().vocabulary) throw std::invalid_argument("ids: beyond the model's vocabulary");
  }
  Scratch scratch;
  std::vector<uint32_t> words;
  for (size_t i = 0; i < count; ++i) {
    begin_sentence(model.model(), ends, words);
    words.insert(words.end(), ids + offsets[i], ids + offsets[i + 1]);
    scores[i] = score_sentence(model.model(), words, ends, scratch);
  }
}

namespace {

std::vector<WordScore> score_spans(const TextModel& model, std::vector<uint32_t>& words, std::vector<Span>& spans,
                                   Ends ends, uint64_t text_end) {
  if (ends.end) {
    words.push_back(model.model().header().end);
    spans.push_back({text_end, text_end});
  }
  std::vector<WordScore> scores;
  scores.reserve(spans.size());
  Scratch scratch;
  score_words(model.model(), words.data(), words.size(), ends.begin, scratch,
              [&](size_t i, double log10, uint32_t length) {
                scores.push_back({model.swap().to_unit(words[i]), length, log10, spans[i - ends.begin]});
              });
  return scores;
}

}  // namespace

std::vector<WordScore> score_each(const TextModel& model, std::string_view text, Ends ends) {
  std::vector<uint32_t> words;
  std::vector<Span> spans;
  begin_sentence(model.model(), ends, words);
  model.encode(text, words, &spans);
  return score_spans(model, words, spans, ends, text.size());
}

std::vector<WordScore> score_each(const TextModel& model, const std::vector<uint32_t>& ids, Ends ends) {
  std::vector<uint32_t> words;
  std::vector<Span> spans(ids.size());
  begin_sentence(model.model(), ends, words);
  for (const uint32_t id : ids) {
    if (id >= model.model().header().vocabulary) throw std::invalid_argument("ids: beyond the model's vocabulary");
    words.push_back(id);
  }
  return score_spans(model, words, spans, ends, 0);
}

}  // namespace codeshell::ngram
