#include "ngram/arpa.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "ngram/sort.h"

namespace codeshell::ngram {

namespace {

// A line of an honest file is a few words; this bounds the memory for one that never ends.
constexpr size_t longest_line = 1 << 20;

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\0'; }

// The next word of a line, cut off its front; empty at the end.
std::string_view next_word(std::string_view& line) {
  size_t begin = 0;
  while (begin < line.size() && is_blank(line[begin])) ++begin;
  size_t end = begin;
  while (end < line.size() && !is_blank(line[end])) ++end;
  const std::string_view word = line.substr(begin, end - begin);
  line.remove_prefix(end);
  return word;
}

bool read_float(std::string_view word, float& value) {
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  // Numbers that are too small for a float come as an error, and mean 0 here.
  return error == std::errc() && end == word.data() + word.size() && std::isfinite(value);
}

std::string shown(std::string_view text) {
  std::string result;
  for (const char c : text.substr(0, 60)) result.push_back(c >= 0x20 && c < 0x7F ? c : '?');
  return "'" + result + (text.size() > 60 ? "…'" : "'");
}

}  // namespace

ArpaReader::ArpaReader(std::string output, std::string metadata, const WriterOptions& options)
    : output_(std::move(output)), metadata_(std::move(metadata)), options_(options) {
  options_.check_suffixes = true;
  options_.begin = begin_id;
  options_.end = end_id;
  // The fixed words have their places before any is read.
  for (const char* word : {"<unk>", "<s>", "</s>"}) {
    ids_.emplace(word, static_cast<uint32_t>(unigrams_.size()));
    unigrams_.push_back({-100, 0, false});
  }
}

void ArpaReader::fail(const std::string& what) const {
  throw std::invalid_argument("line " + std::to_string(line_number_) + ": " + what);
}

void ArpaReader::feed(std::string_view piece) {
  while (true) {
    const size_t end = piece.find('\n');
    if (end == std::string_view::npos) break;
    ++line_number_;
    if (rest_.empty()) {
      line(piece.substr(0, end));
    } else {
      rest_.append(piece.substr(0, end));
      line(rest_);
      rest_.clear();
    }
    piece.remove_prefix(end + 1);
  }
  rest_.append(piece);
  if (rest_.size() > longest_line) {
    ++line_number_;
    fail("longer than a megabyte; this is no ARPA file");
  }
}

void ArpaReader::finish() {
  if (!rest_.empty()) {
    ++line_number_;
    line(rest_);
    rest_.clear();
  }
  if (state_ == State::before) fail("the file ends without \\data\\; this is no ARPA file");
  if (state_ != State::after) fail("the file ends here, without \\end\\: it was cut short; get it whole");
  writer_->finish();
  if (writer_->repeated()) {
    throw std::invalid_argument(std::to_string(writer_->repeated()) +
                                " n-grams are there twice; a model has one line for each");
  }
}

void ArpaReader::line(std::string_view line) {
  while (!line.empty() && is_blank(line.back())) line.remove_suffix(1);
  switch (state_) {
    case State::before:
      if (line.empty()) return;
      if (line != "\\data\\") fail(shown(line) + " and not \\data\\; this is no ARPA file");
      state_ = State::counts;
      return;
    case State::counts:
      if (line.empty()) return;
      if (line[0] == '\\') return section_line(line);
      return count_line(line);
    case State::sections:
      if (!line.empty()) section_line(line);
      return;
    case State::entries:
      if (line.empty()) return end_section();
      if (line[0] == '\\' && seen_ == counts_[length_ - 1]) {
        end_section();
        return section_line(line);
      }
      return entry_line(line);
    case State::after: return;
  }
}

void ArpaReader::count_line(std::string_view line) {
  uint64_t length = 0, count = 0;
  std::string_view word = next_word(line);
  if (word != "ngram") fail("expected 'ngram k=count'");
  word = next_word(line);
  const size_t equals = word.find('=');
  const auto number = [](std::string_view digits, uint64_t& value) {
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return error == std::errc() && end == digits.data() + digits.size();
  };
  if (equals == std::string_view::npos || !next_word(line).empty() || !number(word.substr(0, equals), length) ||
      !number(word.substr(equals + 1), count)) {
    fail("expected 'ngram k=count'");
  }
  if (length != counts_.size() + 1) fail("the orders must come as 1, 2, 3 …");
  if (length > max_order)
    fail("order " + std::to_string(length) + "; at most " + std::to_string(max_order) + " is read");
  if (count >= uint64_t{1} << 40) fail("more n-grams than any file has");
  counts_.push_back(count);
}

void ArpaReader::section_line(std::string_view line) {
  if (line == "\\end\\") {
    if (length_ != counts_.size() || counts_.empty()) {
      fail("\\end\\ before the " + std::to_string(length_ + 1) + "-grams; the file was cut short");
    }
    state_ = State::after;
    return;
  }
  const std::string expected = std::string("\\").append(std::to_string(length_ + 1)).append("-grams:");
  if (length_ == counts_.size() || line != expected) {
    fail(shown(line) + " and not " + (length_ == counts_.size() ? "\\end\\" : expected));
  }
  ++length_;
  seen_ = 0;
  state_ = State::entries;
}

void ArpaReader::entry_line(std::string_view line) {
  if (++seen_ > counts_[length_ - 1]) {
    fail("more " + std::to_string(length_) + "-grams than the " + std::to_string(counts_[length_ - 1]) + " announced");
  }
  const std::string_view whole = line;
  float probability = 0, backoff = 0;
  if (!read_float(next_word(line), probability)) fail(shown(whole) + " does not begin with a finite number");
  if (probability > 0)
    fail("a probability above 1 (its logarithm is positive); the tool that wrote the file is at fault");
  std::string_view words[max_order];
  for (uint32_t i = 0; i < length_; ++i) {
    words[i] = next_word(line);
    if (words[i].empty()) fail(shown(whole) + " has fewer than " + std::to_string(length_) + " words");
  }
  if (const std::string_view last = next_word(line); !last.empty() && !read_float(last, backoff)) {
    fail(shown(last) + " is no backoff; a line has a number, " + std::to_string(length_) + " words and a number");
  }
  if (!next_word(line).empty()) fail(shown(whole) + " has more than " + std::to_string(length_) + " words");
  if (length_ == 1) {
    // Some toolkits write the unknown word in capitals.
    const std::string_view word = words[0] == "<UNK>" ? "<unk>" : words[0];
    const auto found = ids_.find(word);
    uint32_t id;
    if (found == ids_.end()) {
      id = static_cast<uint32_t>(unigrams_.size());
      ids_.emplace(word, id);
      words_.emplace_back(word);
      unigrams_.push_back({});
    } else {
      id = found->second;
    }
    if (unigrams_[id].given) fail(shown(word) + " is there twice");
    unigrams_[id] = {probability, backoff, true};
    return;
  }
  uint32_t ids[max_order];
  for (uint32_t i = 0; i < length_; ++i) {
    const auto found = ids_.find(words[i] == "<UNK>" ? "<unk>" : words[i]);
    if (found == ids_.end()) fail(shown(words[i]) + " is not among the unigrams");
    ids[i] = found->second;
  }
  writer_->add(length_, ids, probability, backoff);
}

void ArpaReader::end_section() {
  if (seen_ != counts_[length_ - 1]) {
    fail("the " + std::to_string(length_) + "-grams end after " + std::to_string(seen_) + " of " +
         std::to_string(counts_[length_ - 1]) + "; the file was cut short");
  }
  state_ = State::sections;
  if (length_ == 1) start_tables();
}

void ArpaReader::start_tables() {
  for (uint32_t id = begin_id; id <= end_id; ++id) {
    if (!unigrams_[id].given) {
      fail(std::string("no unigram ") + (id == begin_id ? "<s>" : "</s>") + "; a model of sentences has both ends");
    }
  }
  // The table has a place for <unk> in any case.
  std::vector<uint64_t> counts = counts_;
  counts[0] = unigrams_.size();
  const Units units(UnitKind::words, std::move(words_));
  writer_ = std::make_unique<ModelWriter>(output_, static_cast<uint32_t>(counts.size()), std::move(counts),
                                          units.serialize(), metadata_, options_);
  for (uint32_t id = 0; id < unigrams_.size(); ++id) {
    writer_->add(1, &id, unigrams_[id].probability, unigrams_[id].backoff);
  }
  std::vector<Unigram>().swap(unigrams_);
}

ArpaWriter::ArpaWriter(std::string path, std::vector<uint64_t> counts, std::function<std::string(uint32_t)> word)
    : path_(std::move(path)),
      file_(std::fopen(path_.c_str(), "wb")),
      counts_(std::move(counts)),
      word_(std::move(word)) {
  if (!file_) throw_system(path_);
  buffer_ = "\\data\\\n";
  for (size_t k = 0; k < counts_.size(); ++k) {
    buffer_ += "ngram " + std::to_string(k + 1) + "=" + std::to_string(counts_[k]) + "\n";
  }
}

ArpaWriter::~ArpaWriter() {
  if (file_) {
    std::fclose(file_);
    std::remove(path_.c_str());
  }
}

void ArpaWriter::section(uint32_t length) {
  while (length_ < length) buffer_ += "\n\\" + std::to_string(++length_) + "-grams:\n";
}

void ArpaWriter::add(uint32_t length, const uint32_t* words, float probability, float backoff) {
  if (length < length_ || length > counts_.size()) throw std::invalid_argument("n-grams must come by rising length");
  section(length);
  // Ids may be missing: a vocabulary can have words that no text had.
  if (length == 1) {
    if (words_.size() <= *words) words_.resize(*words + size_t{1});
    words_[*words] = word_(*words);
  }
  char digits[32];
  buffer_.append(digits, std::to_chars(digits, digits + sizeof(digits), probability).ptr);
  for (uint32_t i = 0; i < length; ++i) {
    buffer_ += i ? ' ' : '\t';
    buffer_ += words_.at(words[i]);
  }
  if (length < counts_.size()) {
    buffer_ += '\t';
    buffer_.append(digits, std::to_chars(digits, digits + sizeof(digits), backoff).ptr);
  }
  buffer_ += '\n';
  if (buffer_.size() >= 1 << 20) flush();
}

void ArpaWriter::finish() {
  section(static_cast<uint32_t>(counts_.size()));
  buffer_ += "\n\\end\\\n";
  flush();
  std::FILE* const file = std::exchange(file_, nullptr);
  if (std::fclose(file)) throw_system(path_);
}

void ArpaWriter::flush() {
  if (std::fwrite(buffer_.data(), 1, buffer_.size(), file_) != buffer_.size()) throw_system(path_);
  buffer_.clear();
}

namespace {

template <bool Coded, bool Highest>
void write_length(const TextModel& text_model, uint32_t length, ArpaWriter& writer) {
  using L = EntryLayout<Coded, Highest>;
  const Model& model = text_model.model();
  const Table& table = model.header().tables[length - 1];
  const std::string_view packed = model.kept_words(length);
  const uint32_t bits = word_bits(model.header().vocabulary);
  const float* const books = model.books(length);
  uint64_t bit = 0;
  uint64_t entries = 0;
  const uint8_t* at = model.table(length);
  for (uint64_t slot = 0; slot < table.all_slots && entries < table.entries; ++slot, at += L::bytes) {
    if (!L::check(at)) continue;
    ++entries;
    uint32_t words[max_order];
    for (uint32_t i = 0; i < length; ++i, bit += bits) {
      // At most 32 bits from any bit on: five bytes, as far as there are that many.
      uint64_t window = 0;
      std::memcpy(&window, packed.data() + bit / 8, std::min<size_t>(5, packed.size() - bit / 8));
      words[i] = static_cast<uint32_t>(window >> bit % 8 & ((uint64_t{1} << bits) - 1));
      if (words[i] >= model.header().vocabulary) throw std::invalid_argument("its words are damaged");
    }
    const Entry entry = L::entry(at, books);
    writer.add(length, words, entry.probability, entry.backoff);
  }
  if (entries != table.entries) throw std::invalid_argument("a table is damaged: it has fewer entries than it says");
}

}  // namespace

void write_arpa(const TextModel& text_model, const std::string& path) {
  const Model& model = text_model.model();
  if (model.order() > 1 && !(model.header().flags & keeps_words)) {
    throw std::invalid_argument("was written without the words of its n-grams");
  }
  std::vector<uint64_t> counts;
  for (uint32_t k = 0; k < model.order(); ++k) counts.push_back(model.header().tables[k].entries);
  ArpaWriter writer(path, counts, [&](uint32_t id) { return text_model.units().word(text_model.swap().to_unit(id)); });
  for (uint32_t id = 0; id < model.header().vocabulary; ++id) {
    const Entry entry = model.unigram(id);
    writer.add(1, &id, entry.probability, entry.backoff);
  }
  for (uint32_t length = 2; length <= model.order(); ++length) {
    const bool highest = length == model.order();
    if (model.coded()) {
      highest ? write_length<true, true>(text_model, length, writer)
              : write_length<true, false>(text_model, length, writer);
    } else {
      highest ? write_length<false, true>(text_model, length, writer)
              : write_length<false, false>(text_model, length, writer);
    }
  }
  writer.finish();
}

}  // namespace codeshell::ngram
