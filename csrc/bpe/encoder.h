// Texts to ids: cuts a text into words, and looks each up in a cache before it is joined.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "bpe/cache.h"
#include "bpe/model.h"
#include "bpe/split.h"

namespace codeshell::bpe {

// Ids end to end; its storage grows by doubling and is not cleared first.
class Ids {
 public:
  // Room for `count` more, and a few places after them that may be written to.
  uint32_t* room(size_t count) {
    if (size_ + count + kSlack > ids_.size()) ids_.resize(2 * (size_ + count + kSlack));
    return ids_.data() + size_;
  }
  void added(size_t count) { size_ += count; }
  const uint32_t* data() const { return ids_.data(); }
  size_t size() const { return size_; }
  void clear() { size_ = 0; }

 private:
  static constexpr size_t kSlack = 16;
  std::vector<uint32_t> ids_;
  size_t size_ = 0;
};

class Encoder {
 public:
  Encoder(const Splitter& splitter, std::unique_ptr<Model> model) : splitter_(splitter), model_(std::move(model)) {}

  // The state of one thread. It is kept between calls, because what it has cached is worth keeping.
  struct State {
    WordCache cache;
    WordBuffers buffers;
  };

  // Adds the ids of a text that is well-formed UTF-8.
  void encode(std::string_view text, State& state, Ids& ids) const;

  // A state that no other thread uses, until it is given back.
  std::unique_ptr<State> borrow() const;
  void give_back(std::unique_ptr<State> state) const;

 private:
  template <class SplitterType>
  void encode_with(const SplitterType& splitter, std::string_view text, State& state, Ids& ids) const;

  const Splitter& splitter_;
  std::unique_ptr<Model> model_;
  mutable std::mutex lock_;
  mutable std::vector<std::unique_ptr<State>> free_;
};

}  // namespace codeshell::bpe
