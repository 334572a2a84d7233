// Maxima of windows of 2 by 2, and their winners, while the outputs of a convolution are in a core's
// cache.
#include "kernels.h"

#define INLINE inline __attribute__((always_inline))

namespace funcnet {
namespace {

// Eight channels at once, in words: GCC finds no vectors in the loop that says the same.
constexpr int64_t kLanes = 8;
typedef float Floats __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t Numbers __attribute__((vector_size(32)));
typedef uint8_t Bytes __attribute__((vector_size(8), aligned(1), may_alias));

INLINE void pool_lanes(const float* const* cells, float* y, uint8_t* winner) {
  Floats most = *reinterpret_cast<const Floats*>(cells[0]);
  Numbers which = {};
  for (int i = 1; i < 4; ++i) {
    const Floats cell = *reinterpret_cast<const Floats*>(cells[i]);
    const Numbers better = ~(cell <= most) & (most == most);  // as a NaN is, once
    most = better ? cell : most;
    which = better ? Numbers{} + i : which;
  }
  *reinterpret_cast<Floats*>(y) = most <= 0.0f ? Floats{} : most;
  which = most > 0.0f ? which : Numbers{} + 4;
  *reinterpret_cast<Bytes*>(winner) = __builtin_convertvector(which, Bytes);
}

INLINE void spread_lanes(const float* dy, const uint8_t* winner, float* const* cells) {
  const Numbers which = __builtin_convertvector(*reinterpret_cast<const Bytes*>(winner), Numbers);
  const Floats given = *reinterpret_cast<const Floats*>(dy);
  for (int i = 0; i < 4; ++i) {
    *reinterpret_cast<Floats*>(cells[i]) = which == i ? given : Floats{};
  }
}

// Calls run(k) for eight channels from the k-th on, over all of them: over some twice, which changes
// nothing, where eights end before them.
template <typename Run>
INLINE void each_eight(int64_t channels, Run run) {
  for (int64_t k = 0; k < channels; k += kLanes) run(std::min(k, channels - kLanes));
}

}  // namespace

FUNCNET_WIDE void pool_row(const float* upper, const float* lower, int64_t windows,
                           int64_t channels, float* y, uint8_t* winner) {
  for (; windows > 0; --windows, y += channels, winner += channels) {
    const float* cells[] = {upper, upper + channels, lower, lower + channels};
    if (channels >= kLanes) {
      each_eight(channels, [&](int64_t k) __attribute__((always_inline)) {
        const float* here[] = {cells[0] + k, cells[1] + k, cells[2] + k, cells[3] + k};
        pool_lanes(here, y + k, winner + k);
      });
    } else {
      float few[5][kLanes] = {};
      uint8_t few_winners[kLanes];
      for (int i = 0; i < 4; ++i) std::copy_n(cells[i], channels, few[i]);
      const float* here[] = {few[0], few[1], few[2], few[3]};
      pool_lanes(here, few[4], few_winners);
      std::copy_n(few[4], channels, y);
      std::copy_n(few_winners, channels, winner);
    }
    upper += 2 * channels;
    lower += 2 * channels;
  }
}

namespace {

FUNCNET_WIDE void spread_row(const float* dy, const uint8_t* winner, int64_t windows,
                             int64_t channels, float* upper, float* lower) {
  for (; windows > 0; --windows, dy += channels, winner += channels) {
    float* cells[] = {upper, upper + channels, lower, lower + channels};
    if (channels >= kLanes) {
      each_eight(channels, [&](int64_t k) __attribute__((always_inline)) {
        float* here[] = {cells[0] + k, cells[1] + k, cells[2] + k, cells[3] + k};
        spread_lanes(dy + k, winner + k, here);
      });
    } else {
      for (int i = 0; i < 4; ++i) {
        for (int64_t k = 0; k < channels; ++k) cells[i][k] = winner[k] == i ? dy[k] : 0.0f;
      }
    }
    upper += 2 * channels;
    lower += 2 * channels;
  }
}

// Calls each(where an upper row of outputs is, where its windows are) for all rows of windows.
template <typename Each>
void each_row(const Geometry& g, int64_t first, int64_t images, Each each) {
  for (int64_t i = 0; i < images; ++i) {
    for (int64_t row = 0; row < g.oh / 2; ++row) {
      each((i * g.oh + 2 * row) * g.ow * g.cout,
           ((first + i) * (g.oh / 2) + row) * (g.ow / 2) * g.cout);
    }
  }
}

}  // namespace

void pool_images(const Geometry& g, int64_t first, int64_t count, const float* z, Results to) {
  each_row(g, first, count, [&](int64_t upper, int64_t windows) {
    pool_row(z + upper, z + upper + g.ow * g.cout, g.ow / 2, g.cout, to.y + windows,
             to.winner + windows);
  });
}

const float* Cotangents::images(const Geometry& g, int64_t first, int64_t count,
                                Buffer& buffer) const {
  const int64_t image = g.oh * g.ow * g.cout;
  if (!winner) return dy + first * image;
  float* dz = buffer.floats(count * image);
  if (g.oh % 2 || g.ow % 2) std::fill_n(dz, count * image, 0.0f);
  each_row(g, first, count, [&](int64_t upper, int64_t windows) {
    spread_row(dy + windows, winner + windows, g.ow / 2, g.cout, dz + upper,
               dz + upper + g.ow * g.cout);
  });
  return dz;
}

}  // namespace funcnet
