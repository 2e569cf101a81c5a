// The shingles of the peers, as sets of strings exactly theirs, and as hashes.
//
//   starcoder  BigCode's near-deduplication of The Stack v1: re.split("[^A-Za-z_0-9]", text), empty tokens kept, runs
//   of
//              `ngram`, joined by a space. A text of fewer than max(ngram, 5) tokens has no shingle.
//   stack_v2   BigCode's near-deduplication of The Stack v2: re.split(r"\W", text.lower()), empty tokens kept. A text
//              of fewer than 5 tokens has no shingle; one of 5 or more and fewer than `ngram` has one, of all of them.
//   datatrove  datatrove 0.10: simplify_text, then spaCy's blank English tokenizer (datatrove.h). A text of fewer than
//              `ngram` words has no shingle.
//   char24     NeMo Curator, which is cuDF's minhash: every `ngram` consecutive characters (code points). A shorter
//              text has one shingle, the whole text; an empty one has none.
//   code       ours (tokens.h, shingles.h); here only its strings: tokens joined by a space.
//
// The peers work on Python's strings: Unicode is that of Python 3.11 (version 14), and a byte that is not well-formed
// UTF-8 counts as the U+FFFD that bytes.decode(errors="replace") makes of it.
//
// Hashes: a token's is that of tokens.h, and for an empty token 0x9E3779B97F4A7C15; a shingle's is that of shingles.h
// over its tokens. For char24: h = the shingle's bytes; for every 8 bytes w of it (little endian, the last ones padded
// with zeros): h = mix64(h ^ w).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dedup/shingling.h"
#include "dedup/tokens.h"

namespace codeshell::dedup {

// Tokens, words or characters of a text, as pieces of `bytes`.
struct Pieces {
  std::string_view bytes;  // the text itself, or one of the strings below
  std::vector<int64_t> begins, ends;
  std::string buffer, repaired, joined;
  std::vector<uint32_t> codes, spare;  // of a stretch of text that is not ASCII
  size_t span = 0;                     // pieces in a shingle

  size_t shingles() const { return span && begins.size() >= span ? begins.size() - span + 1 : 0; }
};

// Finds the pieces that the shingles of `text` consist of: shingle i is of pieces [i, i + span).
void find_pieces(std::string_view text, const Shingling& shingling, Pieces& pieces);

// The same, and brings the pieces into `bytes` such that shingle i is bytes[begins[i], ends[i + span - 1]), as the peer
// spells it.
void make_shingle_strings(std::string_view text, const Shingling& shingling, Pieces& pieces);

// Puts the hashes of the shingles of `text`, in order and with repetitions, into scratch.shingles. Not for
// Preset::code.
void make_preset_shingles(std::string_view text, const Shingling& shingling, Scratch& scratch);

}  // namespace codeshell::dedup
