#pragma once
#include <cstdint>

#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/dot_interaction.h"
#include "kernels/embedding_bag.h"
#include "kernels/fully_connected.h"
#include "kernels/fully_connected_narrow.h"

namespace terabag {

// The kernels of one instruction set. Contracts are in the headers of the operations; no Node, no allocation, no exceptions, no I/O.
struct KernelTable {
  const char* name;
  PoolBags* pool_bags;
  FullyConnected* fully_connected;
  uint32_t panel_width;                        // of the packed weights of fully_connected and the two below
  FullyConnectedNarrow* fully_connected_bf16;  // null where this CPU has no instruction for it; likewise int8
  FullyConnectedNarrow* fully_connected_int8;
  DotInteraction* dot_interaction;
  Activate* activate;
  Softmax* softmax;
  const AttentionKernels* attention;
};

// Names of the kernels that this CPU runs, best last; null-terminated.
const char* const* available_kernels();
// The kernels in use: the best, or the ones that TERABAG_ISA named at the first call. Null when that names none that runs here.
const KernelTable* selected_kernels();

}  // namespace terabag
