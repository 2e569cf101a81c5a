// How a name is written: snake_case, camelCase, PascalCase or UPPER_CASE.
#pragma once

#include <cstdint>
#include <string_view>

namespace codeshell::syntax {

// Bits, so that a convention can allow several. A word in lower case alone is both snake and camel.
enum Style : uint8_t { SNAKE = 1, CAMEL = 2, PASCAL = 4, UPPER = 8 };

// What a name stands for; a language has a convention for each.
enum Role : uint8_t { NO_NAME = 0, FUNCTION_NAME, TYPE_NAME, VARIABLE_NAME, PARAMETER_NAME };

struct Name {
  uint8_t styles = 0;       // 0: none of the four (Mixed_Case), or no letter of ASCII
  bool one_letter = false;  // then it has no style
  bool written = false;     // has a letter of ASCII: other scripts have no such styles
};

// The style of a name; underscores and signs (`$`, `@`) around it are left aside.
Name style_of(std::string_view name);

}  // namespace codeshell::syntax
