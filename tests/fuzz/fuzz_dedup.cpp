// Fuzzes the deduper's C++ on any bytes, with what must hold as assertions:
//
//   - every instruction set gives the same signatures, keys, sketches, fingerprints and shingle sets;
//   - a batch gives what its texts give one by one;
//   - intersections are those of std::set_intersection at every level.
//
// Build and run (clang with libFuzzer), from the project's root; -runs ends it:
//   clang++ -std=c++20 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Icsrc
//     tests/fuzz/fuzz_dedup.cpp csrc/dedup/*.cpp csrc/simd/{cpu,parallel}.cpp csrc/text/*.cpp -ldl -pthread -o
//     fuzz_dedup
//   ./fuzz_dedup -runs=10000000 -max_len=300 -dict=tests/fuzz/dedup.dict
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <memory>
#include <string_view>
#include <vector>

#include "dedup/shingles.h"
#include "dedup/sign.h"
#include "dedup/verify.h"

namespace {

using namespace codeshell::dedup;
using codeshell::simd::Level;

void require(bool condition) {
  if (!condition) std::abort();
}

struct Signed {
  std::vector<uint32_t> lanes, counts;
  std::vector<uint64_t> keys, fingerprints;
  std::vector<uint8_t> sketches;
  bool operator==(const Signed&) const = default;
};

Signed sign_all(const Texts& texts, const Shingling& shingling, size_t bands, size_t rows, Level level) {
  const size_t lanes = bands * rows;
  Signed result{std::vector<uint32_t>(texts.count * lanes), std::vector<uint32_t>(texts.count),
                std::vector<uint64_t>(texts.count * bands), std::vector<uint64_t>(texts.count * 2),
                std::vector<uint8_t>(texts.count * sketch_width(lanes))};
  const MinHash minhash(lanes, 7);
  sign(texts, shingling, minhash, bands, level, 1,
       {result.lanes.data(), result.keys.data(), result.sketches.data(), result.fingerprints.data(),
        result.counts.data()});
  return result;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  const auto preset = static_cast<Preset>(data[0] % 5);
  const uint32_t ngram = 1 + data[1] % 30;
  const size_t bands = 1 + data[2] % 5, rows = 1 + data[2] / 5 % 40;
  // An exact copy on the heap, so that one byte too far is seen.
  const size_t length = size - 3;
  const std::unique_ptr<char[]> copy(new char[length]);
  std::copy_n(data + 3, length, copy.get());
  const int64_t middle = static_cast<int64_t>(length ? (data[1] * 131u + data[2]) % (length + 1) : 0);
  const int64_t offsets[] = {0, middle, static_cast<int64_t>(length)};
  const Texts both{copy.get(), offsets, 2};
  const Shingling shingling{preset, ngram};

  // Scalar is the reference; the first byte chooses what is held against it.
  const Level wide = std::min(data[0] & 128 ? Level::avx2 : Level::avx512, codeshell::simd::level());
  static Scratch scratch;
  const Signed reference = sign_all(both, shingling, bands, rows, Level::scalar);
  require(sign_all(both, shingling, bands, rows, wide) == reference);
  const size_t d = data[0] >> 6 & 1;
  const Signed alone = sign_all({copy.get(), offsets + d, 1}, shingling, bands, rows, wide);
  require(std::equal(alone.keys.begin(), alone.keys.end(), reference.keys.begin() + static_cast<long>(d * bands)));
  require(alone.counts[0] == reference.counts[d]);

  std::vector<uint64_t> sets[2];
  for (size_t i = 0; i < 2; ++i) {
    make_shingle_set(both[i], shingling, Level::scalar, scratch);
    sets[i] = scratch.shingles;
    require(std::adjacent_find(sets[i].begin(), sets[i].end(), std::greater_equal<>()) == sets[i].end());
    make_shingle_set(both[i], shingling, wide, scratch);
    require(scratch.shingles == sets[i]);
  }
  std::vector<uint64_t> shared;
  std::set_intersection(sets[0].begin(), sets[0].end(), sets[1].begin(), sets[1].end(), std::back_inserter(shared));
  require(intersection(sets[0].data(), sets[0].size(), sets[1].data(), sets[1].size(), 0, wide) == shared.size());
  return 0;
}
