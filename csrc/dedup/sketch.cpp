#include "dedup/sketch.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <new>
#include <stdexcept>
#include <system_error>
#include <unordered_map>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace codeshell::dedup {

namespace {

// The number of equal bytes among the first `lanes`, eight at a time in a 64-bit word. Equal bytes are the zero bytes
// of the XOR. Adding 0x7F to the low 7 bits of each byte sets its top bit unless they are all zero, without a carry
// into the next byte. The multiplication adds the eight bits up in the highest byte.
uint32_t equal_scalar(const uint8_t* a, const uint8_t* b, size_t lanes) {
  constexpr uint64_t low7 = 0x7F7F7F7F7F7F7F7Fu;
  uint32_t equal = 0;
  for (size_t i = 0; i < lanes; i += 8) {
    uint64_t x, y;
    std::memcpy(&x, a + i, 8);
    std::memcpy(&y, b + i, 8);
    uint64_t differ = x ^ y;
    if (lanes - i < 8) differ |= ~uint64_t{0} << 8 * (lanes - i);       // little-endian: later bytes are higher
    const uint64_t zero = ~(((differ & low7) + low7) | differ | low7);  // 0x80 where the bytes are equal, else 0
    equal += static_cast<uint32_t>((zero >> 7) * 0x0101010101010101u >> 56);
  }
  return equal;
}

// In all of these functions a match is always written, and `found` advances only if it counts: no branch to mispredict.
size_t similar_scalar(const uint8_t* one, const uint8_t* many, size_t count, size_t width, size_t lanes, uint32_t least,
                      Match* out) {
  // Compare all of `many`, one after the other.
  size_t found = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t equal = equal_scalar(one, many + i * width, lanes);
    out[found] = {static_cast<uint32_t>(i), equal};
    found += equal >= least;
  }
  return found;
}

#if defined(__x86_64__)

constexpr size_t block = 64;  // bytes whose comparison is one 64-bit mask

// The bits of the last block that are lanes; the others are padding.
uint64_t tail_mask(size_t lanes) { return lanes % block ? (uint64_t{1} << lanes % block) - 1 : ~uint64_t{0}; }

#define CODESHELL_AVX2 __attribute__((target("avx2,popcnt")))
#define CODESHELL_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,popcnt")))

// `blocks` fixed at compile time keeps `one` in registers for all of `many`; 0 stands for any number, which is
// reloaded. 64 bytes are two vectors; a byte compare and a movemask give 32 bits of the mask each.
template <size_t blocks>
CODESHELL_AVX2 size_t scan_avx2(const uint8_t* one, const uint8_t* many, size_t count, size_t width, size_t lanes,
                                uint32_t least, Match* out) {
  const size_t n = blocks ? blocks : (lanes + block - 1) / block;
  const uint64_t tail = tail_mask(lanes);
  const auto* a = reinterpret_cast<const __m256i*>(one);
  __m256i held[blocks ? 2 * blocks : 1];
  for (size_t v = 0; v < 2 * blocks; ++v) held[v] = _mm256_loadu_si256(a + v);
  size_t found = 0;
  for (size_t i = 0; i < count; ++i) {
    const auto* b = reinterpret_cast<const __m256i*>(many + i * width);
    // Block by block; only the last one has padding to mask out.
    int64_t equal = 0;
    for (size_t v = 0; v < n; ++v) {
      const __m256i low = blocks ? held[2 * v] : _mm256_loadu_si256(a + 2 * v);
      const __m256i high = blocks ? held[2 * v + 1] : _mm256_loadu_si256(a + 2 * v + 1);
      const auto first =
          static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(low, _mm256_loadu_si256(b + 2 * v))));
      const auto second =
          static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(high, _mm256_loadu_si256(b + 2 * v + 1))));
      const uint64_t mask = first | uint64_t{second} << 32;
      equal += _mm_popcnt_u64(v + 1 == n ? mask & tail : mask);
    }
    out[found] = {static_cast<uint32_t>(i), static_cast<uint32_t>(equal)};
    found += static_cast<uint32_t>(equal) >= least;
  }
  return found;
}

