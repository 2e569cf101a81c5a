#include "dedup/sets.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <numeric>

namespace codeshell::dedup {

namespace {

constexpr size_t most_open = 256;  // a process may have 1,024 files open where nobody raised the limit
constexpr size_t rank_block = 8;   // words of the bitmap: a cache line
constexpr size_t size_block = 64;  // documents: 256 bytes of sizes to add up at most

[[noreturn]] void fail(const std::string& problem) { throw std::invalid_argument(problem); }

}  // namespace

// An open file, shared by the threads that read from it; closed when the last of them releases it.
struct Sets::File {
  explicit File(const std::string& path) : path(path), descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor < 0) throw FileError(path, errno, "cannot be opened");
  }
  ~File() { ::close(descriptor); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  uint64_t size() const {
    struct stat status;
    if (::fstat(descriptor, &status)) throw FileError(path, errno, "cannot be read");
    return static_cast<uint64_t>(status.st_size);
  }

  // pread has a position of its own, so any number of threads may read at once. It may return less than it was asked
  // for.
  void read(void* to, size_t bytes, uint64_t offset) const {
    auto* at = static_cast<char*>(to);
    while (bytes) {
      const ssize_t got = ::pread(descriptor, at, bytes, static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw FileError(path, errno, "cannot be read");
      if (got == 0) throw FileError(path, 0, "cut short");
      at += got;
      offset += static_cast<uint64_t>(got);
      bytes -= static_cast<size_t>(got);
    }
  }

  // A section as a vector; its size is checked against the file's before memory is taken for it.
  template <class T>
  std::vector<T> section(uint64_t offset, uint64_t count, uint64_t size) const {
    if (offset > size || count > (size - offset) / sizeof(T)) throw FileError(path, 0, "cut short");
    std::vector<T> values(count);
    read(values.data(), count * sizeof(T), offset);
    return values;
  }

  const std::string path;
  const int descriptor;
};

// Builds the bitmap and the counts before every block of it.
void Sets::Part::set_positions(uint32_t from, const uint32_t* documents, size_t count) {
  for (size_t i = 1; i < count; ++i) {
    if (documents[i - 1] >= documents[i]) fail("documents: must ascend");
  }
  // Positions must fit in 32 bits, and 2^32 - 1 stays free for "absent".
  if (uint64_t{from} + documents[count - 1] >= UINT32_MAX) fail("documents: positions must be below 2^32 - 1");
  // Bit i stands for the position first + i.
  first = from + documents[0];
  last = from + documents[count - 1];
  bits.assign((last - first) / 64 + 1, 0);
  for (size_t i = 0; i < count; ++i) {
    const uint32_t at = documents[i] - documents[0];
    bits[at / 64] |= uint64_t{1} << at % 64;
  }
  // ranks[b] is the number of set bits before block b; find() then counts at most 8 words.
  ranks.reserve(bits.size() / rank_block + 1);
  uint32_t before = 0;
  for (size_t w = 0; w < bits.size(); ++w) {
    if (w % rank_block == 0) ranks.push_back(before);
    before += static_cast<uint32_t>(std::popcount(bits[w]));
  }
}

// Keeps sizes of 4 bytes instead of bounds of 8, and the start of every 64th set; find() adds up at most 63 sizes.
void Sets::Part::set_bounds(const int64_t* bounds, size_t count, uint64_t values_count) {
  // Each check names what is wrong; together they make every later access to the values safe.
  if (bounds[0] < 0) fail("bounds: must not be negative");
  sizes.resize(count);
  starts.reserve(count / size_block + 1);
  for (size_t i = 0; i < count; ++i) {
    if (bounds[i] > bounds[i + 1]) fail("bounds: must not fall");
    if (bounds[i + 1] - bounds[i] > INT32_MAX) fail("bounds: a set has 2^31 values or more");
    if (i % size_block == 0) starts.push_back(static_cast<uint64_t>(bounds[i]));
    sizes[i] = static_cast<uint32_t>(bounds[i + 1] - bounds[i]);
  }
  if (static_cast<uint64_t>(bounds[count]) > values_count) fail("bounds: beyond the values");
}

// Files: read and check all but the values.
Sets::Sets(const std::vector<Source>& sources) {
  for (const Source& source : sources) {
    const File file(source.path);
    const uint64_t size = file.size();
    if (source.count >= UINT32_MAX) fail("count: must be below 2^32 - 1");
    const auto documents = file.section<uint32_t>(source.documents_offset, source.count, size);
    const auto bounds = file.section<int64_t>(source.bounds_offset, source.count + 1, size);
    if (source.values_offset > size) throw FileError(source.path, 0, "cut short");
    if (source.count == 0) continue;
    Part& part = parts_.emplace_back();
    part.path = source.path;
    part.values_offset = source.values_offset;
    // All that follows the offset may be values; the bounds must stay within it.
    const uint64_t values_count = (size - source.values_offset) / sizeof(uint64_t);
    if (bounds.back() >= 0 && static_cast<uint64_t>(bounds.back()) > values_count) {
      throw FileError(source.path, 0, "cut short");
    }
    try {
      // An error here is the file's, not the caller's, so it gets the file's name.
      part.set_positions(source.first, documents.data(), documents.size());
      part.set_bounds(bounds.data(), documents.size(), values_count);
    } catch (const std::invalid_argument& error) {
      throw FileError(source.path, 0, error.what());
    }
  }
  index();
}

// Arrays: one part, whose values stay where they are.
Sets::Sets(const uint32_t* documents, size_t count, const int64_t* bounds, const uint64_t* values, size_t values_count)
    : values_(values) {
  if (count) {
    Part& part = parts_.emplace_back();
    part.set_positions(0, documents, count);
    part.set_bounds(bounds, count, values_count);
  }
  index();
}

// Orders the parts by position, so that find() can search them. A position must belong to one part at most.
void Sets::index() {
  // Sorted by first position, two parts interleave if one begins before its predecessor ends.
  std::sort(parts_.begin(), parts_.end(), [](const Part& a, const Part& b) { return a.first < b.first; });
  for (size_t p = 0; p < parts_.size(); ++p) {
    if (p && parts_[p].first <= parts_[p - 1].last) {
      fail(parts_[p - 1].path + " and " + parts_[p].path + ": their documents must not interleave");
    }
    firsts_.push_back(parts_[p].first);
    documents_ += parts_[p].sizes.size();
  }
  files_.resize(parts_.size());
}

Sets::Place Sets::find(uint32_t position) const {
  // The last part that begins at or before the position, if the position is in its range.
  const auto after = std::upper_bound(firsts_.begin(), firsts_.end(), position);
  if (after == firsts_.begin()) return {};
  const auto p = static_cast<uint32_t>(after - firsts_.begin() - 1);
  const Part& part = parts_[p];
  if (position > part.last) return {};
  // Is its bit set? If so, the number of set bits before it is the document's number in the part.
  const uint32_t at = position - part.first;
  const size_t word = at / 64;
  if (!(part.bits[word] >> at % 64 & 1)) return {};
  // Whole words of the block, then the bits below this one in its own word.
  size_t document = part.ranks[word / rank_block];
  for (size_t w = word / rank_block * rank_block; w < word; ++w) {
    document += static_cast<size_t>(std::popcount(part.bits[w]));
  }
  document += static_cast<size_t>(std::popcount(part.bits[word] & ((uint64_t{1} << at % 64) - 1)));
  // The set starts after all sets before it: the start of its block, plus the sizes in between.
  const uint32_t* const sizes = part.sizes.data();
  const uint64_t start =
      std::accumulate(sizes + document / size_block * size_block, sizes + document, part.starts[document / size_block]);
  return {p, sizes[document], start};
}

// The open file of a part. When 256 are open, the one that was opened first makes room.
std::shared_ptr<const Sets::File> Sets::open(uint32_t part) const {
  const std::lock_guard lock(opening_);
  if (!files_[part]) {
    if (opened_.size() == most_open) {
      files_[opened_.front()].reset();  // a thread that reads from it holds it until it is done
      opened_.pop_front();
    }
    files_[part] = std::make_shared<const File>(parts_[part].path);
    opened_.push_back(part);
  }
  return files_[part];
}

// In memory: no copy. In a file: one read into the caller's buffer, which only grows.
const uint64_t* Sets::read(const Place& place, std::vector<uint64_t>& buffer) const {
  if (values_) return values_ + place.start;
  if (buffer.size() < place.size) buffer.resize(place.size);
  const uint64_t offset = parts_[place.part].values_offset + place.start * sizeof(uint64_t);
  open(place.part)->read(buffer.data(), place.size * sizeof(uint64_t), offset);
  return buffer.data();
}

// A cache with one place per residue of the position. Large sets would fill it, so they go into a buffer of their own.
const uint64_t* LastSets::read(uint32_t position, const Sets::Place& place) {
  if (place.size > largest || sets_->in_memory()) return sets_->read(place, large_);
  if (slots_.empty()) slots_.resize(slots);
  Slot& slot = slots_[position % slots];
  if (!slot.used || slot.position != position) {
    slot.used = false;  // reading may throw
    sets_->read(place, slot.values);
    slot.position = position;
    slot.used = true;
  }
  return slot.values.data();
}

}  // namespace codeshell::dedup
