#include "bpe/split.h"

#include <iterator>
#include <map>

#include "bpe/class_table.h"
#include "text/utf8.h"

namespace codeshell::bpe {

namespace {

constexpr uint32_t kCodePoints = 0x110000;

Kind kind_of(uint32_t classes, bool digits) {
  if (digits && classes & digit) return Kind::digit;
  if (classes & letter) return Kind::letter;
  if (classes & number) return Kind::number;
  return classes & space ? Kind::space : Kind::other;
}

}  // namespace

Kinds::Kinds(bool digits) {
  std::map<std::array<Kind, kBlock>, uint16_t> known;
  size_t run = 0;
  index_.reserve(kCodePoints / kBlock);
  for (uint32_t start = 0; start < kCodePoints; start += kBlock) {
    std::array<Kind, kBlock> block;
    for (uint32_t i = 0; i < kBlock; ++i) {
      // The run that holds this code point; the first run begins at 0.
      while (run + 1 < std::size(class_runs) && class_runs[run + 1] >> 8 <= start + i) ++run;
      block[i] = kind_of(class_runs[run] & 0xFF, digits);
    }
    const auto [found, fresh] = known.emplace(block, static_cast<uint16_t>(blocks_.size()));
    if (fresh) blocks_.push_back(block);
    index_.push_back(found->second);
  }
  for (uint32_t code = 0; code < 128; ++code) ascii_[code] = of(code);
}

const Splitter* find_splitter(std::string_view name) {
  if (name == "gpt2") {
    static const Gpt2Splitter splitter(false);
    return &splitter;
  }
  if (name == "digits-gpt2") {
    static const Gpt2Splitter splitter(true);
    return &splitter;
  }
  return nullptr;
}

size_t malformed_at(std::string_view text) {
  const char *p = text.data(), *const end = p + text.size();
  while ((p = text::skip_ascii(p, end)) < end) {
    const text::CodePoint c = text::decode(p, end);
    if (c.malformed) return static_cast<size_t>(p - text.data());
    p += c.size;
  }
  return text.size();
}

}  // namespace codeshell::bpe
