// The words that datatrove 0.10 makes of a text by default: simplify_text, then the tokens of spaCy's blank English.
//
// simplify_text: lower case; each number (decimal digits of any script, with at most one decimal separator) becomes 0;
// punctuation becomes space; canonical decomposition; nonspacing marks (category Mn) dropped.
//
// After that, these of spaCy's rules are left. White space separates words. From a word's front, prefixes (quotes,
// currency, symbols such as arrows and emoji) are cut one character at a time. From its end, suffixes of one character
// are cut and, after a 0, units ("0kb" is "0", "kb"). Special words fall apart ("dont" is "do", "nt") or stay as they
// are. The rest is cut at symbols, and at < = > between letters (decomposition makes these out of U+226E and the like).
// Rules that need an ASCII punctuation mark (abbreviations, addresses, hyphens, apostrophes) never apply.
//
// Where spaCy and Python disagree on the class of a character, each rule uses the table of the package that applies it.
#pragma once

#include <string_view>

namespace codeshell::dedup {

struct Pieces;

// Fills `pieces` with the words of `text`; their bytes are in pieces.buffer.
void split_datatrove(std::string_view text, Pieces& pieces);

}  // namespace codeshell::dedup
