// Prints digests of all that the deduper computes, of a corpus that every machine makes alike; so two machines, or two
// compilers, give the same bits if and only if they print the same lines. `tools/check_aarch64.py` compares x86-64 with
// AArch64 that way, under an emulator where there is no such machine.
//
//   same_bits [INPUTS [FILE ...]]
//
// In each part of it every instruction set of this processor must give the same digest (exit status 1 and a line on
// stderr otherwise). Then INPUTS (default: 1000) inputs go through fuzz_texts.cpp, which aborts where something does
// not hold. FILEs are added to the corpus.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "dedup/cpsjoin.h"
#include "dedup/datasketch.h"
#include "dedup/groups.h"
#include "dedup/hash.h"
#include "dedup/overlap.h"
#include "dedup/shingles.h"
#include "dedup/sign.h"
#include "dedup/sketch.h"
#include "dedup/verify.h"
#include "text/measures.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using namespace codeshell::dedup;
using codeshell::simd::Level;

struct Random {
  uint64_t state;
  uint64_t next() { return mix64(state += 0x9E3779B97F4A7C15u); }
  size_t below(size_t bound) { return static_cast<size_t>(next() % bound); }
};

class Digest {
 public:
  void add(uint64_t value) { hash_ = mix64(hash_ ^ value) + 0x9E3779B97F4A7C15u; }
  template <class T>
  void add(const std::vector<T>& values) {
    add(values.size());
    for (const T value : values) add(static_cast<uint64_t>(value));
  }
  uint64_t get() const { return hash_; }

 private:
  uint64_t hash_ = 0;
};

constexpr const char* pieces[] = {
    "return",   "x",
    "_y1",      "if (",
    ") {\n",    "    ",
    "self.",    "0x1F",
    "don't",    " 10km ",
    "1,000.50", "+=",
    "/* ",      "一",
    "二十",     "한국",
    "かな",     "é",
    "Ünï",      "א",
    "١٢",       "😀",
    "𝔸",        "\xed\xa0\x80",
    "\xc0\x80", "\xff",
    "\xe2\x80", "İ",
    "aéaéaé",   "\xf4\x90\x80\x80",
    ";\r\n",    "averyveryverylongidentifierwithoutanyend",
    "A",        "Z9",
    "`",        "{",
    "@",        "[",
};

std::string words(Random& random, size_t size) {
  std::string text;
  while (text.size() < size) {
    if (random.below(40) == 0) {
      text.push_back(static_cast<char>(random.next()));  // whatever byte, NUL too
    } else {
      text += pieces[random.below(std::size(pieces))];
      if (random.below(2)) text.push_back(' ');
    }
  }
  return text;
}

// Documents of all sizes: bytes, words, and edited copies of earlier ones.
std::vector<std::string> make_corpus() {
  Random random{1};
  std::vector<std::string> corpus{"", " \n", "one", "0123456789_abcdefghijklmnopqrstuvwxyz", std::string(70000, 'a')};
  for (size_t i = 0; i < 600; ++i) {
    const size_t size = random.below(8) ? random.below(600) : random.below(20000);
    std::string text;
    if (i % 3 == 0) {
      text = words(random, size);
    } else if (i % 30 == 1) {
      for (size_t b = 0; b < size; ++b) text.push_back(static_cast<char>(random.next()));
    } else {
      text = corpus[corpus.size() - 1 - random.below(std::min<size_t>(corpus.size(), 20))];
      for (size_t edits = random.below(4); edits > 0; --edits) text.insert(random.below(text.size() + 1), " edit ");
    }
    corpus.push_back(std::move(text));
  }
  corpus.push_back(words(random, 300000));
  return corpus;
}

std::vector<Level> levels() {
  std::vector<Level> result{Level::scalar};
  const Level widest = codeshell::simd::level();
  if (widest == Level::avx512) result.push_back(Level::avx2);
  if (widest != Level::scalar) result.push_back(widest);
  return result;
}

bool all_equal = true;

// Prints the digest of what `compute(level, digest)` adds to it.
template <class Compute>
void part(const std::string& name, const Compute& compute) {
  uint64_t first = 0;
  for (const Level level : levels()) {
    Digest digest;
    compute(level, digest);
    if (level == Level::scalar) first = digest.get();
    if (digest.get() == first) continue;
    all_equal = false;
    std::fprintf(stderr, "%s: level %d differs from scalar code\n", name.c_str(), static_cast<int>(level));
  }
  std::printf("%016llx %s\n", static_cast<unsigned long long>(first), name.c_str());
}

