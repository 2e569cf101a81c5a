// The style of a name, in one pass over its bytes.
#include "syntax/names.h"

namespace codeshell::syntax {

Name style_of(std::string_view name) {
  // `_private`, `$php`, `@ruby`, `__init__`, `predicate?`: what is around the words.
  const auto around = [](char c) {
    return c == '_' || c == '$' || c == '@' || c == '?' || c == '!' || c == '\'' || c == '%';
  };
  while (!name.empty() && around(name.front())) name.remove_prefix(1);
  while (!name.empty() && around(name.back())) name.remove_suffix(1);
  bool lower = false, upper = false, underscore = false;
  for (const char c : name) {
    lower |= c >= 'a' && c <= 'z';
    upper |= c >= 'A' && c <= 'Z';
    underscore |= c == '_';
    if (static_cast<unsigned char>(c) >= 0x80) return {};
  }
  Name found;
  found.written = lower || upper;
  if (!found.written) return found;
  if (name.size() == 1) {
    found.one_letter = true;
    return found;
  }
  const bool begins_upper = name.front() >= 'A' && name.front() <= 'Z';
  if (!upper) {
    found.styles = underscore ? SNAKE : SNAKE | CAMEL;
  } else if (!lower) {
    found.styles = UPPER;
  } else if (!underscore) {
    found.styles = begins_upper ? PASCAL : CAMEL;
  }
  return found;
}

}  // namespace codeshell::syntax
