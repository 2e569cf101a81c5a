// Text to tokens, shingles, signatures, sketches, fingerprints: any bytes.
//
//   - every instruction set gives the same as scalar code: shingles, sets, signatures, keys, SHA-1, measures;
//   - a text between others gives what it gives alone; what it gives does not depend on what was read before it;
//   - shingle sets ascend; a shingle's string exists for every shingle.
//
// Header: level (bit 7), what is done (bits 4-6), preset (bits 0-3); n-gram; bands and rows; filler before the text.
#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "dedup/datasketch.h"
#include "dedup/presets.h"
#include "dedup/shingles.h"
#include "dedup/sign.h"
#include "fuzz.h"
#include "text/measures.h"

namespace {

using namespace codeshell::dedup;
using codeshell::fuzz::Input;
using codeshell::simd::Level;

constexpr size_t header = 4;
constexpr uint64_t seed = 7;
constexpr std::array<const char*, 4> fillers{"x", " ", "a\xC3\xA9", "\xE4\xB8\x80"};

// A text on the heap without a byte to spare, so that a read beyond it is seen.
struct Text {
  explicit Text(size_t size) : bytes(new char[size]), size(size) {}
  std::unique_ptr<char[]> bytes;
  size_t size;
  std::string_view view() const { return {bytes.get(), size}; }
};

// Filler up to about the end of a chunk, if the input wants it, then its body.
Text make_text(const Input& input) {
  const uint8_t wish = input[3];
  const std::string_view filler = fillers[wish & 3];
  // Of 64 places around the end of a chunk; wishes below 192 get no filler.
  const size_t before = wish < 192 ? 0 : CODESHELL_DEDUP_CHUNK - 40 + (wish >> 2 & 15) * 4;
  const size_t whole = before / filler.size() * filler.size();
  Text text(whole + input.body_size());
  for (size_t at = 0; at < whole; at += filler.size()) filler.copy(text.bytes.get() + at, filler.size());
  std::copy_n(input.body(), input.body_size(), text.bytes.get() + whole);
  return text;
}

// Shingles in order, and their set.
void check_shingles(std::string_view text, const Shingling& shingling, Level wide) {
  static Scratch scratch;
  static std::vector<uint64_t> expected;
  make_shingles(text, shingling, Level::scalar, scratch);
  expected = scratch.shingles;
  make_shingles(text, shingling, wide, scratch);
  REQUIRE(scratch.shingles == expected);
  make_shingle_set(text, shingling, wide, scratch);
  std::sort(expected.begin(), expected.end());
  expected.erase(std::unique(expected.begin(), expected.end()), expected.end());
  REQUIRE(scratch.shingles == expected);
}

// The minima of what `check_shingles` has left, and their keys.
void check_minima(std::string_view text, const Shingling& shingling, size_t bands, size_t rows, Level wide) {
  static Scratch scratch;
  static const MinHash minhash(5 * 40, seed);
  std::array<uint32_t, 256> narrow, other;
  narrow.fill(~0u);
  other.fill(~0u);
  make_shingles(text, shingling, wide, scratch);
  minhash.update(scratch.shingles.data(), scratch.shingles.size(), Level::scalar, narrow.data());
  minhash.update(scratch.shingles.data(), scratch.shingles.size(), wide, other.data());
  REQUIRE(narrow == other);
  std::array<uint64_t, 5> keys{}, same{};
  band_keys(narrow.data(), bands, rows, Level::scalar, keys.data());
  band_keys(narrow.data(), bands, rows, wide, same.data());
  REQUIRE(keys == same);
}

struct Signed {
  std::vector<uint32_t> lanes, counts;
  std::vector<uint64_t> keys, fingerprints;
  std::vector<uint8_t> sketches;
};

void sign_all(const Texts& texts, const Shingling& shingling, size_t bands, size_t rows, Level level, Signed& out) {
  const size_t lanes = bands * rows;
  out.lanes.resize(texts.count * lanes);
  out.counts.resize(texts.count);
  out.keys.resize(texts.count * bands);
  out.fingerprints.resize(texts.count * 2);
  out.sketches.resize(texts.count * sketch_width(lanes));
  const MinHash minhash(lanes, seed);
  sign(texts, shingling, minhash, bands, level, 1,
       {out.lanes.data(), out.keys.data(), out.sketches.data(), out.fingerprints.data(), out.counts.data()});
}

// The text in two, and each half alone: sign() by two levels.
void check_sign(const Text& text, size_t cut, const Shingling& shingling, size_t bands, size_t rows, Level wide) {
  const std::array<int64_t, 3> offsets{0, static_cast<int64_t>(std::min(cut, text.size)),
                                       static_cast<int64_t>(text.size)};
  static Signed both, alone;
  sign_all({text.bytes.get(), offsets.data(), 2}, shingling, bands, rows, Level::scalar, both);
  const size_t lanes = bands * rows, width = sketch_width(lanes);
  for (size_t d = 0; d < 2; ++d) {
    sign_all({text.bytes.get(), offsets.data() + d, 1}, shingling, bands, rows, wide, alone);
    REQUIRE(std::equal(alone.lanes.begin(), alone.lanes.end(), both.lanes.data() + d * lanes));
    REQUIRE(std::equal(alone.keys.begin(), alone.keys.end(), both.keys.data() + d * bands));
    REQUIRE(std::equal(alone.sketches.begin(), alone.sketches.end(), both.sketches.data() + d * width));
    REQUIRE(std::equal(alone.fingerprints.begin(), alone.fingerprints.end(), both.fingerprints.data() + d * 2));
    REQUIRE(alone.counts[0] == both.counts[d]);
    for (size_t i = 0; i < width; ++i) {
      REQUIRE(alone.sketches[i] == (i < lanes ? alone.lanes[i] & 255 : 0));
    }
    REQUIRE(std::none_of(alone.keys.begin(), alone.keys.end(), [](uint64_t key) { return key == 0; }) ==
            (alone.counts[0] > 0));
  }
}

// The shingles as strings, and what datasketch makes of them.
void check_strings(const Text& text, const Shingling& shingling, SketchScheme scheme, Level wide) {
  static Pieces pieces;
  static Scratch scratch;
  make_shingle_strings(text.view(), shingling, pieces);
  make_shingles(text.view(), shingling, Level::scalar, scratch);
  REQUIRE(pieces.shingles() == scratch.shingles.size());
  for (size_t i = 0; i < pieces.shingles(); ++i) {
    const int64_t begin = pieces.begins[i], end = pieces.ends[i + pieces.span - 1];
    REQUIRE(begin >= 0 && begin <= end && end <= static_cast<int64_t>(pieces.bytes.size()));
  }
  static const auto numbers = [] {
    std::array<uint64_t, 20> values{};
    for (size_t i = 0; i < values.size(); ++i) values[i] = mix64(i) | 1;
    return values;
  }();
  const Datasketch datasketch(scheme, numbers.data(), numbers.data() + 1, 19, scheme == SketchScheme::affine64);
  const std::array<int64_t, 2> offsets{0, static_cast<int64_t>(text.size)};
  std::array<uint8_t, 19 * 8> narrow{}, other{};
  const Texts one{text.bytes.get(), offsets.data(), 1};
  sketch_texts(one, shingling, datasketch, Level::scalar, 1, {}, narrow.data());
  sketch_texts(one, shingling, datasketch, wide, 1, {}, other.data());
  REQUIRE(narrow == other);
}

void check_measures(std::string_view text, Level wide) {
  const auto* const bytes = reinterpret_cast<const uint8_t*>(text.data());
  const auto narrow = codeshell::text::measure(bytes, text.size(), Level::scalar);
  const auto other = codeshell::text::measure(bytes, text.size(), wide);
  REQUIRE(narrow.valid_utf8 == other.valid_utf8 && narrow.characters == other.characters &&
          narrow.lines == other.lines && narrow.max_line_length == other.max_line_length &&
          narrow.line_characters == other.line_characters && narrow.letters == other.letters &&
          narrow.alphanumeric == other.alphanumeric);
  REQUIRE(narrow.letters <= narrow.alphanumeric && narrow.alphanumeric <= narrow.characters);
  REQUIRE(narrow.line_characters <= narrow.characters && narrow.lines <= narrow.characters);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Input input(data, size, header);
  const Shingling shingling{static_cast<Preset>((input[0] & 15) % 5), 1 + input[1] % 30u};
  const size_t bands = 1 + input[2] % 5, rows = 1 + input[2] / 5 % 40;
  const Level wide = codeshell::fuzz::wide(input[0] & 128);
  const Text text = make_text(input);
  switch (input[0] >> 4 & 7) {
    default: check_shingles(text.view(), shingling, wide); break;
    case 4: check_measures(text.view(), wide); break;
    case 5: check_strings(text, shingling, static_cast<SketchScheme>(input[2] % 3), wide); break;
    case 6: check_minima(text.view(), shingling, bands, rows, wide); break;
    case 7: check_sign(text, input[1] * 4u, shingling, bands, rows, wide); break;
  }
  return 0;
}
