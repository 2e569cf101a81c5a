// wgmma on the host: products carried out later, from descriptors and fragments.
//
// A product is queued when its warpgroup issues it, and carried out when the scheduler picks it (later) or when a wait
// needs it, oldest first, as on the hardware. Meanwhile the threads' accumulators are NaN, and the sums live in a Tile.
// A wait gives them back to the threads. So reading accumulators too early gives NaN, and overwriting an operand too
// early may give wrong numbers.

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <vector>

#include "gpu/host/async.h"
#include "gpu/types.h"

namespace codeshell::gpu::host {

namespace {

constexpr int kThreads = 128;
constexpr int kRows = 64;
constexpr int kDepth = 16;

// The accumulators of a warpgroup while products on them are in flight: the threads' own hold NaN meanwhile.
struct Tile {
  std::vector<float*> own;    // each thread's
  std::vector<float> values;  // (rows, columns)
  int columns = 0;
  int last = 0;  // how many products the warpgroup had issued with the last on this tile
};

// A product that has been issued. Operands in shared memory are read when it is carried out; A's registers are read at
// the issue.
struct Operation {
  Product product;
  std::vector<uint32_t> a_registers;  // (threads, 4), or none
  std::shared_ptr<Tile> tile;
  Site site;
};

// What a warpgroup has under way.
struct Warpgroup {
  std::vector<std::shared_ptr<Operation>> queue;  // issued and not carried out, oldest first
  std::vector<std::shared_ptr<Tile>> tiles;       // with products that have not been waited for
  std::vector<int> group_ends;                    // products issued before each commit that has not been waited for
  int issued = 0;
  int carried_out = 0;
  bool fenced = false;  // a fence since the last commit
};

// Keyed by the number of their first thread.
std::map<int, std::shared_ptr<Warpgroup>> warpgroups;

// The warpgroup whose first thread this is; made when it first appears.
Warpgroup& warpgroup_of(int first) {
  auto& entry = warpgroups[first];
  if (!entry) entry = std::make_shared<Warpgroup>();
  return *entry;
}

int first_thread() { return linear_thread() / kThreads * kThreads; }

// All 128 threads come to the instruction, and the last performs it for all.
template <class Offer>
void meet_warpgroup(const char* what, Perform perform, Offer* offer, Site site) {
  meet({first_thread(), kThreads, {~uint64_t{0}, ~uint64_t{0}}}, what, perform, offer, site);
}

// Row and column of value i of a thread in the fragments, as gpu/wgmma.h describes them.
int fragment_row(int thread, int i) { return 16 * (thread / 32) + thread % 32 / 4 + 8 * (i / 2 % 2); }
int fragment_column(int thread, int i) { return 8 * (i / 4) + 2 * (thread % 4) + i % 2; }

// A 16-bit operand as fp32.
float widen(uint16_t bits, bool bf16) { return bf16 ? to_float(gpu::bf16{bits}) : to_float(fp16{bits}); }

// The element (row of M or N, k) of an operand in shared memory, by the canonical layouts of the 128-byte swizzle.
class Operand {
 public:
  Operand(uint64_t descriptor, bool mn_major, bool bf16, Site site) : mn_major_(mn_major), bf16_(bf16), site_(site) {
    // The fields of the descriptor; its addresses are in units of 16 bytes.
    if (descriptor >> 62 != 1) fail("wgmma: a descriptor of another swizzle than 128 bytes", site);
    if (descriptor >> 49 & 7) fail("wgmma: a descriptor with a base offset", site);
    start_ = static_cast<uint32_t>(descriptor & 0x3fff) << 4;
    leading_ = static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4;
    stride_ = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4;
  }

  float at(int mn, int k) const {
    const auto row = static_cast<uint32_t>(mn), depth = static_cast<uint32_t>(k);
    uint32_t address = start_;
    // The address without the swizzle: blocks of 64 elements and groups of 8 rows have their own distances.
    if (mn_major_) {
      address += row / 64 * leading_ + row % 64 * 2 + depth / 8 * stride_ + depth % 8 * 128;
    } else {
      address += row / 8 * stride_ + row % 8 * 128 + depth * 2;
    }
    // The swizzle works on address bits: the row within 1024 bytes is XORed into the chunk.
    address ^= (address >> 7 & 7) << 4;
    uint16_t bits;
    std::memcpy(&bits, shared_pointer(address, 2, "wgmma", site_), 2);
    return widen(bits, bf16_);
  }

