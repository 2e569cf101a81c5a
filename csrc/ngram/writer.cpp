#include "ngram/writer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "ngram/key.h"
#include "ngram/sort.h"

namespace codeshell::ngram {

static_assert(std::endian::native == std::endian::little, "model files are written as they lie in memory");

namespace {

// Bits one after the other, the lowest first, into a temporary file.
class BitWriter {
 public:
  explicit BitWriter(TemporaryFile& file) : file_(file) {}
  void put(uint32_t value, uint32_t bits) {
    word_ |= static_cast<uint64_t>(value) << used_;
    for (used_ += bits; used_ >= 8; used_ -= 8, word_ >>= 8) buffer_.push_back(static_cast<char>(word_));
    if (buffer_.size() >= 1 << 16) flush();
  }
  void end() {
    if (used_) buffer_.push_back(static_cast<char>(word_));
    flush();
  }

 private:
  void flush() {
    file_.write(buffer_.data(), buffer_.size());
    buffer_.clear();
  }
  TemporaryFile& file_;
  std::string buffer_;
  uint64_t word_ = 0;
  uint32_t used_ = 0;
};

}  // namespace

ModelWriter::ModelWriter(std::string path, uint32_t order, std::vector<uint64_t> counts, std::string unit_blob,
                         std::string metadata_json, const WriterOptions& options)
    : path_(std::move(path)),
      counts_(std::move(counts)),
      units_(std::move(unit_blob)),
      metadata_(std::move(metadata_json)),
      options_(options) {
  if (order < 1 || order > max_order) throw std::invalid_argument("order: must be 1 to " + std::to_string(max_order));
  if (counts_.size() != order) throw std::invalid_argument("counts: one for each order");
  if (counts_[0] < 1 || counts_[0] > UINT32_MAX) throw std::invalid_argument("counts: a vocabulary of 1 to 2^32 - 1");
  if (!options_.load) options_.load = options_.quantise ? 80 : 67;
  if (options_.load < 10 || options_.load > 95) throw std::invalid_argument("load: must be 10 to 95");
  std::memcpy(header_.magic, magic, sizeof(header_.magic));
  header_.version = format_version;
  header_.order = order;
  header_.vocabulary = static_cast<uint32_t>(counts_[0]);
  if (options_.quantise) header_.flags |= quantised;
  if (options_.keep_words) header_.flags |= keeps_words;
  set_ends(options_.begin, options_.end);
  file_ = std::fopen(path_.c_str(), "wb");
  if (!file_) throw_system(path_);
  // The header's place; it is known at the end.
  write(&header_, sizeof(header_));
  pad();
  unigrams_.assign(2 * counts_[0], 0);
  for (size_t i = 0; i < unigrams_.size(); i += 2) unigrams_[i] = -100;
  books_.resize(2 * order);
}

ModelWriter::~ModelWriter() {
  if (file_) {
    std::fclose(file_);
    std::remove(path_.c_str());
  }
}

void ModelWriter::set_ends(uint32_t begin, uint32_t end) {
  if (!begin || !end || begin == end || begin >= header_.vocabulary || end >= header_.vocabulary) {
    throw std::invalid_argument("the ids of <s> and </s>: two words of the vocabulary, and not <unk>");
  }
  header_.begin = begin;
  header_.end = end;
}

void ModelWriter::add(uint32_t length, const uint32_t* words, float probability, float backoff) {
  if (length != length_) open_length(length);
  if (!std::isfinite(probability) || !std::isfinite(backoff)) throw std::invalid_argument("a number is not finite");
  for (uint32_t i = 0; i < length; ++i) {
    if (words[i] >= header_.vocabulary) throw std::invalid_argument("a word's id is beyond the vocabulary");
  }
  ++added_;
  if (length == 1) {
    unigrams_[2 * size_t{words[0]}] = probability;
    unigrams_[2 * size_t{words[0]} + 1] = header_.order > 1 ? backoff : 0;
    return;
  }
  uint64_t key = first_key(words[length - 1]);
  for (uint32_t i = length - 1; i-- > 1;) key = longer_key(key, words[i]);
  // Now the key of the suffix. A unigram is always there.
  if (options_.check_suffixes && length > 2) {
    suffixes_.push_back(spread(key));
    if (suffixes_.size() == 1 << 16) look_for_suffixes();
  }
  key = spread(longer_key(key, words[0]));
  if (length == header_.order) backoff = 0;
  sorter_->add(key, probability, backoff, words);
  if (probabilities_) {
    probabilities_->add(probability);
    backoffs_->add(backoff);
  }
}

void ModelWriter::add_key(uint32_t length, uint64_t key, float probability, float backoff) {
  if (length != length_) open_length(length);
  if (length < 2 || options_.keep_words || options_.check_suffixes)
    throw std::invalid_argument("an n-gram by key alone");
  if (!std::isfinite(probability) || !std::isfinite(backoff)) throw std::invalid_argument("a number is not finite");
  ++added_;
  if (length == header_.order) backoff = 0;
  sorter_->add(spread(key), probability, backoff, nullptr);
  if (probabilities_) {
    probabilities_->add(probability);
    backoffs_->add(backoff);
  }
}

void ModelWriter::look_for_suffixes() {
  // Sorted first, so that both lists are walked once.
  std::sort(suffixes_.begin(), suffixes_.end());
  auto from = shorter_.begin();
  for (const uint64_t suffix : suffixes_) {
    if (!options_.suffix_closed) break;
    from = std::lower_bound(from, shorter_.end(), suffix);
    if (from == shorter_.end() || *from != suffix) options_.suffix_closed = false;
  }
  suffixes_.clear();
}

void ModelWriter::open_length(uint32_t length) {
  if (length < length_ || length > header_.order) throw std::invalid_argument("n-grams must come by rising length");
  // Lengths without n-grams get empty tables.
  while (length_ < length) {
    close_length();
    ++length_;
    added_ = 0;
    sorter_ = make_sorter(options_.keep_words ? length_ : 0, counts_[length_ - 1], options_.memory_bytes, path_);
    if (options_.quantise) {
      probabilities_ = std::make_unique<Histogram>();
      backoffs_ = std::make_unique<Histogram>();
    }
  }
}

void ModelWriter::close_unigrams() {
  Table& table = header_.tables[0];
  table.entries = table.slots = table.all_slots = counts_[0];
  table.part.offset = position_;
  if (!options_.quantise) {
    write(unigrams_.data(), unigrams_.size() * sizeof(float));
  } else {
    Histogram probabilities, backoffs;
    for (size_t i = 0; i < unigrams_.size(); i += 2) {
      probabilities.add(unigrams_[i]);
      backoffs.add(unigrams_[i + 1]);
    }
    books_[0] = probabilities.codebook(codes, false);
    books_[1] = backoffs.codebook(codes, true);
    std::string bytes;
    for (size_t i = 0; i < unigrams_.size(); i += 2) {
      bytes.push_back(static_cast<char>(books_[0].code(unigrams_[i])));
      bytes.push_back(static_cast<char>(books_[1].code(unigrams_[i + 1])));
    }
    write(bytes.data(), bytes.size());
  }
  table.part.bytes = position_ - table.part.offset;
  std::vector<float>().swap(unigrams_);
  pad();
}

void ModelWriter::close_length() {
  // Every unigram is in the table; those that nobody added keep their default.
  if (length_ == 1 && added_ <= counts_[0]) return close_unigrams();
  if (added_ != counts_[length_ - 1]) {
    throw std::invalid_argument(std::to_string(length_) + "-grams: " + std::to_string(added_) + " were added, and " +
                                std::to_string(counts_[length_ - 1]) + " announced");
  }
  if (options_.check_suffixes) {
    look_for_suffixes();
    std::vector<uint64_t>().swap(shorter_);
    keys_.reserve(length_ < header_.order ? added_ : 0);
  }
  const bool highest = length_ == header_.order, coded = options_.quantise;
  Codebook& probability_book = books_[2 * (length_ - 1)];
  Codebook& backoff_book = books_[2 * (length_ - 1) + 1];
  if (coded) {
    probability_book = probabilities_->codebook(codes, false);
    backoff_book = backoffs_->codebook(codes, true);
  }
  Table& table = header_.tables[length_ - 1];
  table.part.offset = position_;
  table.slots = std::max<uint64_t>(1, (added_ * 100 + options_.load - 1) / options_.load);
  const size_t size = entry_bytes(coded, highest);
  const uint32_t mask = check_mask(coded), bits = word_bits(header_.vocabulary);
  std::unique_ptr<TemporaryFile> words_file;
  std::unique_ptr<BitWriter> words;
  if (options_.keep_words) {
    words_file = std::make_unique<TemporaryFile>(path_ + ".words");
    words = std::make_unique<BitWriter>(*words_file);
  }
  // The keys rise, so the slots do, and the table is written from its beginning to its end.
  std::string buffer;
  uint64_t next = 0, last = 0;
  sorter_->drain([&](const RecordView& record) {
    if (table.entries && record.key == last) {
      ++repeated_;
      return;
    }
    last = record.key;
    ++table.entries;
    const uint64_t home = home_slot(record.key, table.slots), slot = std::max(home, next);
    buffer.append((slot - next) * size, '\0');
    const uint32_t check = check_of(record.key, mask);
    if (coded) {
      char entry[4] = {static_cast<char>(check), static_cast<char>(check >> 8),
                       static_cast<char>(probability_book.code(record.probability)),
                       static_cast<char>(backoff_book.code(record.backoff))};
      buffer.append(entry, size);
    } else {
      char entry[12];
      std::memcpy(entry, &check, 4);
      std::memcpy(entry + 4, &record.probability, 4);
      std::memcpy(entry + 8, &record.backoff, 4);
      buffer.append(entry, size);
    }
    table.longest = std::max(table.longest, slot - home);
    next = slot + 1;
    if (words) {
      for (uint32_t i = 0; i < length_; ++i) words->put(record.words[i], bits);
    }
    if (options_.check_suffixes && !highest) keys_.push_back(record.key);
    if (buffer.size() >= 1 << 20) {
      write(buffer.data(), buffer.size());
      buffer.clear();
    }
  });
  table.all_slots = std::max(table.slots, next);
  buffer.append((table.all_slots - next) * size, '\0');
  write(buffer.data(), buffer.size());
  table.part.bytes = position_ - table.part.offset;
  pad();
  shorter_.swap(keys_);
  if (words) {
    words->end();
    words_file->rewind();
    table.words.offset = position_;
    std::vector<char> block(1 << 16);
    while (const size_t got = words_file->read(block.data(), block.size())) write(block.data(), got);
    table.words.bytes = position_ - table.words.offset;
    pad();
  }
  sorter_.reset();
}

void ModelWriter::finish() {
  open_length(header_.order);
  close_length();
  if (options_.quantise) {
    header_.codebooks.offset = position_;
    for (const Codebook& book : books_) write(book.values.data(), sizeof(book.values));
    header_.codebooks.bytes = position_ - header_.codebooks.offset;
    pad();
  }
  header_.units = {position_, units_.size()};
  write(units_.data(), units_.size());
  pad();
  header_.metadata = {position_, metadata_.size()};
  write(metadata_.data(), metadata_.size());
  if (options_.suffix_closed) header_.flags |= suffix_closed;
  header_.file_bytes = position_;
  header_.checksum = header_checksum(header_);
  if (std::fseek(file_, 0, SEEK_SET)) throw_system(path_);
  write(&header_, sizeof(header_));
  std::FILE* const file = std::exchange(file_, nullptr);
  if (std::fclose(file)) {
    const int error = errno;
    std::remove(path_.c_str());
    errno = error;
    throw_system(path_);
  }
}

void ModelWriter::write(const void* data, size_t bytes) {
  if (bytes && std::fwrite(data, 1, bytes, file_) != bytes) throw_system(path_);
  position_ += bytes;
}

void ModelWriter::pad() {
  static constexpr char zeros[alignment] = {};
  write(zeros, (alignment - position_ % alignment) % alignment);
}

}  // namespace codeshell::ngram
