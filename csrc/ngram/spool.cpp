#include "ngram/spool.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <system_error>

namespace codeshell::ngram {

namespace {

[[noreturn]] void refuse(int error, const std::string& folder) {
  throw std::system_error(error, std::generic_category(), folder);
}

}  // namespace

SpillFile::SpillFile(const std::string& folder) : descriptor_(-1), folder_(folder) {
#if defined(O_TMPFILE)
  descriptor_ = open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
#endif
  // File systems that know no such files get one with a name, which is taken away at once.
  if (descriptor_ < 0) {
    std::string name = folder + "/.ngram-XXXXXX";
    descriptor_ = mkstemp(name.data());
    if (descriptor_ < 0) refuse(errno, folder);
    unlink(name.c_str());
    fcntl(descriptor_, F_SETFD, FD_CLOEXEC);
  }
}

SpillFile::~SpillFile() { close(descriptor_); }

void SpillFile::write(const void* data, size_t size, uint64_t offset) {
  const char* at = static_cast<const char*>(data);
  while (size) {
    const ssize_t written = pwrite(descriptor_, at, size, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) refuse(written < 0 ? errno : ENOSPC, folder_);
    at += written;
    offset += static_cast<uint64_t>(written);
    size -= static_cast<size_t>(written);
  }
}

void SpillFile::read(void* data, size_t size, uint64_t offset) const {
  char* at = static_cast<char*>(data);
  while (size) {
    const ssize_t got = pread(descriptor_, at, size, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) refuse(got < 0 ? errno : EIO, folder_);
    at += got;
    offset += static_cast<uint64_t>(got);
    size -= static_cast<size_t>(got);
  }
}

}  // namespace codeshell::ngram
