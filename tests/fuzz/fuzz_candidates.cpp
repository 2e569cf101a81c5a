// From band keys and sketches to candidate pairs: any keys, sketches, order and options.
//
//   - groups.h against the definition: the pairs with an equal key whose sketches agree, where no group is large; some
//     of them where one is, and then every document has a leader or is heavy;
//   - cpsjoin.h: only pairs that agree, within the budget; all of them where one comparison of all with all is asked;
//   - neither depends on the level, nor on the order in which records or documents are given;
//   - sort_unique is std::sort and std::unique.
//
// Header: level (bit 7), what is done (bits 5-6), how keys spread (bits 0-4); documents; lanes; least; sure; limit;
// leaders or neighbours; budget; threshold; step. Byte j of document i's sketch is body[i * step + j], around its end.
#include <array>
#include <functional>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "dedup/cpsjoin.h"
#include "dedup/groups.h"
#include "fuzz.h"

namespace {

using namespace codeshell::dedup;
using codeshell::fuzz::Input;
using codeshell::simd::Level;

constexpr size_t header = 10;
constexpr size_t most_documents = 48;

uint64_t pack(uint32_t a, uint32_t b) { return uint64_t{std::max(a, b)} << 32 | std::min(a, b); }

// What an input says of documents: sketches, and their places in the keep order.
struct Corpus {
  explicit Corpus(const Input& input)
      : count(input[1] % most_documents),
        lanes(1 + input[2] % 130),
        width((lanes + 63) / 64 * 64),
        bytes(aligned_bytes(count * width)),
        ranks(count),
        sketches(bytes.get(), count, width) {
    for (size_t i = 0; i < count; ++i) {
      for (size_t j = 0; j < width; ++j) bytes.get()[i * width + j] = input.around(i * input[9] + j);
    }
    // Of a prime number of places, a multiple of them is another order of them.
    constexpr uint32_t prime = 73;
    for (uint32_t i = 0; i < count; ++i) ranks[i] = (i + 1) * (1 + input[0] % 8u) % prime;
  }

  // The one loop of the definition that would take longer than all that is tested.
  __attribute__((no_sanitize("address", "undefined", "coverage"))) uint32_t equal(uint32_t a, uint32_t b) const {
    const uint8_t *const one = bytes.get() + a * width, *const other = bytes.get() + b * width;
    uint32_t result = 0;
    for (size_t j = 0; j < lanes; ++j) result += one[j] == other[j];
    return result;
  }

