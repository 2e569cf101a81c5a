// The modules that a text imports, read from the places of the words that import (`import`, `#include`, `use`). The
// lexer finds these places, so that nothing within comments and strings is taken for an import.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "text/lexical.h"

namespace codeshell::text {

enum class ImportKind : uint8_t {
  other = 0,   // a package, or a module of the standard library
  own = 1,     // the text itself says that it belongs to the same project: a relative path
  quoted = 2,  // #include "x.h", which may be either
};

// Module names end to end: name i is text[ends[i - 1] .. ends[i]).
struct ImportList {
  std::string text;
  std::vector<int64_t> ends;
  std::vector<uint8_t> kinds;
};

// Adds the imports of a text in their order. Only the text up to its last word that may import something is lexed, and
// that is its first lines in most files.
void find_imports(const Lexis& lexis, const char* text, size_t size, Scratch& scratch, ImportList& list);

// `measure_lexical` and `find_imports` in one walk over the text; each gives what it gives alone.
void measure_with_imports(const Lexis& lexis, const char* text, size_t size, Scratch& scratch, Row& row,
                          ImportList& list);

}  // namespace codeshell::text
