#include "ngram/model.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "ngram/sort.h"

namespace codeshell::ngram {

namespace {

struct Descriptor {
  int number;
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
};

// All of a file in anonymous memory. Huge pages spare most misses of the page table in large tables.
void* read_whole(int file, uint64_t bytes, const std::string& path) {
  void* const base = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) throw_system(path);
#ifdef MADV_HUGEPAGE
  ::madvise(base, bytes, MADV_HUGEPAGE);
#endif
  for (uint64_t done = 0; done < bytes;) {
    const ssize_t got = ::pread(file, static_cast<char*>(base) + done, bytes - done, static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      const int error = got < 0 ? errno : EIO;  // it became shorter while it was read
      ::munmap(base, bytes);
      throw std::system_error(error, std::generic_category(), path);
    }
    done += static_cast<uint64_t>(got);
  }
  return base;
}

}  // namespace

Model::Model(const std::string& path, Memory memory) : path_(path) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  struct stat status;
  if (file.number < 0 || ::fstat(file.number, &status)) throw_system(path);
  if (!S_ISREG(status.st_mode)) throw ModelError{"not a file; give a model file"};
  bytes_ = static_cast<uint64_t>(status.st_size);
  if (bytes_ < sizeof(Header)) throw ModelError{"not a model of codeshell: it is too short for one"};
  void* base;
  if (memory == Memory::copied) {
    base = read_whole(file.number, bytes_, path);
  } else {
    base = ::mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, file.number, 0);
    if (base == MAP_FAILED) throw_system(path);
    ::madvise(base, bytes_, MADV_RANDOM);
  }
  base_ = static_cast<const uint8_t*>(base);
  header_ = reinterpret_cast<const Header*>(base_);
  try {
    check();
    if (coded()) {
      const auto* const values = reinterpret_cast<const float*>(base_ + header_->codebooks.offset);
      books_.assign(values, values + 2 * codes * order());
    }
  } catch (...) {
    ::munmap(base, bytes_);
    throw;
  }
}

Model::~Model() { ::munmap(const_cast<uint8_t*>(base_), bytes_); }

// Every offset that is used later lies within the file after this; what the tables hold cannot lead out of them.
void Model::check() const {
  const Header& header = *header_;
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
  if (header.file_bytes != bytes_) {
    throw ModelError{"it should have " + std::to_string(header.file_bytes) + " bytes and has " +
                     std::to_string(bytes_) + "; copy the file again or train it again"};
  }
  const auto bad = [](const std::string& what) { throw ModelError{"its header is not possible (" + what + ")"}; };
  const auto inside = [&](const Part& part, const char* name) {
    if (part.offset > bytes_ || part.bytes > bytes_ - part.offset) bad(name);
    if (part.offset % alignment) bad(name);
  };
  if (header.order < 1 || header.order > max_order) bad("order");
  if (header.flags & ~known_flags) bad("flags");
  if (header.vocabulary < 1 || header.begin >= header.vocabulary || header.end >= header.vocabulary) bad("vocabulary");
  inside(header.units, "units");
  inside(header.metadata, "metadata");
  const bool is_coded = header.flags & quantised, keeps = header.flags & keeps_words;
  for (uint32_t length = 1; length <= header.order; ++length) {
    const Table& table = header.tables[length - 1];
    inside(table.part, "a table");
    // Counts are bounded by the bytes first, so that the products below cannot run over.
    if (table.all_slots > bytes_ || table.slots > table.all_slots || table.entries > table.all_slots || !table.slots ||
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
