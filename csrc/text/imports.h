// The modules that a text imports, read from the places of the words that import (`import`, `#include`, `use`). The
// lexer found these places, so that nothing within comments and strings is taken for an import.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "text/lexis.h"

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

// Adds the imports of a text in their order. `places` are those of `measure_lexical`, rising.
void read_imports(const Lexis& lexis, const char* text, size_t size, const std::vector<size_t>& places,
                  ImportList& list);

}  // namespace codeshell::text
