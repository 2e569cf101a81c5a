#include "ngram/mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace codeshell::ngram {

namespace {

[[noreturn]] void fail(int error, const std::string& path) {
  throw std::system_error(error, std::generic_category(), path);
}

struct Descriptor {
  int number;
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
};

}  // namespace

Mapping::Mapping(const std::string& path, Memory memory) {
  // Without O_NONBLOCK, a pipe would make us wait for its writer.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  struct stat status;
  if (file.number < 0 || ::fstat(file.number, &status)) fail(errno, path);
  if (!S_ISREG(status.st_mode)) fail(S_ISDIR(status.st_mode) ? EISDIR : EINVAL, path);
  bytes_ = static_cast<uint64_t>(status.st_size);
  if (!bytes_) return;
  if (memory == Memory::mapped) {
    base_ = ::mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, file.number, 0);
    if (base_ == MAP_FAILED) fail(errno, path);
    return;
  }
  base_ = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base_ == MAP_FAILED) fail(errno, path);
#ifdef MADV_HUGEPAGE
  // Huge pages spare most misses of the page table in large tables; whether there are any is the system's choice.
  ::madvise(base_, bytes_, MADV_HUGEPAGE);
#endif
  for (uint64_t done = 0; done < bytes_;) {
    const ssize_t got = ::pread(file.number, static_cast<char*>(base_) + done, bytes_ - done, static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      const int error = got < 0 ? errno : EIO;  // it became shorter while it was read
      ::munmap(base_, bytes_);
      fail(error, path);
    }
    done += static_cast<uint64_t>(got);
  }
}

Mapping::~Mapping() {
  if (base_) ::munmap(base_, bytes_);
}

}  // namespace codeshell::ngram
