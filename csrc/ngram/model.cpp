#include "ngram/model.h"

#include <string>

namespace codeshell::ngram {

Model::Model(const std::string& path, Memory memory)
    : file_(path, memory), base_(file_.data()), header_(reinterpret_cast<const Header*>(base_)) {
  if (file_.bytes() < sizeof(Header)) throw ModelError{"not a model of codeshell: it is too short for one"};
  check();
  if (coded()) {
    const auto* const values = reinterpret_cast<const float*>(base_ + header_->codebooks.offset);
    books_.assign(values, values + 2 * codes * order());
  }
}

// Every offset that is used later lies within the file after this; what the tables hold cannot lead out of them.
void Model::check() const {
  const Header& header = *header_;
  const uint64_t bytes = file_.bytes();
  if (std::memcmp(header.magic, magic, sizeof(header.magic)) != 0) {
    throw ModelError{"not a model of codeshell"};
  }
  if (header.version != format_version) {
    throw ModelError{"a model of format " + std::to_string(header.version) + ", and this codeshell reads format " +
                     std::to_string(format_version) + "; train it again"};
  }
  if (header.checksum != header_checksum(header)) {
    throw ModelError{"its header is damaged (wrong checksum); copy the file again or train it again"};
  }
  if (header.file_bytes != bytes) {
    throw ModelError{"it should have " + std::to_string(header.file_bytes) + " bytes and has " + std::to_string(bytes) +
                     "; copy the file again or train it again"};
  }
  const auto bad = [](const std::string& what) { throw ModelError{"its header is not possible (" + what + ")"}; };
  const auto inside = [&](const Part& part, const char* name) {
    if (part.offset > bytes || part.bytes > bytes - part.offset) bad(name);
    if (part.offset % alignment) bad(name);
  };
  if (header.order < 1 || header.order > max_order) bad("order");
  if (header.flags & ~known_flags) bad("flags");
  if (header.vocabulary < 1 || header.begin >= header.vocabulary || header.end >= header.vocabulary || !header.begin ||
      !header.end || header.begin == header.end)
    bad("vocabulary");
  inside(header.units, "units");
  inside(header.metadata, "metadata");
  const bool is_coded = header.flags & quantised, keeps = header.flags & keeps_words;
  for (uint32_t length = 1; length <= header.order; ++length) {
    const Table& table = header.tables[length - 1];
    inside(table.part, "a table");
    // Counts are bounded by the bytes first, so that the products below cannot run over.
    if (table.all_slots > bytes || table.slots > table.all_slots || table.entries > table.all_slots || !table.slots ||
        table.longest > table.all_slots) {
      bad("slots of a table");
    }
    const size_t size = length == 1 ? unigram_bytes(is_coded) : entry_bytes(is_coded, length == header.order);
    if (table.part.bytes != table.all_slots * size) bad("size of a table");
    if (length == 1 && table.all_slots != header.vocabulary) bad("size of the vocabulary");
    if (keeps && length > 1) {
      inside(table.words, "words of a table");
      if (table.words.bytes != packed_bytes(table.entries, length, header.vocabulary)) bad("words of a table");
    }
  }
  if (is_coded) {
    inside(header.codebooks, "codebooks");
    if (header.codebooks.bytes != header.order * 2 * codes * sizeof(float)) bad("codebooks");
  }
}

}  // namespace codeshell::ngram
