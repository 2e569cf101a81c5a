// The shingles of the peers: exactly their sets of strings, and hashes of these.
//
//   preset     whose, and how a text is cut                       a text that is too short
//   ---------  -------------------------------------------------  ------------------------------------------------
//   starcoder  BigCode's near-deduplication of The Stack v1:      fewer than max(ngram, 5) tokens: no shingle
//              re.split("[^A-Za-z_0-9]", text), empty tokens
//              kept; runs of `ngram` tokens, joined by a space
//   stack_v2   BigCode's near-deduplication of The Stack v2:      fewer than 5 tokens: no shingle; 5 or more, but
//              re.split(r"\W", text.lower()), empty tokens kept   fewer than `ngram`: one shingle, of all tokens
//   datatrove  datatrove 0.10: simplify_text, then spaCy's        fewer than `ngram` words: no shingle
//              blank English tokenizer (datatrove.h)
//   char24     NeMo Curator, which is cuDF's minhash: every       shorter: one shingle, the whole text; an empty
//              `ngram` consecutive characters (code points)       text has none
//   code       ours (tokens.h, shingles.h); here only its         fewer than `ngram` tokens: one shingle, of all
//              strings: tokens joined by a space                  tokens; a text without tokens has none
//
// The peers work on Python's strings. So Unicode is that of Python 3.11 (version 14), and a byte that is not
// well-formed UTF-8 counts as the U+FFFD that bytes.decode(errors="replace") makes of it.
//
// Hashes: the hash of a token is that of tokens.h, or 0x9E3779B97F4A7C15 for an empty token; the hash of a shingle is
// that of shingles.h over its tokens. For char24: h = the number of bytes of the shingle; then h = mix64(h ^ w) for
// every 8 bytes w of it (little endian, the last ones padded with zeros).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dedup/shingling.h"
#include "dedup/tokens.h"

namespace codeshell::dedup {

// The tokens, words or characters of a text. Piece i is bytes[begins[i] .. ends[i]).
struct Pieces {
  std::string_view bytes;  // the text itself, or one of the strings below
  std::vector<int64_t> begins, ends;
  std::string buffer, repaired, joined;
  std::vector<uint32_t> codes, spare;  // of a stretch of text that is not ASCII
  size_t span = 0;                     // pieces in a shingle

  size_t shingles() const { return span && begins.size() >= span ? begins.size() - span + 1 : 0; }
};

// Finds the pieces that make up the shingles of `text`: shingle i consists of the pieces [i, i + span).
void find_pieces(std::string_view text, const Shingling& shingling, Pieces& pieces);

// Does the same, and arranges the pieces in `bytes` such that shingle i is bytes[begins[i] .. ends[i + span - 1]),
// spelled as the peer spells it.
void make_shingle_strings(std::string_view text, const Shingling& shingling, Pieces& pieces);

// Puts the hashes of the shingles of `text`, in order and with repetitions, into scratch.shingles. Not for
// Preset::code.
void make_preset_shingles(std::string_view text, const Shingling& shingling, Scratch& scratch);

}  // namespace codeshell::dedup