struct Signatures {
  std::vector<uint32_t> lanes, counts;
  std::vector<uint64_t> keys, fingerprints;
  std::vector<uint8_t> sketches;
};

Signatures sign_all(const Texts& texts, const Shingling& shingling, size_t bands, size_t rows, Level level) {
  const size_t lanes = bands * rows;
  Signatures result{std::vector<uint32_t>(texts.count * lanes), std::vector<uint32_t>(texts.count),
                    std::vector<uint64_t>(texts.count * bands), std::vector<uint64_t>(texts.count * 2),
                    std::vector<uint8_t>(texts.count * sketch_width(lanes))};
  sign(texts, shingling, MinHash(lanes, 0), bands, level, 1,
       {result.lanes.data(), result.keys.data(), result.sketches.data(), result.fingerprints.data(),
        result.counts.data()});
  return result;
}

void sign_parts(const Texts& texts) {
  constexpr Shingling shinglings[] = {{Preset::code, 5},      {Preset::code, 1},     {Preset::code, 20},
                                      {Preset::starcoder, 5}, {Preset::stack_v2, 5}, {Preset::datatrove, 5},
                                      {Preset::char24, 24}};
  constexpr size_t cuts[][2] = {{21, 6}, {1, 1}, {9, 13}, {40, 7}};
  for (const Shingling& shingling : shinglings) {
    const std::string name =
        "preset " + std::to_string(static_cast<int>(shingling.preset)) + ", " + std::to_string(shingling.ngram);
    for (const auto& [bands, rows] : cuts) {
      part("signatures, keys, sketches, fingerprints, counts: " + name + ", " + std::to_string(bands) + "x" +
               std::to_string(rows),
           [&](Level level, Digest& digest) {
             const Signatures signatures = sign_all(texts, shingling, bands, rows, level);
             digest.add(signatures.lanes);
             digest.add(signatures.keys);
             digest.add(signatures.sketches);
             digest.add(signatures.fingerprints);
             digest.add(signatures.counts);
           });
    }
    part("shingle sets: " + name, [&](Level level, Digest& digest) {
      Scratch scratch;
      for (size_t i = 0; i < texts.count; ++i) {
        make_shingle_set(texts[i], shingling, level, scratch);
        digest.add(scratch.shingles);
      }
    });
  }
}

void intersection_part(const Texts& texts) {
  part("intersections", [&](Level level, Digest& digest) {
    Scratch scratch;
    std::vector<std::vector<uint64_t>> sets;
    for (size_t i = 0; i < texts.count; ++i) {
      make_shingle_set(texts[i], Shingling{}, level, scratch);
      sets.push_back(scratch.shingles);
      for (size_t back = 1; back <= std::min<size_t>(i, 6); ++back) {
        const std::vector<uint64_t>& other = sets[i - back];
        digest.add(intersection(sets[i].data(), sets[i].size(), other.data(), other.size(), 0, level));
      }
    }
  });
}

void candidate_parts(const Texts& texts) {
  const size_t bands = 21, rows = 6, lanes = bands * rows, width = sketch_width(lanes);
  const Signatures signatures = sign_all(texts, Shingling{}, bands, rows, Level::scalar);
  Random random{2};
  for (const size_t compared : {size_t{1}, size_t{61}, size_t{126}, size_t{300}, size_t{4200}}) {
    const size_t row = sketch_width(compared), count = 40;
    std::vector<uint8_t> many(count * row);
    for (uint8_t& byte : many) byte = static_cast<uint8_t>(random.below(3));
    part("equal bytes of " + std::to_string(compared) + " lanes", [&](Level level, Digest& digest) {
      std::vector<Match> matches(count);
      const size_t found = similar(level)(many.data(), many.data(), count, row, compared,
                                          static_cast<uint32_t>(compared / 3), matches.data());
      for (size_t i = 0; i < found; ++i) digest.add(uint64_t{matches[i].index} << 32 | matches[i].equal);
      digest.add(found);
    });
  }
  const Sketches sketches(signatures.sketches.data(), texts.count, width);
  std::vector<uint32_t> owner;
  for (size_t i = 0; i < signatures.keys.size(); ++i) owner.push_back(static_cast<uint32_t>(i / bands));
  const std::vector<uint8_t> all(texts.count / 8 + 1, 255);
  for (const uint32_t largest : {512u, 4u}) {  // with 4 most groups go through leaders
    part("edges of groups of up to " + std::to_string(largest), [&](Level level, Digest& digest) {
      const GroupResult result =
          group_edges(signatures.keys.data(), owner.data(), owner.size(), {nullptr, all.data(), texts.count}, nullptr,
                      &sketches, {lanes, 70, 100, largest, 16, 4}, level, 1);
      digest.add(result.edges);
      digest.add(result.heavy);
    });
  }
  part("edges of CPSJoin", [&](Level level, Digest& digest) {
    const CpsJoinResult result =
        cpsjoin(sketches, nullptr, nullptr, texts.count, {lanes, 0.7, 70, 100, 3, 6, 20, 16, 2000}, level, 1);
    digest.add(result.edges);
    digest.add(result.counts.compared);
  });
}