 private:
  bool mn_major_;
  bool bf16_;
  Site site_;
  uint32_t start_ = 0, leading_ = 0, stride_ = 0;
};

// D (64 x columns) = A (64 x 16) B (16 x columns), plus D: sums in fp64, rounded once to fp32. The hardware's own order
// and precision of the sum are not specified.
void carry_out(const Operation& operation) {
  const Product& p = operation.product;
  std::vector<float> a(kRows * kDepth), b(static_cast<size_t>(p.columns) * kDepth);
  if (operation.a_registers.empty()) {
    const Operand operand(p.a_descriptor, p.a_mn_major, p.bf16, operation.site);
    // A: 64 x 16, from shared memory …
    for (int row = 0; row < kRows; ++row) {
      for (int k = 0; k < kDepth; ++k) a[row * kDepth + k] = operand.at(row, k);
    }
  } else {
    // … or from the registers of all threads, two values in each.
    for (int thread = 0; thread < kThreads; ++thread) {
      for (int i = 0; i < 8; ++i) {  // half i % 2 of register i / 2
        const uint32_t word = operation.a_registers[thread * 4 + i / 2];
        // The fragment of A has the layout of an accumulator of 16 columns.
        const int row = fragment_row(thread, i), k = fragment_column(thread, i);
        a[row * kDepth + k] = widen(static_cast<uint16_t>(word >> (16 * (i % 2))), p.bf16);
      }
    }
  }
  // B, transposed to (depth, columns) so that the inner loop below runs over columns.
  const Operand operand(p.b_descriptor, p.b_mn_major, p.bf16, operation.site);
  for (int column = 0; column < p.columns; ++column) {
    for (int k = 0; k < kDepth; ++k) b[k * p.columns + column] = operand.at(column, k);
  }
  std::vector<double> sums(p.columns);
  for (int row = 0; row < kRows; ++row) {
    float* d = operation.tile->values.data() + static_cast<size_t>(row) * p.columns;
    for (int column = 0; column < p.columns; ++column) sums[column] = p.accumulate ? d[column] : 0.0f;
    for (int k = 0; k < kDepth; ++k) {
      const double factor = a[row * kDepth + k];
      for (int column = 0; column < p.columns; ++column) sums[column] += factor * b[k * p.columns + column];
    }
    for (int column = 0; column < p.columns; ++column) d[column] = static_cast<float>(sums[column]);
  }
}

// The oldest in the queue.
void carry_out_next(Warpgroup& group) {
  const std::shared_ptr<Operation> operation = group.queue.front();
  group.queue.erase(group.queue.begin());
  carry_out(*operation);
  ++group.carried_out;
}

// What one thread brings to a product.
struct Offer {
  const Product* product;
  const Site* site;
  int first;
};

// Issues a product for the 128 threads whose offers these are.
void issue(void* const* offers) {
  // What a thread offered.
  const auto at = [&](int thread) { return static_cast<const Offer*>(offers[thread]); };
  const Product& product = *at(0)->product;
  const Site site = *at(0)->site;
  Warpgroup& group = warpgroup_of(at(0)->first);
  if (!group.fenced) fail("wgmma without a wgmma_fence since the last wgmma_commit", site);
  auto operation = std::make_shared<Operation>();
  operation->product = product;
  operation->site = site;
  // All threads must name the same operands; each brings its own accumulators and registers.
  std::vector<float*> own(kThreads);
  for (int thread = 0; thread < kThreads; ++thread) {
    const Product& other = *at(thread)->product;
    if (other.a_descriptor != product.a_descriptor || other.b_descriptor != product.b_descriptor ||
        other.accumulate != product.accumulate || other.columns != product.columns)
      fail("wgmma: threads of a warpgroup with different descriptors", site);
    own[thread] = other.accumulators;
    if (other.a_registers) {
      operation->a_registers.insert(operation->a_registers.end(), other.a_registers, other.a_registers + 4);
    }
  }
  // Accumulators that are already under way are found by their addresses: their sums live in that tile.
  for (const auto& tile : group.tiles) {
    if (tile->own == own && tile->columns == product.columns) operation->tile = tile;
  }
  // Else the threads' values move to a new tile, and the threads hold NaN until a wait.
  if (!operation->tile) {
    auto tile = std::make_shared<Tile>();
    tile->own = own;
    tile->columns = product.columns;
    tile->values.resize(static_cast<size_t>(kRows) * product.columns);
    for (int thread = 0; thread < kThreads; ++thread) {
      for (int i = 0; i < product.columns / 2; ++i) {
        // From the threads' fragments to rows and columns.
        tile->values[fragment_row(thread, i) * product.columns + fragment_column(thread, i)] = own[thread][i];
        own[thread][i] = std::numeric_limits<float>::quiet_NaN();
      }
    }
    group.tiles.push_back(tile);
    operation->tile = tile;
  }
  // Queue it, and let the scheduler carry out one product at some later moment. The moment may come after a wait has
  // done it already; then the queue's next product is early, or there is none.
  operation->tile->last = ++group.issued;
  group.queue.push_back(operation);
  // Shared, because the block may be over when the moment comes.
  const std::shared_ptr<Warpgroup> keep = warpgroups[at(0)->first];
  later([keep] {
    if (!keep->queue.empty()) carry_out_next(*keep);
  });
}

}  // namespace

void wgmma_fence(Site site) {
  int first = first_thread();
  meet_warpgroup(
      "wgmma_fence", [](void* const* offers) { warpgroup_of(*static_cast<int*>(offers[0])).fenced = true; }, &first,
      site);
}

void wgmma_issue(const Product& product, Site site) {
  Offer offer{&product, &site, first_thread()};
  meet_warpgroup("wgmma", &issue, &offer, site);
}

void wgmma_commit(Site site) {
  if (left_out("wgmma_commit", site)) return;
  int first = first_thread();
  meet_warpgroup(
      "wgmma_commit",
      [](void* const* offers) {
        Warpgroup& group = warpgroup_of(*static_cast<int*>(offers[0]));
        // The group ends with the last product issued; the next group needs a fence of its own.
        group.group_ends.push_back(group.issued);
        group.fenced = false;
      },
      &first, site);
}

void wgmma_wait(int pending, Site site) {
  if (left_out("wgmma_wait", site, pending)) return;
  // The warpgroup waits as one: the last of its threads to come does it for all.
  struct Wait {
    int first;
    int pending;
  } wait{first_thread(), pending};
  meet_warpgroup(
      "wgmma_wait",
      [](void* const* offers) {
        const Wait& wait = *static_cast<const Wait*>(offers[0]);
        Warpgroup& group = warpgroup_of(wait.first);
        const auto allowed = static_cast<size_t>(wait.pending);
        // Carries out all products of the groups that must be finished.
        if (group.group_ends.size() <= allowed) return;
        const auto waited = group.group_ends.end() - static_cast<std::ptrdiff_t>(allowed);
        const int end = *(waited - 1);
        while (group.carried_out < end) carry_out_next(group);
        group.group_ends.erase(group.group_ends.begin(), waited);
        // Tiles with products in later groups stay NaN.
        std::erase_if(group.tiles, [&](const std::shared_ptr<Tile>& tile) {
          // A tile whose products are all done goes back to the threads.
          if (tile->last > end) return false;
          for (int thread = 0; thread < kThreads; ++thread) {
            for (int i = 0; i < tile->columns / 2; ++i) {
              tile->own[thread][i] = tile->values[fragment_row(thread, i) * tile->columns + fragment_column(thread, i)];
            }
          }
          return true;
        });
      },
      &wait, site);
}

// At a block's start; and what its end may not leave open.
void reset_products() { warpgroups.clear(); }

std::string unfinished_products() {
  for (const auto& [first, group] : warpgroups) {
    if (!group->tiles.empty()) return "wgmma: products that nobody waited for";
  }
  return "";
}

}  // namespace codeshell::gpu::host
