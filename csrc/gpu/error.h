// What a launch gives back where it fails.
#pragma once

#include <cstdarg>
#include <cstdio>

namespace codeshell::gpu {

// Null where all went well, else what is wrong and what helps, as the text of an exception. Text that was put together
// by error_text is the calling thread's, and stands until its next one.
using Error = const char*;

// An Error in printf's way. Nothing is allocated, because memory may be what is missing.
[[gnu::format(printf, 1, 2)]] inline Error error_text(const char* format, ...) {
  static thread_local char text[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return text;
}

}  // namespace codeshell::gpu
