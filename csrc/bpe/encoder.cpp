#include "bpe/encoder.h"

namespace codeshell::bpe {

std::unique_ptr<Encoder::State> Encoder::borrow() const {
  {
    const std::lock_guard lock(lock_);
    if (!free_.empty()) {
      std::unique_ptr<State> state = std::move(free_.back());
      free_.pop_back();
      return state;
    }
  }
  return std::make_unique<State>();
}

void Encoder::give_back(std::unique_ptr<State> state) const {
  const std::lock_guard lock(lock_);
  free_.push_back(std::move(state));
}

void Encoder::encode(std::string_view text, State& state, Ids& ids) const {
  // The commonest splitter is compiled into the loop.
  if (const auto* gpt2 = dynamic_cast<const Gpt2Splitter*>(&splitter_)) return encode_with(*gpt2, text, state, ids);
  encode_with(splitter_, text, state, ids);
}

template <class SplitterType>
void Encoder::encode_with(const SplitterType& splitter, std::string_view text, State& state, Ids& ids) const {
  const char *p = text.data(), *const end = p + text.size();
  while (p < end) {
    const char* const begin = p;
    p = splitter.next(begin, end);
    const auto size = static_cast<size_t>(p - begin);
    uint32_t* const out = ids.room(size);
    if (size == 1) {
      const int32_t id = model_->of_byte(static_cast<uint8_t>(*begin));
      *out = static_cast<uint32_t>(id);
      ids.added(id != Model::kMissing);
    } else if (size <= WordCache::kShortBytes) {
      const text::HashBlock block = text::load_block(begin, size, end);
      WordCache::Short& place = state.cache.place(block, size);
      if (!WordCache::holds(place, block, size)) [[unlikely]] {
        const size_t count = model_->encode({begin, size}, state.buffers, out);
        if (count <= WordCache::kShortIds) {
          place.key = block;
          place.size = static_cast<uint16_t>(size);
          place.count = static_cast<uint16_t>(count);
          std::memcpy(place.ids, out, count * sizeof *out);
        }
        ids.added(count);
        continue;
      }
      // All of the places, whatever their number: that is one copy of a fixed size.
      std::memcpy(out, place.ids, sizeof place.ids);
      ids.added(place.count);
    } else if (size <= WordCache::kLongBytes) {
      WordCache::Long& place = state.cache.place({begin, size}, end);
      if (!WordCache::holds(place, {begin, size})) {
        const size_t count = model_->encode({begin, size}, state.buffers, out);
        if (count <= WordCache::kLongIds) {
          place.size = static_cast<uint16_t>(size);
          place.count = static_cast<uint16_t>(count);
          std::memcpy(place.key, begin, size);
          std::memcpy(place.ids, out, count * sizeof *out);
        }
        ids.added(count);
        continue;
      }
      std::memcpy(out, place.ids, sizeof place.ids);
      ids.added(place.count);
    } else {
      ids.added(model_->encode({begin, size}, state.buffers, out));
    }
  }
}

}  // namespace codeshell::bpe
