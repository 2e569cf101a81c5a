// From a text to its row in every result, in one pass. What the variables hold:
//   shingles   some 64-bit shingle hashes, in order and with repetitions: a chunk, or all of the text
//   minima_    (padded lanes,) uint32, lowered by every chunk; only the first `lanes` count
//   sums       the numbers that the fingerprint is made of, added up over the chunks
#include "dedup/sign.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <mutex>
#include <vector>

#include "dedup/hash.h"
#include "dedup/shingles.h"
#include "simd/threads.h"

namespace codeshell::dedup {

namespace {

// The numbers that a fingerprint is made of. They are sums, so the order of the shingles does not count. The second is
// not a function of the first, so two multisets that differ agree in both only by chance.
struct Sums {
  uint64_t plain = 0;    // of the shingles
  uint64_t product = 0;  // of low32 * high32
  uint64_t count = 0;

  void add(const uint64_t* shingles, size_t n, simd::Level level);
};

// Local sums, so that the compiler can keep them in registers. Inlined into one function per instruction set.
inline __attribute__((always_inline)) void add_all(const uint64_t* shingles, size_t n, Sums& sums) {
  uint64_t plain = 0, product = 0;
  for (size_t i = 0; i < n; ++i) {
    plain += shingles[i];
    product += (shingles[i] & 0xFFFFFFFFu) * (shingles[i] >> 32);
  }
  sums.plain += plain;
  sums.product += product;
  sums.count += n;
}

void add_scalar(const uint64_t* shingles, size_t n, Sums& sums) { add_all(shingles, n, sums); }

#if defined(__x86_64__)

// The compiler vectorises these: sums of integers may be taken in any order.
__attribute__((target("avx2"))) void add_avx2(const uint64_t* shingles, size_t n, Sums& sums) {
  add_all(shingles, n, sums);
}

__attribute__((target("avx512f,avx512dq"))) void add_avx512(const uint64_t* shingles, size_t n, Sums& sums) {
  add_all(shingles, n, sums);
}

#endif

void Sums::add(const uint64_t* shingles, size_t n, simd::Level level) {
#if defined(__x86_64__)
  if (level == simd::Level::avx512) return add_avx512(shingles, n, *this);
  if (level == simd::Level::avx2) return add_avx2(shingles, n, *this);
#else
  (void)level;
#endif
  add_scalar(shingles, n, *this);
}

// A document without shingles is fingerprinted by its bytes, eight at a time. Its count of 0 keeps it apart from
// documents that have shingles.
Sums blank_sums(std::string_view text) {
  Sums sums{~uint64_t{text.size()}, text.size(), 0};
  for (size_t at = 0; at < text.size(); at += 8) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + at, std::min<size_t>(8, text.size() - at));
    sums.plain = mix64(sums.plain ^ word);
    sums.product = mix64(sums.product + word);
  }
  return sums;
}

// Signs documents one by one, with the scratch memory of one thread.
class Signer {
 public:
  Signer(const Shingling& shingling, const MinHash& minhash, size_t bands, simd::Level level, const SignOutput& out)
      : shingling_(shingling), minhash_(minhash), bands_(bands), level_(level), out_(out), minima_(minhash.padded()) {}

  // Signs one document and writes row d of every result.
  void sign(std::string_view text, size_t d) {
    std::fill(minima_.begin(), minima_.end(), ~0u);
    Sums sums;
    // Our own shingles come a chunk of the text at a time, so that text, tokens, shingles and minima meet in the
    // first-level cache and memory does not grow with the text. The peers' presets make all shingles first.
    if (shingling_.preset == Preset::code) {
      for (ShingleStream stream(text, shingling_.ngram, level_, scratch_); !stream.done();) {
        add(shingles_, stream.next(shingles_), sums);
      }
    } else {
      make_shingles(text, shingling_, level_, scratch_);
      add(scratch_.shingles.data(), scratch_.shingles.size(), sums);
    }
    write(text, sums, d);
  }

 private:
  // Takes some more shingles into the minima and into the sums.
  void add(const uint64_t* shingles, size_t count, Sums& sums) {
    minhash_.update(shingles, count, level_, minima_.data());
    sums.add(shingles, count, level_);
  }

  // Turns the minima and sums of document d into what was asked for.
  void write(std::string_view text, const Sums& sums, size_t d) {
    const size_t lanes = minhash_.lanes, width = sketch_width(lanes);
    if (out_.lanes) std::copy_n(minima_.data(), lanes, out_.lanes + d * lanes);
    // A document without shingles gets the key 0 in every band: "no key", so that it is a candidate of nothing.
    if (out_.keys) {
      uint64_t* const keys = out_.keys + d * bands_;
      if (sums.count) {
        band_keys(minima_.data(), bands_, lanes / bands_, level_, keys);
      } else {
        std::fill_n(keys, bands_, 0);
      }
    }
    // The low byte of each lane, then zeros up to the width.
    if (out_.sketches) {
      uint8_t* const sketch = out_.sketches + d * width;
      for (size_t i = 0; i < lanes; ++i) sketch[i] = static_cast<uint8_t>(minima_[i]);
      std::fill(sketch + lanes, sketch + width, 0);
    }
    if (out_.fingerprints) {
      // The first half is a hash of the sum and the number of shingles, the second of all three numbers.
      const Sums from = sums.count ? sums : blank_sums(text);
      uint64_t* const fingerprint = out_.fingerprints + 2 * d;
      fingerprint[0] = mix64(from.plain ^ mix64(from.count));
      fingerprint[1] = mix64(from.product ^ fingerprint[0]);
    }
    if (out_.counts) out_.counts[d] = static_cast<uint32_t>(std::min<uint64_t>(sums.count, UINT32_MAX));
  }

  const Shingling& shingling_;
  const MinHash& minhash_;
  const size_t bands_;
  const simd::Level level_;
  const SignOutput& out_;
  std::vector<uint32_t> minima_;
  Scratch scratch_;
  // The shingles of one chunk. There is room for 24 KB; a chunk of ordinary code fills a fifth of it, or less.
  alignas(64) uint64_t shingles_[ShingleStream::max_shingles];
};

}  // namespace

void sign(const Texts& texts, const Shingling& shingling, const MinHash& minhash, size_t bands, simd::Level level,
          unsigned threads, const SignOutput& out) {
  constexpr size_t grain = 16;  // documents taken at once: few enough to balance, many enough not to contend
  threads = static_cast<unsigned>(std::min<size_t>(threads, (texts.count + grain - 1) / grain));
  // Threads take 16 documents at a time from a shared counter. Each writes rows of its own, so no lock is needed.
  std::atomic<size_t> next{0};
  std::exception_ptr error;
  std::mutex failing;
  const auto work = [&] {
    try {
      Signer signer(shingling, minhash, bands, level, out);
      for (size_t start; (start = next.fetch_add(grain)) < texts.count;) {
        for (size_t d = start; d < std::min(start + grain, texts.count); ++d) signer.sign(texts[d], d);
      }
    } catch (...) {  // out of memory: the caller hears of it, from whichever thread
      const std::lock_guard lock(failing);
      error = std::current_exception();
      next = texts.count;
    }
  };
  {
    const auto others = simd::start_threads(std::max(threads, 1U) - 1, work);
    work();
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace codeshell::dedup
