// From candidate pairs to who stays: sets, intersections, decisions, and the stream's matcher.
//
//   - intersections are std::set_intersection's at every level, and needed_shared the least number that will do; the
//     one-permutation sketches of the two sets are the same at every level;
//   - set files of any content are refused or read, in bounds; whatever `verify` then says is the same at every level;
//   - the greedy decision and the components are those of their definitions, and bad edges are refused;
//   - the matcher, given any keys, sketches and fingerprints, decides the same for one batch as for two, at any level;
//     whom it names stays, and resembles.
//
// Header: level (bit 7), what is done (bits 4-6); threshold; and six that each check reads in its own way.
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <iterator>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "dedup/bins.h"
#include "dedup/decide.h"
#include "dedup/matcher.h"
#include "dedup/sets.h"
#include "dedup/shingles.h"
#include "dedup/verify.h"
#include "fuzz.h"

namespace {

using namespace codeshell::dedup;
using codeshell::fuzz::Input;
using codeshell::simd::Level;

constexpr size_t header = 8;

double threshold_of(const Input& input) { return (1 + input[1]) / 256.0; }

// Ascending and distinct, from the body's bytes as steps; exactly as long as its memory.
std::vector<uint64_t> ascending(const uint8_t* steps, size_t count, unsigned shift) {
  std::vector<uint64_t> values(count);
  uint64_t value = 0;
  for (size_t i = 0; i < count; ++i) values[i] = value += uint64_t{1u + (steps[i] & 7u)} << shift;
  return values;
}

// One-permutation sketches of two sets: the same whatever the order and the level, and never more than there is.
void check_bins(const std::vector<uint64_t>& a, const std::vector<uint64_t>& b, size_t all, double threshold,
                Level wide) {
  std::array<uint8_t, bins> one, turned, other;
  bin_sketch(a.data(), a.size(), one.data());
  const std::vector<uint64_t> reversed(a.rbegin(), a.rend());
  bin_sketch(reversed.data(), reversed.size(), turned.data());
  REQUIRE(one == turned);
  bin_sketch(b.data(), b.size(), other.data());
  const Agreement narrow = agree(Level::scalar)(one.data(), other.data(), bins);
  const Agreement seen = agree(wide)(one.data(), other.data(), bins);
  REQUIRE(narrow.filled == seen.filled && narrow.equal == seen.equal);
  REQUIRE(seen.equal <= seen.filled && seen.filled <= std::min(bins, all));
  REQUIRE(a != b || (seen.equal == seen.filled && may_reach(seen, a.size() + b.size(), threshold)));
}

void check_intersection(const Input& input, Level wide) {
  const size_t size = input.body_size(), cut = std::min<size_t>(input[2] * 2u, size);
  const auto a = ascending(input.body(), cut, input[3] % 50),
             b = ascending(input.body() + cut, size - cut, input[3] % 50);
  static std::vector<uint64_t> shared;
  shared.clear();
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(shared));
  const double threshold = threshold_of(input);
  const size_t most = std::min(a.size(), b.size());
  const size_t needed = needed_shared(a.size(), b.size(), threshold);
  REQUIRE(needed > most || jaccard(needed, a.size(), b.size()) >= threshold);
  REQUIRE(needed == 0 || needed > most + 1 || !(jaccard(needed - 1, a.size(), b.size()) >= threshold));
  for (const size_t least : {size_t{0}, needed, size_t{input[4]}}) {
    for (const Level level : {Level::scalar, wide}) {
      const size_t found = intersection(a.data(), a.size(), b.data(), b.size(), least, level);
      REQUIRE(shared.size() >= least ? found == shared.size() : found < least);
    }
  }
  check_bins(a, b, a.size() + b.size() - shared.size(), threshold, wide);
}

// A file that is in memory only, and stays open.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(memfd_create("sets", 0)) {}
  ~MemoryFile() { close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  void write(const uint8_t* data, size_t size) const {
    REQUIRE(ftruncate(descriptor_, 0) == 0 && pwrite(descriptor_, data, size, 0) == static_cast<ssize_t>(size));
  }
  std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  const int descriptor_;
};

// Some positions of the first 64, asked from `sets`.
void check_verify(const Input& input, const Sets& sets, Level wide) {
  std::vector<uint32_t> edges;
  for (size_t i = 0; i < 16; ++i) {
    const uint32_t a = input.around(i) & 63, b = input.around(i * 7 + 3) & 63;
    if (sets.find(a).part == Sets::Place::absent || sets.find(b).part == Sets::Place::absent) continue;
    edges.insert(edges.end(), {a, b});
  }
  const size_t count = edges.size() / 2;
  std::vector<double> narrow(count), other(count);
  REQUIRE(verify(sets, edges.data(), count, 0.0, Level::scalar, 1, {}, narrow.data()));
  REQUIRE(verify(sets, edges.data(), count, 0.0, wide, 1, {}, other.data()));
  edges.insert(edges.end(), {200, 201});
  bool refused = false;
  try {
    std::vector<double> out(count + 1);
    verify(sets, edges.data(), count + 1, 0.5, wide, 1, {}, out.data());
  } catch (const std::invalid_argument&) {
    refused = true;
  }
  REQUIRE(refused || sets.find(200).part != Sets::Place::absent);
}

