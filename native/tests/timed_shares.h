// Included before each of the kernels' files, where shares are to be timed: see cores.cc.
#pragma once

#include "common.h"

namespace funcnet {
void timed_shares(Pool& pool, int64_t threads, int64_t shares,
                  const std::function<void(int64_t)>& share);
}
#define for_each_share timed_shares