// The comparison gives the 64-bit mask at once, and the padding is masked out within it.
template <size_t blocks>
CODESHELL_AVX512 size_t scan_avx512(const uint8_t* one, const uint8_t* many, size_t count, size_t width, size_t lanes,
                                    uint32_t least, Match* out) {
  const size_t n = blocks ? blocks : (lanes + block - 1) / block;
  const uint64_t tail = tail_mask(lanes);
  __m512i held[blocks ? blocks : 1];
  for (size_t v = 0; v < blocks; ++v) held[v] = _mm512_loadu_si512(one + block * v);
  size_t found = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* b = many + i * width;
    int64_t equal = 0;
    for (size_t v = 0; v < n; ++v) {
      const __m512i mine = blocks ? held[v] : _mm512_loadu_si512(one + block * v);
      const __m512i other = _mm512_loadu_si512(b + block * v);
      equal += _mm_popcnt_u64(v + 1 == n ? _mm512_mask_cmpeq_epi8_mask(tail, mine, other)
                                         : _mm512_cmpeq_epi8_mask(mine, other));
    }
    out[found] = {static_cast<uint32_t>(i), static_cast<uint32_t>(equal)};
    found += static_cast<uint32_t>(equal) >= least;
  }
  return found;
}

// A count of blocks is fixed only where the sketches have exactly that many: one more would read the next sketch.
// 126 lanes, the default, are two blocks. AVX2 has 16 registers, so four blocks (eight vectors) would leave too few.
size_t similar_avx2(const uint8_t* one, const uint8_t* many, size_t count, size_t width, size_t lanes, uint32_t least,
                    Match* out) {
  switch ((lanes + block - 1) / block) {
    case 1: return scan_avx2<1>(one, many, count, width, lanes, least, out);
    case 2: return scan_avx2<2>(one, many, count, width, lanes, least, out);
    default: return scan_avx2<0>(one, many, count, width, lanes, least, out);
  }
}

size_t similar_avx512(const uint8_t* one, const uint8_t* many, size_t count, size_t width, size_t lanes, uint32_t least,
                      Match* out) {
  switch ((lanes + block - 1) / block) {
    case 1: return scan_avx512<1>(one, many, count, width, lanes, least, out);
    case 2: return scan_avx512<2>(one, many, count, width, lanes, least, out);
    case 3: return scan_avx512<3>(one, many, count, width, lanes, least, out);
    case 4: return scan_avx512<4>(one, many, count, width, lanes, least, out);
    default: return scan_avx512<0>(one, many, count, width, lanes, least, out);
  }
}

#elif defined(__aarch64__)

size_t similar_neon(const uint8_t* one, const uint8_t* many, size_t count, size_t width, size_t lanes, uint32_t least,
                    Match* out) {
  // Whole vectors of 16 bytes; what is left goes through the scalar code.
  const size_t whole = lanes / 16 * 16;
  size_t found = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* b = many + i * width;
    uint32_t equal = 0;
    // An equal byte compares to 0xFF, which is -1: subtracting counts it. A byte counts to 255 before it is added up.
    for (size_t first = 0; first < whole; first += 16 * 255) {
      uint8x16_t sums = vdupq_n_u8(0);
      for (size_t v = first; v < std::min(whole, first + 16 * 255); v += 16) {
        sums = vsubq_u8(sums, vceqq_u8(vld1q_u8(one + v), vld1q_u8(b + v)));
      }
      equal += vaddlvq_u8(sums);
    }
    if (whole < lanes) equal += equal_scalar(one + whole, b + whole, lanes - whole);
    out[found] = {static_cast<uint32_t>(i), equal};
    found += equal >= least;
  }
  return found;
}

#endif