// The body as a file of sets, sections anywhere; or as arrays.
void check_sets(const Input& input, Level wide) {
  try {
    if (input[2] & 1) {
      static const MemoryFile file;
      // Documents below 65,536: a set has bits for all positions between its first and last.
      std::vector<uint8_t> bytes(input.body(), input.body() + input.body_size());
      for (size_t i = 0; i < 4 * (input[5] & 31u); ++i) {
        if (i % 4 >= 2 && input[4] + i < bytes.size()) bytes[input[4] + i] = 0;
      }
      file.write(bytes.data(), bytes.size());
      const uint32_t first = input[2] & 2 ? UINT32_MAX - input[3] : input[3];
      const Sets::Source source{file.path(), first, input[4], input[5] & 31u, input[6], input[7]};
      check_verify(input, Sets({source}), wide);
      return;
    }
    // Small numbers, so that some are in order: documents and bounds from bytes, the values from the whole body.
    const size_t count = std::min<size_t>(input[5] & 15u, input.body_size() / 2);
    std::vector<uint32_t> documents(count);
    std::vector<int64_t> bounds(count + 1);
    for (size_t i = 0; i < count; ++i) documents[i] = input.body()[i] + (i ? documents[i - 1] : 0) - (input[3] & 1);
    for (size_t i = 0; i <= count; ++i)
      bounds[i] = (input.around(count + i) & 31) + (i ? bounds[i - 1] : 0) - (input[3] >> 1 & 1);
    const auto values = ascending(input.body(), input.body_size(), 8);
    check_verify(input, Sets(documents.data(), count, bounds.data(), values.data(), values.size()), wide);
  } catch (const FileError&) {
  } catch (const std::invalid_argument&) {
  }
}

void check_decisions(const Input& input) {
  const uint32_t documents = input[2] % 64;
  const size_t count = input.body_size() / 3;
  struct Edge {
    uint32_t later, earlier;
    double jaccard;
  };
  std::vector<Edge> all(count);
  for (size_t e = 0; e < count; ++e) {
    const uint8_t* const bytes = input.body() + 3 * e;
    all[e] = {bytes[0] & 63u, bytes[1] & 63u, bytes[2] == 255 ? std::nan("") : bytes[2] / 254.0};
  }
  if (input[3] & 1) std::sort(all.begin(), all.end(), [](const Edge& a, const Edge& b) { return a.later < b.later; });
  std::vector<uint32_t> edges;
  std::vector<double> jaccards;
  bool good = true, inside = true;
  for (size_t e = 0; e < count; ++e) {
    edges.insert(edges.end(), {all[e].later, all[e].earlier});
    jaccards.push_back(all[e].jaccard);
    inside &= all[e].later < documents && all[e].earlier < documents;
    good &= all[e].later < documents && all[e].earlier < all[e].later && (e == 0 || all[e - 1].later <= all[e].later);
  }
  Components components(documents);
  Greedy greedy(documents);
  std::vector<Greedy::Drop> drops;
  const auto refuses = [](const auto& work) {
    try {
      work();
    } catch (const std::invalid_argument&) {
      return true;
    }
    return false;
  };
  const double threshold = threshold_of(input);
  REQUIRE(refuses([&] { components.add(edges.data(), count); }) == !inside);
  REQUIRE(refuses([&] { greedy.decide(edges.data(), jaccards.data(), count, threshold, drops); }) == !good);
  if (inside) {
    std::vector<uint32_t> label(documents);
    std::iota(label.begin(), label.end(), 0u);
    for (const Edge& edge : all) {
      const uint32_t low = std::min(label[edge.later], label[edge.earlier]);
      const uint32_t high = std::max(label[edge.later], label[edge.earlier]);
      for (uint32_t& one : label) one = one == high ? low : one;
    }
    REQUIRE(components.labels() == label);
  }
  if (!good) {
    REQUIRE(drops.empty());
    return;
  }
  std::vector<bool> dropped(documents);
  auto next = drops.begin();
  for (uint32_t document = 0; document < documents; ++document) {
    const Edge* best = nullptr;
    for (const Edge& edge : all) {
      if (edge.later != document || dropped[edge.earlier] || !(edge.jaccard >= threshold)) continue;
      if (!best || edge.jaccard > best->jaccard || (edge.jaccard == best->jaccard && edge.earlier < best->earlier)) {
        best = &edge;
      }
    }
    dropped[document] = best;
    REQUIRE(greedy.dropped(document) == dropped[document]);
    if (!best) continue;
    REQUIRE(next != drops.end() && next->later == document && next->kept == best->earlier &&
            next->jaccard == best->jaccard);
    ++next;
  }
  REQUIRE(next == drops.end());
}

