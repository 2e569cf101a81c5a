// TMA and bulk copies on the host: tensor maps, boxes with their swizzle and fill, bulk groups.
//
// A load fills its target with NaN when it is issued. The copy happens at a later moment that the seed chooses, and
// then adds its bytes to the barrier. A store reads shared memory at one later moment and writes global memory at
// another one. So a wait that is missing, or for the wrong thing, shows in the numbers.

#include "gpu/tma.h"

#include <cstring>
#include <memory>
#include <vector>

#include "gpu/host/async.h"
#include "gpu/host/cuda.h"
#include "gpu/tensor_shape.h"
#include "gpu/types.h"

namespace codeshell::gpu {

// The map on the host is the shape itself.
static_assert(sizeof(TensorShape) <= sizeof(TensorMap));

Error encode_tensor_map(TensorMap* map, const TensorShape& shape) {
  if (const Error error = check_tensor_shape(shape)) return error;
  std::memset(map, 0, sizeof(TensorMap));
  std::memcpy(map, &shape, sizeof shape);
  return nullptr;
}

namespace host {

namespace {

// The shape in a map, after checks that it is one, and has as many dimensions as the call has coordinates.
TensorShape shape_of(const TensorMap& map, size_t coordinates, const char* what, Site site) {
  TensorShape shape;
  std::memcpy(&shape, &map, sizeof shape);
  // Other memory than a map hardly passes all rules.
  if (check_tensor_shape(shape)) fail(std::string(what) + ": not a tensor map", site);
  if (static_cast<size_t>(shape.rank) != coordinates)
    fail(std::string(what) + ": " + std::to_string(coordinates) + " coordinates for a map of rank " +
             std::to_string(shape.rank),
         site);
  return shape;
}

// Elements of a box.
uint32_t box_elements(const TensorShape& shape) {
  uint32_t count = 1;
  for (int i = 0; i < shape.rank; ++i) count *= shape.box[i];
  return count;
}

// Calls visit(address in global memory or null where outside the tensor, offset in shared memory) for each element.
template <class Visit>
void for_each_element(const TensorShape& shape, const std::vector<int>& start, const Visit& visit) {
  const size_t size = element_bytes(shape.element);
  const uint32_t count = box_elements(shape);
  for (uint32_t i = 0; i < count; ++i) {
    char* address = static_cast<char*>(shape.address);
    uint32_t rest = i;
    bool inside = true;
    for (int d = 0; d < shape.rank; ++d) {
      // Coordinate d of element i, innermost dimension fastest. It may lie before 0 or after the end.
      const int64_t position = static_cast<int64_t>(start[d]) + rest % shape.box[d];
      rest /= shape.box[d];
      inside &= position >= 0 && position < static_cast<int64_t>(shape.sizes[d]);
      address += position * static_cast<int64_t>(d == 0 ? size : shape.strides[d - 1]);
    }
    size_t offset = i * size;
    // Rows are padded to nothing: a swizzled box's row is as long as the swizzle, so that bits 7 to 9 count rows.
    if (shape.swizzle == Swizzle::k128) offset ^= (offset >> 7 & 7) << 4;
    visit(inside ? address : nullptr, offset);
  }
}

// The tile must lie in dynamic shared memory, aligned as the swizzle requires, with room for the whole box.
void check_tile(const TensorShape& shape, const void* tile, const char* what, Site site) {
  if (!is_shared(tile)) fail(std::string(what) + ": the tile is not in shared memory", site);
  const uint32_t alignment = shape.swizzle == Swizzle::k128 ? 1024 : 128;
  if (shared_address(tile, site) % alignment)
    fail(std::string(what) + ": the tile does not start at a multiple of " + std::to_string(alignment) + " bytes",
         site);
  shared_pointer(shared_address(tile, site), box_elements(shape) * element_bytes(shape.element), what, site);
}

// One element of a reduction: an addition in fp32, rounded to the element's type.
template <class T>
void add_to(char* target, const char* source) {
  T a, b;
  std::memcpy(&a, target, sizeof(T));
  std::memcpy(&b, source, sizeof(T));
  a = from_float<T>(to_float(a) + to_float(b));
  std::memcpy(target, &a, sizeof(T));
}

void add_element(Element element, char* target, const char* source) {
  switch (element) {
    case Element::kBf16: return add_to<bf16>(target, source);
    case Element::kFp16: return add_to<fp16>(target, source);
    case Element::kFp32: return add_to<float>(target, source);
  }
}

// A thread's stores: those it has not committed, then its groups, oldest first.
struct Group {
  int reads = 0;   // copies that have yet to read shared memory
  int writes = 0;  // copies that have yet to write global memory
};
struct Thread {
  // Shared, because copies of a group may end after the thread has forgotten it.
  std::shared_ptr<Group> open = std::make_shared<Group>();
  std::vector<std::shared_ptr<Group>> committed;
};

// The block's threads by their number, and how many of its copies are still to end.
std::vector<Thread> threads;
int loads_in_flight = 0;
int stores_in_flight = 0;

// The running thread's.
Thread& own() {
  const auto index = static_cast<size_t>(linear_thread());
  if (threads.size() <= index) threads.resize(index + 1);
  return threads[index];
}

// Calls read() at one later moment, and what it returns, which writes global memory, at another one after it. Both
// count in the thread's open group.
template <class Read>
void issue_store(const Read& read) {
  const std::shared_ptr<Group> group = own().open;
  ++group->reads;
  ++group->writes;
  ++stores_in_flight;
  later([=] {
    const auto write = read();
    --group->reads;
    later([=] {
      write();
      --group->writes;
      --stores_in_flight;
    });
  });
}

}  // namespace

void tma_load(void* target, const TensorMap& map, uint64_t* barrier, std::initializer_list<int> coordinates,
              Site site) {
  const TensorShape shape = shape_of(map, coordinates.size(), "tma_load", site);
  check_tile(shape, target, "tma_load", site);
  const std::vector<int> start(coordinates);
  const size_t size = element_bytes(shape.element);
  auto* tile = static_cast<char*>(target);
  // Until the copy: NaN in every floating-point format.
  std::memset(tile, 0xff, box_elements(shape) * size);
  ++loads_in_flight;
  later([=] {
    for_each_element(shape, start, [&](const char* address, size_t offset) {
      if (address) {
        std::memcpy(tile + offset, address, size);
      } else {
        std::memset(tile + offset, 0, size);
      }
    });
    --loads_in_flight;
    // The whole box counts, also the zeros beyond the tensor's edge.
    mbarrier_complete(barrier, static_cast<uint32_t>(box_elements(shape) * size), site);
  });
}

void tma_store(const TensorMap& map, const void* source, std::initializer_list<int> coordinates, bool add, Site site) {
  const char* what = add ? "tma_reduce_add" : "tma_store";
  const TensorShape shape = shape_of(map, coordinates.size(), what, site);
  check_tile(shape, source, what, site);
  const std::vector<int> start(coordinates);
  const size_t size = element_bytes(shape.element);
  const auto* tile = static_cast<const char*>(source);
  // Reads the whole tile at once; later it writes or adds the elements that lie inside the tensor.
  issue_store([=] {
    // From here on shared memory may be overwritten.
    std::vector<char> copy(tile, tile + box_elements(shape) * size);
    return [=] {
      for_each_element(shape, start, [&](char* address, size_t offset) {
        if (!address) return;
        if (add) {
          add_element(shape.element, address, copy.data() + offset);
        } else {
          std::memcpy(address, copy.data() + offset, size);
        }
      });
    };
  });
}

namespace {

// Alignments and size of a run of bytes, and that it lies in shared memory.
void check_bulk(const void* shared, const void* global, uint32_t bytes, const char* what, Site site) {
  check_aligned(global, 16, what, site);
  check_aligned(shared, 16, what, site);
  if (bytes == 0 || bytes % 16) fail(std::string(what) + ": " + std::to_string(bytes) + " bytes", site);
  // First and last byte.
  if (!is_shared(shared) || !is_shared(static_cast<const char*>(shared) + bytes - 1))
    fail(std::string(what) + ": beyond the shared memory", site);
}

}  // namespace

// Plain runs: the same two moments, without a map.
void bulk_load(void* target, const void* source, uint32_t bytes, uint64_t* barrier, Site site) {
  check_bulk(target, source, bytes, "bulk_load", site);
  std::memset(target, 0xff, bytes);
  ++loads_in_flight;
  later([=] {
    std::memcpy(target, source, bytes);
    --loads_in_flight;
    mbarrier_complete(barrier, bytes, site);
  });
}

void bulk_store(void* target, const void* source, uint32_t bytes, bool add, Site site) {
  check_bulk(source, target, bytes, add ? "bulk_reduce_add" : "bulk_store", site);
  const auto* from = static_cast<const char*>(source);
  auto* to = static_cast<char*>(target);
  issue_store([=] {
    std::vector<char> copy(from, from + bytes);
    return [=] {
      if (!add) {
        std::memcpy(to, copy.data(), bytes);
        return;
      }
      // fp32 by fp32.
      for (uint32_t i = 0; i < bytes; i += 4) add_to<float>(to + i, copy.data() + i);
    };
  });
}

// Closes the running thread's open group.
void bulk_commit(Site site) {
  if (left_out("bulk_commit", site)) return;
  Thread& thread = own();
  // An empty group counts too, as on the hardware.
  thread.committed.push_back(thread.open);
  thread.open = std::make_shared<Group>();
}

// The thread's oldest groups must be done: with all their reads, or with all their writes too.
void bulk_wait(int pending, bool read, Site site) {
  if (left_out(read ? "bulk_wait_read" : "bulk_wait", site)) return;
  const std::vector<std::shared_ptr<Group>> groups = own().committed;
  const auto done = [&] {
    // All but the `pending` latest groups.
    for (size_t i = 0; i + static_cast<size_t>(pending) < groups.size(); ++i) {
      if (read ? groups[i]->reads : groups[i]->writes) return false;
    }
    return true;
  };
  wait_until(done, read ? "bulk_wait_read" : "bulk_wait", site);
}

// At the start of a block.
void reset_copies() {
  threads.clear();
  loads_in_flight = stores_in_flight = 0;
}

// What the block's end may not leave open: all loads, and of stores the reads, because the shared memory goes to
// another block. Writes may end later.
std::string unfinished_copies() {
  if (loads_in_flight) return std::to_string(loads_in_flight) + " asynchronous loads that nobody waited for";
  for (const Thread& thread : threads) {
    int reads = thread.open->reads;
    for (const auto& group : thread.committed) reads += group->reads;
    if (reads) return "asynchronous stores that still read shared memory";
  }
  return "";
}

}  // namespace host

}  // namespace codeshell::gpu
