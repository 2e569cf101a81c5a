// The words that datatrove 0.10 makes of a text by default: simplify_text, then the tokens of spaCy's blank English.
//
// simplify_text: lower case; each number (decimal digits of any script, with at most one decimal separator) becomes 0;
// punctuation becomes space; canonical decomposition; nonspacing marks (category Mn) dropped.
//
// What is left of spaCy's rules after that: words are what white space separates; from a word's front, prefixes
// (quotes, currency, symbols such as arrows and emoji) are cut one character at a time, from its end suffixes of one
// character and, after a 0, units ("0kb" is "0", "kb"); special words fall apart ("dont" is "do", "nt") or stay as they
// are; what then remains is cut at symbols, and at < = > between letters (decomposition makes these out of U+226E and
// the like). Everything that needs an ASCII punctuation mark (abbreviations, addresses, hyphens, apostrophes) cannot
// occur.
//
// Where spaCy and Python disagree on a character's class, each rule has the table of the package that applies it.
#pragma once

#include <string_view>

namespace codeshell::dedup {

struct Pieces;

void split_datatrove(std::string_view text, Pieces& pieces);

}  // namespace codeshell::dedup