// Texts are pieces of the body of six tokens about; keys, sketches and fingerprints are other bytes of it.
void check_matcher(const Input& input, Level wide) {
  const size_t count = input[2] % 24, bands = 1 + input[3] % 4, width = 64, each = 1 + input[4] % 16;
  const size_t lanes = 1 + input[5] % 64;
  std::vector<int64_t> offsets{0};
  std::vector<uint64_t> keys, fingerprints;
  std::vector<uint8_t> sketches(count * width);
  for (size_t i = 0; i < count; ++i) {
    offsets.push_back(static_cast<int64_t>(std::min(input.body_size(), (i + 1) * each)));
    for (size_t b = 0; b < bands; ++b) keys.push_back(uint64_t{input.around(i * bands + b) & 15u} << (input[6] & 56));
    // Few different ones, so that some come again.
    fingerprints.insert(fingerprints.end(), {uint64_t{input.around(i * 5)} << (input[6] & 7), input[7] & 1u});
    for (size_t j = 0; j < width; ++j) sketches[i * width + j] = input.around(i + j) & 3;
  }
  const std::unique_ptr<char[]> text(new char[input.body_size()]);
  std::copy_n(input.body(), input.body_size(), text.get());
  const Texts texts{text.get(), offsets.data(), count};
  const Matcher::Settings settings{
      {Preset::code, 1 + (input[7] >> 1) % 5u},         bands, threshold_of(input), 1u + (input[7] >> 4), lanes, width,
      static_cast<uint32_t>(input[5] / 4 % (lanes + 1))};
  std::vector<int64_t> kept(count), again(count);
  std::vector<double> value(count), value_again(count);
  Matcher whole(settings, wide), parts(settings, Level::scalar);
  REQUIRE(
      whole.add({texts, keys.data(), sketches.data(), fingerprints.data(), nullptr}, 1, {}, kept.data(), value.data()));
  const size_t cut = count / 2;
  REQUIRE(parts.add({{text.get(), offsets.data(), cut}, keys.data(), sketches.data(), fingerprints.data(), nullptr}, 1,
                    {}, again.data(), value_again.data()));
  REQUIRE(parts.add({{text.get(), offsets.data() + cut, count - cut},
                     keys.data() + cut * bands,
                     sketches.data() + cut * width,
                     fingerprints.data() + 2 * cut,
                     nullptr},
                    1, {}, again.data() + cut, value_again.data() + cut));
  REQUIRE(kept == again && value == value_again);
  REQUIRE(whole.documents() == static_cast<int64_t>(count) && whole.candidate_pairs == parts.candidate_pairs &&
          whole.verified_pairs == parts.verified_pairs && whole.capped_keys == parts.capped_keys);
  static Scratch scratch;
  for (size_t i = 0; i < count; ++i) {
    REQUIRE(kept[i] >= -1 && kept[i] < static_cast<int64_t>(i));
    if (kept[i] < 0) continue;
    const auto other = static_cast<size_t>(kept[i]);
    REQUIRE(kept[other] == -1);
    bool same = false;  // as an earlier one: then it says what that one says
    for (size_t j = 0; j < i && !same; ++j) {
      same = fingerprints[2 * j] == fingerprints[2 * i] && fingerprints[2 * j + 1] == fingerprints[2 * i + 1];
      if (same) REQUIRE(j == other ? value[i] == 1.0 : kept[j] == kept[i] && value[i] == value[j]);
    }
    if (same) continue;
    make_shingle_set(texts[i], settings.shingling, Level::scalar, scratch);
    const std::vector<uint64_t> set = scratch.shingles;
    make_shingle_set(texts[other], settings.shingling, Level::scalar, scratch);
    const size_t shared =
        intersection(set.data(), set.size(), scratch.shingles.data(), scratch.shingles.size(), 0, Level::scalar);
    REQUIRE(value[i] == jaccard(shared, set.size(), scratch.shingles.size()) && value[i] >= settings.threshold);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Input input(data, size, header);
  const Level wide = codeshell::fuzz::wide(input[0] & 128);
  switch (input[0] >> 4 & 7) {
    default: check_intersection(input, wide); break;
    case 3: check_decisions(input); break;
    case 4: check_sets(input, wide); break;
    case 5:
    case 6:
    case 7: check_matcher(input, wide); break;
  }
  return 0;
}