  const size_t count, lanes, width;
  AlignedBytes bytes;
  std::vector<uint32_t> ranks;
  Sketches sketches;
};

void check_groups(const Input& input, const Corpus& corpus, Level wide) {
  const GroupOptions options{corpus.lanes,       input[3] % 140u,    input[4] % 140u,
                             2 + input[5] % 70u, 1 + input[6] % 16u, 1 + input[7] % 8u};
  const bool seen = input[8] & 1;  // else without sketches
  const std::unique_ptr<bool[]> flags(new bool[corpus.count]);
  std::vector<uint8_t> bits(corpus.count / 8 + 1);
  for (size_t i = 0; i < corpus.count; ++i) {
    flags[i] = input[8] & 2 ? input.around(i * 3) & 7 : true;
    bits[i / 8] |= static_cast<uint8_t>(flags[i] << i % 8);
  }
  // Keys whose low bits are all equal, or whose high bits are: both passes of the partition, and none.
  std::vector<uint64_t> keys;
  std::vector<uint32_t> documents;
  const unsigned shift = (input[0] & 31) * 2;
  for (size_t i = 0; corpus.count && i < std::min<size_t>(input.body_size(), 4 * corpus.count); ++i) {
    keys.push_back(uint64_t{input.body()[i]} << shift);
    documents.push_back(static_cast<uint32_t>(i % corpus.count));
  }
  const Sketches* const sketches = seen ? &corpus.sketches : nullptr;
  const GroupResult result =
      group_edges(keys.data(), documents.data(), keys.size(), {flags.get(), nullptr, corpus.count}, corpus.ranks.data(),
                  sketches, options, wide, 1);
  std::reverse(keys.begin(), keys.end());
  std::reverse(documents.begin(), documents.end());
  const GroupResult other =
      group_edges(keys.data(), documents.data(), keys.size(), {nullptr, bits.data(), corpus.count}, corpus.ranks.data(),
                  sketches, options, Level::scalar, 1);
  REQUIRE(result.edges == other.edges && result.heavy == other.heavy);
  REQUIRE(result.counts.groups == other.counts.groups && result.counts.pairs_compared == other.counts.pairs_compared);

  static std::map<uint64_t, std::vector<uint32_t>> groups;
  groups.clear();
  for (size_t i = 0; i < keys.size(); ++i) {
    if (keys[i] && flags[documents[i]]) groups[keys[i]].push_back(documents[i]);
  }
  static std::vector<uint64_t> expected;
  expected.clear();
  uint64_t groups_of_two = 0, largest = 0, large = 0;
  for (auto& [key, members] : groups) {
    std::sort(members.begin(), members.end());
    members.erase(std::unique(members.begin(), members.end()), members.end());
    groups_of_two += members.size() >= 2;
    large += members.size() >= 2 && members.size() > options.largest;
    largest = std::max<uint64_t>(largest, members.size() >= 2 ? members.size() : 0);
    for (size_t a = 0; a < members.size(); ++a) {
      for (size_t b = 0; b < a; ++b) {
        if (seen && corpus.equal(members[a], members[b]) < options.least) continue;
        expected.push_back(pack(corpus.ranks[members[a]], corpus.ranks[members[b]]));
      }
    }
  }
  std::sort(expected.begin(), expected.end());
  expected.erase(std::unique(expected.begin(), expected.end()), expected.end());
  REQUIRE(result.counts.groups == groups_of_two && result.counts.largest_group == largest);
  REQUIRE(result.counts.large_groups == large);
  if (!large) {
    REQUIRE(result.edges == expected && result.heavy.empty());
    return;
  }
  REQUIRE(std::includes(expected.begin(), expected.end(), result.edges.begin(), result.edges.end()));
  REQUIRE(std::adjacent_find(result.heavy.begin(), result.heavy.end(), std::greater_equal<>()) == result.heavy.end());
  for (const auto& [key, members] : groups) {
    if (!seen || members.size() <= options.largest) continue;
    for (const uint32_t document : members) {
      const uint64_t begin = uint64_t{corpus.ranks[document]} << 32;
      const auto edge = std::lower_bound(result.edges.begin(), result.edges.end(), begin);
      const bool led = edge != result.edges.end() && *edge >> 32 == corpus.ranks[document];
      REQUIRE(led || std::binary_search(result.heavy.begin(), result.heavy.end(), document));
    }
  }
}

void check_join(const Input& input, const Corpus& corpus, Level wide) {
  // Thresholds down to the least positive number.
  constexpr std::array<double, 8> thresholds{1.0, 0.7, 0.5, 0.1, 1e-3, 1e-19, 1e-308, 5e-324};
  const CpsJoinOptions options{corpus.lanes,       thresholds[input[8] % thresholds.size()],
                               input[3] % 140u,    input[4] % 140u,
                               input[0],           1 + input[8] / 8 % 4u,
                               2 + input[5] % 40u, 1 + input[6] % 80u,
                               1 + input[7] * 3u};
  std::vector<uint32_t> positions(corpus.count), ranks(corpus.count);
  std::iota(positions.begin(), positions.end(), 0u);
  const CpsJoinResult result = cpsjoin(corpus.sketches, nullptr, corpus.ranks.data(), corpus.count, options, wide, 1);
  std::reverse(positions.begin(), positions.end());
  std::reverse_copy(corpus.ranks.begin(), corpus.ranks.end(), ranks.begin());
  const CpsJoinResult other =
      cpsjoin(corpus.sketches, positions.data(), ranks.data(), corpus.count, options, Level::scalar, 1);
  REQUIRE(result.edges == other.edges && result.counts.compared == other.counts.compared);
  REQUIRE(result.counts.compared + result.counts.splits <= uint64_t{options.budget} * corpus.count);
  static std::vector<uint64_t> expected;
  expected.clear();
  for (uint32_t a = 0; a < corpus.count; ++a) {
    for (uint32_t b = 0; b < a; ++b) {
      if (corpus.equal(a, b) >= options.least) expected.push_back(pack(corpus.ranks[a], corpus.ranks[b]));
    }
  }
  std::sort(expected.begin(), expected.end());
  REQUIRE(std::includes(expected.begin(), expected.end(), result.edges.begin(), result.edges.end()));
  if (corpus.count <= options.limit && options.budget >= corpus.count && options.neighbours >= 2 * corpus.count) {
    REQUIRE(result.edges == expected);
  }
  // Two documents of one place in the order are refused, whatever else they are.
  if (corpus.count < 2) return;
  ranks[0] = ranks[corpus.count - 1];
  bool refused = false;
  try {
    cpsjoin(corpus.sketches, positions.data(), ranks.data(), corpus.count, options, wide, 1);
  } catch (const std::invalid_argument&) {
    refused = true;
  }
  REQUIRE(refused);
}

// More values than a sort of few takes, most of them often: numbers of one to eight bytes.
void check_sort(const Input& input) {
  std::vector<uint64_t> values, expected;
  const size_t count = input[1] * 8u + input[2];
  const unsigned shift = input[3] % 57u;
  for (size_t i = 0; i < count; ++i) {
    const uint64_t value = uint64_t{input.around(i)} | uint64_t{input.around(i * 5 + 1)} << 8;
    values.push_back((input[4] & 1 ? value : mix64(value)) << shift);
  }
  expected = values;
  std::sort(expected.begin(), expected.end());
  expected.erase(std::unique(expected.begin(), expected.end()), expected.end());
  sort_unique(values);
  REQUIRE(values == expected);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Input input(data, size, header);
  const Level wide = codeshell::fuzz::wide(input[0] & 128);
  switch (input[0] >> 5 & 3) {
    case 0: check_sort(input); break;
    case 1: check_join(input, Corpus(input), wide); break;
    default: check_groups(input, Corpus(input), wide); break;
  }
  return 0;
}
