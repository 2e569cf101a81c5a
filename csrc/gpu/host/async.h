// Host twins of the asynchronous instructions: mbarrier, TMA and bulk copies, wgmma. Semantics from the PTX ISA 8.8,
// chapters "Parallel Synchronization", "Data Movement" and "Asynchronous Warpgroup Level Matrix Multiply-Accumulate".
//
// A copy or a matrix product is carried out at some moment between its issue and the wait for it that the seed
// chooses; until then its result is NaN. So a missing wait, a stage overwritten while it is read, or one read before it
// is filled gives wrong numbers, whatever the real hardware's timing.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "gpu/host/runtime.h"

namespace codeshell::gpu {
struct TensorMap;
}

namespace codeshell::gpu::host {

// Shared window: addresses as 32-bit numbers, for descriptors.
uint32_t shared_address(const void* pointer, Site site);
char* shared_pointer(uint32_t address, size_t bytes, const char* what, Site site);

bool elect_one(Site site);
void set_registers(int registers, bool raise, Site site);

void mbarrier_init(uint64_t* word, uint32_t arrivals, Site site);
void mbarrier_arrive(uint64_t* word, uint32_t expected_bytes, Site site);
void mbarrier_complete(uint64_t* word, uint32_t bytes, Site site);
bool mbarrier_try_wait(const uint64_t* word, uint32_t parity, Site site);
void mbarrier_wait(const uint64_t* word, uint32_t parity, Site site);

void tma_load(void* target, const TensorMap& map, uint64_t* barrier, std::initializer_list<int> coordinates, Site site);
void tma_store(const TensorMap& map, const void* source, std::initializer_list<int> coordinates, bool add, Site site);
void bulk_load(void* target, const void* source, uint32_t bytes, uint64_t* barrier, Site site);
void bulk_store(void* target, const void* source, uint32_t bytes, bool add, Site site);
void bulk_commit(Site site);
void bulk_wait(int pending, bool read, Site site);

// One wgmma.mma_async: N columns of fp32 accumulators, A by descriptor or from registers (4 words, or null).
struct Product {
  int columns;
  bool bf16;
  bool a_mn_major;
  bool b_mn_major;
  bool accumulate;
  uint64_t a_descriptor;
  uint64_t b_descriptor;
  const uint32_t* a_registers;
  float* accumulators;
};
void wgmma_fence(Site site);
void wgmma_issue(const Product& product, Site site);
void wgmma_commit(Site site);
void wgmma_wait(int pending, Site site);

// The runtime's calls at a block's start, and at its end: fails where copies or products are still in flight.
void reset_async();
void finish_async();

}  // namespace codeshell::gpu::host