// An error of the system about a file; the bindings turn it into OSError.
std::filesystem::filesystem_error file_error(const char* what, const std::string& path, int code) {
  return {what, path, std::error_code(code, std::generic_category())};
}

}  // namespace

AlignedBytes aligned_bytes(size_t size) {
  // Pages of 2 MiB if the memory is worth two of them, else cache lines of 64 bytes. The size is rounded up to the
  // alignment, as std::aligned_alloc asks.
  constexpr size_t huge = size_t{2} << 20;
  const size_t alignment = size < 2 * huge ? 64 : huge;
  auto* bytes = static_cast<uint8_t*>(std::aligned_alloc(alignment, (size + alignment) / alignment * alignment));
  if (!bytes) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  // Sketches are read at random: with small pages every one of them would miss the TLB as well.
  if (alignment == huge) madvise(bytes, size, MADV_HUGEPAGE);
#endif
  return AlignedBytes(bytes);
}

Similar similar(simd::Level level) {
#if defined(__x86_64__)
  if (level == simd::Level::avx512) return similar_avx512;
  if (level == simd::Level::avx2) return similar_avx2;
#elif defined(__aarch64__)
  if (level == simd::Level::neon) return similar_neon;
#else
  (void)level;
#endif
  return similar_scalar;
}

Sketches::File::File(const std::string& path) : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (descriptor_ < 0) throw file_error("cannot open", path, errno);
}

Sketches::File::~File() { ::close(descriptor_); }

// A file that is too short is found when it is opened, not in the middle of a search.
void Sketches::File::check_size(uint64_t bytes) const {
  struct stat status;
  if (::fstat(descriptor_, &status) != 0) throw file_error("cannot read", path_, errno);
  const auto size = static_cast<uint64_t>(status.st_size);
  if (size < bytes) {
    throw std::invalid_argument("parts: '" + path_ + "' has " + std::to_string(size) +
                                " bytes, but its sketches end at " + std::to_string(bytes));
  }
}

void Sketches::File::read(uint8_t* out, uint64_t bytes, uint64_t offset) const {
  // A read may return less than it was asked for, and may be interrupted.
  constexpr uint64_t most = uint64_t{64} << 20;  // a system call reads less than 2 GiB
  while (bytes) {
    const ssize_t got = ::pread(descriptor_, out, std::min(bytes, most), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw file_error("cannot read", path_, got < 0 ? errno : EIO);  // 0: it was cut since it was opened
    out += got;
    offset += static_cast<uint64_t>(got);
    bytes -= static_cast<uint64_t>(got);
  }
}

Sketches::Sketches(const std::vector<SketchPart>& parts, size_t width, bool in_memory) : width_(width) {
  // A file that holds several parts is opened once.
  std::unordered_map<std::string, std::shared_ptr<const File>> files;
  for (const SketchPart& part : parts) {
    std::shared_ptr<const File>& file = files[part.path];
    if (!file) file = std::make_shared<const File>(part.path);
    file->check_size(part.offset + part.count * width);
    count_ += part.count;
    parts_.push_back({file, part.offset, count_});
  }
  // Read everything into one array, and close the files.
  if (!in_memory) return;
  owned_ = aligned_bytes(count_ * width);
  uint8_t* out = owned_.get();
  for (size_t p = 0; p < parts.size(); ++p) {
    const uint64_t bytes = parts[p].count * width;
    parts_[p].file->read(out, bytes, parts[p].offset);
    out += bytes;
  }
  parts_.clear();
  data_ = owned_.get();
}

// Finds the part of a document by binary search, and reads `width` bytes.
void Sketches::read_file(uint32_t document, uint8_t* out) const {
  // The first part that ends after the document; it begins where the one before ends.
  const auto part = std::upper_bound(parts_.begin(), parts_.end(), document,
                                     [](uint32_t wanted, const Part& p) { return wanted < p.end; });
  const uint64_t first = part == parts_.begin() ? 0 : part[-1].end;
  part->file->read(out, width_, part->offset + (document - first) * width_);
}

}  // namespace codeshell::dedup