void datasketch_parts(const Texts& texts) {
  Random random{3};
  std::vector<uint64_t> a(130), b(130);
  for (size_t i = 0; i < a.size(); ++i) {
    a[i] = random.next() | 1;
    b[i] = random.next();
  }
  for (const auto scheme : {SketchScheme::legacy, SketchScheme::affine32, SketchScheme::affine64}) {
    const Datasketch datasketch(scheme, a.data(), b.data(), a.size(), scheme == SketchScheme::affine64);
    part("datasketch's signatures, scheme " + std::to_string(static_cast<int>(scheme)),
         [&](Level level, Digest& digest) {
           std::vector<uint8_t> out(texts.count * a.size() * datasketch.lane_bytes());
           sketch_texts(texts, Shingling{}, datasketch, level, 1, {}, out.data());
           digest.add(out);
         });
  }
}

void text_parts(const Texts& texts) {
  part("measures", [&](Level level, Digest& digest) {
    for (size_t i = 0; i < texts.count; ++i) {
      const auto m =
          codeshell::text::measure(reinterpret_cast<const uint8_t*>(texts[i].data()), texts[i].size(), level);
      for (const int64_t count : {int64_t{m.valid_utf8}, m.characters, m.lines, m.max_line_length, m.line_characters,
                                  m.letters, m.alphanumeric}) {
        digest.add(static_cast<uint64_t>(count));
      }
    }
  });
  part("overlap", [&](Level level, Digest& digest) {
    const size_t some = texts.count / 4;
    Overlap overlap({texts.data, texts.offsets, some}, 5, level);
    overlap.compare({texts.data, texts.offsets + some, texts.count - some}, 1);
    for (const double jaccard : overlap.jaccard()) digest.add(static_cast<uint64_t>(jaccard * 0x1p53));
    digest.add(overlap.match());
  });
}

// As libFuzzer would, but without looking at what the code does with them.
void fuzz(size_t inputs) {
  Random random{4};
  for (size_t i = 0; i < inputs; ++i) {
    std::string input;
    for (int b = 0; b < 3; ++b) input.push_back(static_cast<char>(random.next()));
    if (random.below(4)) {
      input += words(random, random.below(random.below(20) ? 300 : 20000));
    } else {
      for (size_t b = random.below(300); b > 0; --b) input.push_back(static_cast<char>(random.next()));
    }
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
  }
}

}  // namespace

int main(int count, char** arguments) {
  std::vector<std::string> corpus = make_corpus();
  for (int i = 2; i < count; ++i) {
    std::ifstream file(arguments[i], std::ios::binary);
    if (!file) {
      std::fprintf(stderr, "cannot read %s\n", arguments[i]);
      return 2;
    }
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  std::string data;
  std::vector<int64_t> offsets{0};
  for (const std::string& text : corpus) {
    data += text;
    offsets.push_back(static_cast<int64_t>(data.size()));
  }
  const Texts texts{data.data(), offsets.data(), corpus.size()};
  sign_parts(texts);
  intersection_part(texts);
  candidate_parts(texts);
  datasketch_parts(texts);
  text_parts(texts);
  std::fflush(stdout);
  const size_t inputs = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1000;
  fuzz(inputs);
  std::fprintf(stderr, "%s: %zu documents, %zu bytes; %zu inputs fuzzed\n", codeshell::simd::level_name().c_str(),
               corpus.size(), data.size(), inputs);
  return all_equal ? 0 : 1;
}
