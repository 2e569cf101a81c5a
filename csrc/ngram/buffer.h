// Arrays for sorting, which are large and written everywhere at once: in huge pages, where the system has them, they
// take fewer page faults and fewer misses of the address table.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <type_traits>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace codeshell::ngram {

template <class T>
class Buffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Buffer() = default;
  // Not initialised.
  explicit Buffer(size_t count) {
    // Small ones are not worth a huge page, and nothing is cheaper to align than a cache line.
    const size_t bytes = count * sizeof(T), page = bytes >= 4 * huge ? huge : 64;
    data_ = static_cast<T*>(std::aligned_alloc(page, (bytes + page - 1) / page * page));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (page == huge) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
  }
  Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~Buffer() { std::free(data_); }

  void reset() { Buffer().swap(*this); }
  void swap(Buffer& other) noexcept { std::swap(data_, other.data_); }
  T* get() const { return data_; }
  T& operator[](size_t i) const { return data_[i]; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  static constexpr size_t huge = size_t{2} << 20;

  T* data_ = nullptr;
};

}  // namespace codeshell::ngram
