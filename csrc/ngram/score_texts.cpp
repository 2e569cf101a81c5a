#include "ngram/score_texts.h"

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

}  // namespace

TextModel::TextModel(const std::string& path, Model::Memory memory)
    : model_(path, memory),
      units_(std::make_shared<Units>(units_of(model_))),
      swap_(model_.header().begin, model_.header().end) {}

void TextModel::encode(std::string_view text, std::vector<uint32_t>& words, std::vector<Span>* spans) const {
  const size_t first = words.size();
  units_->encode(text, words, spans);
  if (!swap_.any()) return;
  for (size_t i = first; i < words.size(); ++i) words[i] = swap_.to_model(words[i]);
}

void score_texts(const std::vector<const TextModel*>& models, const char* data, const int64_t* offsets, size_t count,
                 Ends ends, int threads, TextScore* scores) {
  // first[m]: the first model whose units are the same; its ids serve for model m.
  std::vector<size_t> first(models.size());
  for (size_t m = 0; m < models.size(); ++m) {
    first[m] = 0;
    const Model& model = models[m]->model();
    while (first[m] < m && (models[first[m]]->model().units() != model.units() ||
                            models[first[m]]->model().header().begin != model.header().begin ||
                            models[first[m]]->model().header().end != model.header().end)) {
      ++first[m];
    }
  }
  // A task is a stretch of texts, so that few tasks are handed out.
  constexpr size_t stretch = 64;
  const auto tasks = static_cast<int64_t>((count + stretch - 1) / stretch);
  simd::parallel_for(threads, tasks, [&](int64_t task) {
    Scratch scratch;
    std::vector<uint32_t> words;
    const size_t begin = static_cast<size_t>(task) * stretch;
    for (size_t i = begin; i < std::min(begin + stretch, count); ++i) {
      const std::string_view text(data + offsets[i], static_cast<size_t>(offsets[i + 1] - offsets[i]));
      for (size_t lead = 0; lead < models.size(); ++lead) {
        if (first[lead] != lead) continue;
        begin_sentence(models[lead]->model(), ends, words);
        models[lead]->encode(text, words);
        for (size_t m = lead; m < models.size(); ++m) {
          if (first[m] == lead) scores[m * count + i] = score_sentence(models[m]->model(), words, ends, scratch);
        }
      }
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
