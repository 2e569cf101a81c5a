#include "bpe/model.h"

#include <algorithm>
#include <bit>
#include <stdexcept>

namespace codeshell::bpe {

Merges::Merges(const std::vector<Merge>& merges) : ranks_(merges.size()) {
  if (merges.size() >= kNone) throw std::invalid_argument("merges: more than 8 million");
  // At most half of the places are taken.
  const size_t places = std::bit_ceil(std::max<size_t>(16, 2 * merges.size()));
  entries_.resize(places);
  mask_ = places - 1;
  shift_ = 64 - std::countr_zero(places);
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& merge = merges[rank];
    const uint64_t key = static_cast<uint64_t>(merge.left) << 32 | merge.right;
    size_t i = place(key);
    while (entries_[i].key != kEmpty && entries_[i].key != key) i = (i + 1) & mask_;
    entries_[i] = {key, static_cast<uint32_t>(rank), merge.product};
  }
}

Model::Model(std::vector<int32_t> bytes, const std::vector<Merge>& merges,
             std::unordered_map<std::string, uint32_t> whole)
    : bytes_(std::move(bytes)), merges_(merges), whole_(std::move(whole)) {
  if (bytes_.size() != 256) throw std::invalid_argument("bytes: must be 256 ids");
  byte_pairs_.resize(256 * 256, {Merges::kNone, 0});
  for (size_t a = 0; a < 256; ++a) {
    for (size_t b = 0; b < 256; ++b) {
      if (bytes_[a] == kMissing || bytes_[b] == kMissing) continue;
      byte_pairs_[a * 256 + b] = merges_.find(static_cast<uint32_t>(bytes_[a]), static_cast<uint32_t>(bytes_[b]));
    }
  }
}

size_t Model::encode(std::string_view word, WordBuffers& buffers, uint32_t* out) const {
  if (!whole_.empty()) {
    if (const auto found = whole_.find(std::string(word)); found != whole_.end()) {
      *out = found->second;
      return 1;
    }
  }
  // Room for a few places after the last, so that a search may run over the end.
  const size_t room = word.size() + 8;
  if (buffers.ids.size() < room) {
    for (auto* buffer : {&buffers.ids, &buffers.products, &buffers.ranks, &buffers.next, &buffers.before}) {
      buffer->resize(room + room / 2);
    }
  }
  // The tokens of the bytes, and what joins each with the next: by the byte that was kept last.
  uint32_t count = 0;
  uint8_t last = 0;
  for (const char c : word) {
    const auto byte = static_cast<uint8_t>(c);
    if (bytes_[byte] == kMissing) continue;
    buffers.ids[count] = static_cast<uint32_t>(bytes_[byte]);
    if (count) {
      const Merges::Found found = byte_pairs_[last * 256u + byte];
      buffers.ranks[count - 1] = found.rank;
      buffers.products[count - 1] = found.product;
    }
    last = byte;
    ++count;
  }
  if (count < 2) {
    if (count) *out = buffers.ids[0];
    return count;
  }
  return count <= kShort ? encode_short(count, buffers, out) : encode_long(count, buffers, out);
}

// The lowest rank and its place are found in one pass: the key of a pair is its rank, times 256, plus its place. The
// key of what is gone, or joins with nothing, is above all others.
size_t Model::encode_short(uint32_t count, WordBuffers& buffers, uint32_t* out) const {
  constexpr int32_t kNever = INT32_MAX;
  alignas(16) int32_t keys[kShort + 8];
  uint8_t next[kShort], before[kShort];
  uint32_t *const ids = buffers.ids.data(), *const products = buffers.products.data();
  const auto key = [](uint32_t rank, uint32_t at) {
    return rank == Merges::kNone ? kNever : static_cast<int32_t>(rank << 8 | at);
  };
  const uint32_t pairs = count - 1, padded = (pairs + 7) & ~7u;
  for (uint32_t i = 0; i < pairs; ++i) keys[i] = key(buffers.ranks[i], i);
  for (uint32_t i = pairs; i < padded; ++i) keys[i] = kNever;
  for (uint32_t i = 0; i < count; ++i) {
    next[i] = static_cast<uint8_t>(i + 1);
    before[i] = static_cast<uint8_t>(i - 1);
  }
  for (;;) {
    int32_t lowest = kNever;
    for (uint32_t i = 0; i < padded; ++i) lowest = std::min(lowest, keys[i]);
    if (lowest == kNever) break;
    // The token at `at` takes the next one in.
    const uint32_t at = static_cast<uint32_t>(lowest) & 0xFF, gone = next[at], after = next[gone];
    ids[at] = products[at];
    next[at] = static_cast<uint8_t>(after);
    if (gone < pairs) keys[gone] = kNever;
    keys[at] = kNever;
    if (after < count) {
      before[after] = static_cast<uint8_t>(at);
      const Merges::Found found = merges_.find(ids[at], ids[after]);
      keys[at] = key(found.rank, at);
      products[at] = found.product;
    }
    if (at) {
      const uint32_t left = before[at];
      const Merges::Found found = merges_.find(ids[left], ids[at]);
      keys[left] = key(found.rank, left);
      products[left] = found.product;
    }
  }
  size_t size = 0;
  for (uint32_t i = 0; i < count; i = next[i]) out[size++] = ids[i];
  return size;
}

size_t Model::encode_long(uint32_t count, WordBuffers& buffers, uint32_t* out) const {
  uint32_t *const ids = buffers.ids.data(), *const products = buffers.products.data();
  uint32_t *const ranks = buffers.ranks.data(), *const next = buffers.next.data(),
                  *const before = buffers.before.data();
  RankQueue& queue = buffers.queue;
  queue.start(count, merges_.ranks());
  ranks[count - 1] = Merges::kNone;
  for (uint32_t i = 0; i < count; ++i) {
    next[i] = i + 1;
    before[i] = i - 1;
    if (ranks[i] != Merges::kNone) queue.push(ranks[i], i);
  }
  // The pair that begins at `at` is no more, and another may be there now.
  const auto forget = [&](uint32_t at) {
    if (ranks[at] != Merges::kNone) queue.remove(ranks[at], at);
    ranks[at] = Merges::kNone;
  };
  const auto look = [&](uint32_t at, uint32_t after) {
    const Merges::Found found = merges_.find(ids[at], ids[after]);
    ranks[at] = found.rank;
    products[at] = found.product;
    if (found.rank != Merges::kNone) queue.push(found.rank, at);
  };
  uint32_t rank, at;
  while (queue.pop(ranks, rank, at)) {
    // The token at `at` takes the next one in.
    const uint32_t gone = next[at], after = next[gone];
    ranks[at] = Merges::kNone;
    forget(gone);
    ids[at] = products[at];
    next[at] = after;
    if (at) {
      forget(before[at]);
      look(before[at], at);
    }
    if (after < count) {
      before[after] = at;
      look(at, after);
    }
  }
  size_t size = 0;
  for (uint32_t i = 0; i < count; i = next[i]) out[size++] = ids[i];
  return size;
}

}  // namespace codeshell::bpe
