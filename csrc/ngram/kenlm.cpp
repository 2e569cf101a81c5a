#include "ngram/kenlm.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <stdexcept>
#include <utility>
#include <vector>

#include "ngram/mapping.h"
#include "ngram/units.h"

namespace codeshell::ngram {

namespace {

constexpr std::string_view any_version = "mmap lm http://kheafield.com/code format version";
constexpr std::string_view version_5 = "mmap lm http://kheafield.com/code format version 5\n";
constexpr std::string_view incomplete = "mmap lm http://kheafield.com/code incomplete";

// The header: 56 bytes of the line above and zeros, test values, then what the file holds.
constexpr size_t test_values = 56, sanity_bytes = 88, fixed_bytes = 20, header_counts = sanity_bytes + fixed_bytes;
// Bytes of an entry: of the vocabulary (hash, id), of orders below the highest, of the highest.
constexpr uint64_t word_bytes = 12, middle_bytes = 16, highest_bytes = 12;

template <class T>
T read(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

constexpr uint64_t align8(uint64_t bytes) { return (bytes + 7) / 8 * 8; }

// Slots of a hash table for so many entries.
uint64_t buckets(uint64_t entries, float multiplier) {
  return std::max(entries + 1, static_cast<uint64_t>(multiplier * static_cast<float>(entries)));
}

// Probabilities have their sign bit cleared where the n-gram is the end of a longer one: that is for decoders.
float logarithm(const uint8_t* at) { return -std::fabs(read<float>(at)); }

}  // namespace

bool is_kenlm(std::string_view beginning) { return beginning.starts_with("mmap lm http://kheafield.com/code"); }

void convert_kenlm(const std::string& path, const std::string& output, const std::string& metadata,
                   WriterOptions options) {
  const Mapping file(path, Mapping::Memory::mapped);
  const uint8_t* const base = file.data();
  const uint64_t bytes = file.bytes();
  const std::string_view beginning(reinterpret_cast<const char*>(base), std::min<uint64_t>(bytes, test_values));
  const auto cut_short = [] { return ModelError{"it is cut short; copy it again"}; };
  if (beginning.starts_with(incomplete)) throw ModelError{"KenLM did not finish writing it; build it again"};
  if (!beginning.starts_with(version_5)) {
    if (!beginning.starts_with(any_version)) throw ModelError{"not a binary of KenLM"};
    throw ModelError{"a KenLM binary of another version than 5; give the ARPA file"};
  }
  if (bytes < header_counts) throw cut_short();
  // The test values tell that floats and integers lie in memory as they do here.
  const uint8_t* at = base + test_values;
  if (read<float>(at) != 0 || read<float>(at + 4) != 1 || read<float>(at + 8) != -0.5f ||
      read<uint32_t>(at + 12) != 1 || read<uint32_t>(at + 16) != UINT32_MAX || read<uint64_t>(at + 24) != 1) {
    throw ModelError{"a KenLM binary of another kind of machine; give the ARPA file"};
  }
  at = base + sanity_bytes;
  const uint32_t order = at[0];
  const float multiplier = read<float>(at + 4);
  const auto kind = read<uint32_t>(at + 8);
  const bool has_words = at[12] != 0;
  static constexpr const char* kinds[] = {"probing",        "rest costs", "trie",
                                          "quantised trie", "array trie", "quantised array trie"};
  if (kind != 0) {
    throw ModelError{std::string("a KenLM binary of kind ") + (kind < 6 ? kinds[kind] : "unknown") +
                     "; only probing is read; give the ARPA file, or build it again with build_binary probing"};
  }
  if (read<uint32_t>(at + 16) != 0)
    throw ModelError{"a KenLM binary with tables of another version; give the ARPA file"};
  if (!has_words) throw ModelError{"a KenLM binary without its words; build it again with its vocabulary"};
  if (order < 2 || order > max_order) {
    throw ModelError{"a KenLM binary of order " + std::to_string(order) + "; 2 to " + std::to_string(max_order) +
                     " are read"};
  }
  if (!(multiplier >= 1 && multiplier < 1000)) throw ModelError{"a damaged KenLM binary (its multiplier)"};
  uint64_t position = align8(header_counts + 8 * order);
  if (position > bytes) throw cut_short();
  std::vector<uint64_t> counts(order), slots(order);
  for (uint32_t k = 0; k < order; ++k) {
    counts[k] = read<uint64_t>(base + header_counts + 8 * k);
    if (counts[k] > bytes) throw cut_short();  // so that products do not run over
    slots[k] = buckets(counts[k], multiplier);
  }
  // Where each part begins.
  const uint64_t vocabulary = position;
  position += 8 + slots[0] * word_bytes;
  const uint64_t unigrams = position;
  position += (counts[0] + 1) * 8;
  std::vector<uint64_t> tables(order);
  for (uint32_t k = 1; k < order; ++k) {
    tables[k] = position;
    position += slots[k] * (k + 1 == order ? highest_bytes : middle_bytes);
  }
  if (position > bytes) throw cut_short();
  const auto size = read<uint32_t>(base + vocabulary + 4);
  if (size < 3 || size > counts[0] + 1) throw ModelError{"a damaged KenLM binary (its vocabulary)"};
  // The words, each ended by a zero byte, in the order of their ids.
  std::vector<std::string> words;
  uint32_t begin = 0, end = 0;
  for (uint32_t id = 0; id < size; ++id) {
    const void* const zero = std::memchr(base + position, 0, bytes - position);
    if (!zero) throw cut_short();
    const auto* const stop = static_cast<const uint8_t*>(zero);
    words.emplace_back(reinterpret_cast<const char*>(base + position), static_cast<size_t>(stop - base - position));
    position = static_cast<uint64_t>(stop - base) + 1;
    if (words.back() == "<s>") begin = id;
    if (words.back() == "</s>") end = id;
  }
  if (!begin || !end) throw ModelError{"a KenLM binary without <s> and </s>; codeshell reads models of sentences"};
  // Tables are searched by KenLM's ids. The fixed ids of the units are 1 and 2: see IdSwap.
  const IdSwap swap(begin, end);
  std::vector<std::string> named(words.size());
  for (uint32_t id = 0; id < size; ++id) named[swap.to_unit(id)] = std::move(words[id]);
  named.erase(named.begin(), named.begin() + first_id);
  try {
    const Units units(UnitKind::words, std::move(named));
    std::vector<uint64_t> entries(order);
    entries[0] = size;
    const auto for_each = [&](uint32_t k, const auto& take) {
      const uint64_t stride = k + 1 == order ? highest_bytes : middle_bytes;
      for (uint64_t slot = 0; slot < slots[k]; ++slot) {
        const uint8_t* const entry = base + tables[k] + slot * stride;
        if (const auto key = read<uint64_t>(entry)) take(key, entry + 8);
      }
    };
    for (uint32_t k = 1; k < order; ++k) for_each(k, [&](uint64_t, const uint8_t*) { ++entries[k]; });
    options.begin = begin;
    options.end = end;
    options.keep_words = false;
    // KenLM adds the suffixes that an ARPA file lacks.
    options.suffix_closed = true;
    options.check_suffixes = false;
    ModelWriter writer(output, order, entries, units.serialize(), metadata, options);
    for (uint32_t id = 0; id < size; ++id) {
      const uint8_t* const entry = base + unigrams + 8 * uint64_t{id};
      writer.add(1, &id, logarithm(entry), read<float>(entry + 4));
    }
    for (uint32_t k = 1; k < order; ++k) {
      for_each(k, [&](uint64_t key, const uint8_t* entry) {
        writer.add_key(k + 1, key, logarithm(entry), k + 1 == order ? 0 : read<float>(entry + 4));
      });
    }
    writer.finish();
  } catch (const std::invalid_argument& error) {
    throw ModelError{std::string("a damaged KenLM binary (") + error.what() + ")"};
  }
}

}  // namespace codeshell::ngram
