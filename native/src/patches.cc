// The gradients of convolutions whose images have few channels, as of a net's first layer. oneDNN's
// own kernels hold a vector of channels at once, most of which are not there: on AVX2 its gradients
// of 5 by 5 taps of 3 channels run at 0.4 and 0.2 of what a product does.
#include <vector>

#include "kernels.h"
#include "onednn.h"
#include "windows.h"

namespace funcnet {
namespace {

// A window's rows of outputs in bands, whose patches (256 KB) stay in a core's second cache.
struct Bands {
  int64_t run, taps, rows, count;  // floats of a tap's row and of a patch; rows of a band; bands
  explicit Bands(const Geometry& g)
      : run(g.kw * g.cin), taps(g.kh * run),
        rows(std::clamp<int64_t>(64 * 1024 / (g.ow * taps), 1, g.oh)), count(ceil_div(g.oh, rows)) {}
};

// Calls move(run of a window, run of its patch) for every row of taps of a band's patches.
template <typename Float, typename Move>
void for_each_run(const Geometry& g, const Bands& bands, Float* window, int64_t first,
                         int64_t rows, float* patches, Move move) {
  for (int64_t i = first; i < first + rows; ++i) {
    for (int64_t j = 0; j < g.ow; ++j) {
      for (int64_t p = 0; p < g.kh; ++p, patches += bands.run) {
        const int64_t row = i * g.stride_h + p * g.dilation_h;
        move(window + (row * g.w + j * g.stride_w) * g.cin, patches);
      }
    }
  }
}

struct Buffers {
  Buffer window, patches, cotangent;
};
Buffers& buffers() {
  thread_local Buffers buffers;
  return buffers;
}

}  // namespace

bool takes_patches(Kind kind, const Geometry& g) {
#if defined(__x86_64__) && defined(__GNUC__)
  static const bool wide = __builtin_cpu_supports("avx512f");
#else
  constexpr bool wide = false;
#endif
  // With AVX-512 oneDNN's kernel gradient is as fast as products are.
  const bool slow = kind == Kind::kInputGradient || (kind == Kind::kKernelGradient && !wide);
  return slow && g.groups == 1 && g.cin <= 4 && g.kh * g.kw > 1 && g.dilation_w == 1;
}

void patches_kernel_gradient(Pool& pool, const Geometry& geometry, const float* x,
                             Cotangents from, float* dw) {
  const Geometry g = of_images(windowed(geometry), 1);
  const Bands bands(g);
  const int64_t threads = worthwhile_threads(pool, geometry.flops());
  const int64_t shares = std::min(threads, geometry.n), numbers = g.kernel_floats();
  std::vector<float> sums(shares * numbers);
  for_each_share(pool, threads, shares, [&](int64_t share) {
    const Geometry image = of_images(geometry, 1);
    float* patches = buffers().patches.floats(bands.rows * g.ow * bands.taps);
    for (int64_t i = geometry.n * share / shares; i < geometry.n * (share + 1) / shares; ++i) {
      const float* window = to_window(image, x + i * image.h * image.w * g.cin, buffers().window);
      const float* dy = from.images(image, i, 1, buffers().cotangent);
      for (int64_t first = 0; first < g.oh; first += bands.rows) {
        const int64_t rows = std::min(bands.rows, g.oh - first);
        for_each_run(g, bands, window, first, rows, patches, [&](const float* run, float* patch) {
          std::copy_n(run, bands.run, patch);
        });
        sgemm(true, false, bands.taps, g.cout, rows * g.ow, patches, bands.taps,
              dy + first * g.ow * g.cout, g.cout, /*adding=*/true,
              sums.data() + share * numbers, g.cout);
      }
    }
  });
  for (int64_t share = 1; share < shares; ++share) {
    add_to(sums.data(), sums.data() + share * numbers, numbers);
  }
  std::copy_n(sums.data(), numbers, dw);
}

void patches_input_gradient(Pool& pool, const Geometry& geometry, const float* dy, const float* w,
                            float* dx) {
  const Geometry g = of_images(windowed(geometry), 1);
  const Bands bands(g);
  const int64_t threads = worthwhile_threads(pool, geometry.flops());
  std::vector<float> turned(g.kernel_floats());  // (cout, taps): the product likes it better
  for (int64_t i = 0; i < bands.taps; ++i) {
    for (int64_t o = 0; o < g.cout; ++o) turned[o * bands.taps + i] = w[i * g.cout + o];
  }
  for_each_share(pool, threads, geometry.n, [&](int64_t i) {
    const Geometry image = of_images(geometry, 1);
    float* patches = buffers().patches.floats(bands.rows * g.ow * bands.taps);
    float* window = buffers().window.floats(window_count(g));
    std::fill_n(window, window_count(g), 0.0f);
    for (int64_t first = 0; first < g.oh; first += bands.rows) {
      const int64_t rows = std::min(bands.rows, g.oh - first);
      sgemm(false, false, rows * g.ow, bands.taps, g.cout,
            dy + (i * g.oh + first) * g.ow * g.cout, g.cout, turned.data(), bands.taps,
            /*adding=*/false, patches, bands.taps);
      for_each_run(g, bands, window, first, rows, patches, [&](float* run, const float* patch) {
        for (int64_t k = 0; k < bands.run; ++k) run[k] += patch[k];
      });
    }
    from_window(image, window, dx + i * image.h * image.w * g.cin);
  });
}

}  // namespace funcnet
