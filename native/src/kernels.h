// The kernels: float32, row-major, images (n, h, w, channels), kernels (height, width, in, out).
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "common.h"

namespace funcnet {

// y[n, i, j, o] = sum over p, q, c of
//   x[n, i stride_h + p dilation_h - pad_top, j stride_w + q dilation_w - pad_left, c] w[p, q, c, o].
// What is read beyond the image is zero; how far that is below and on the right follows from oh and
// ow, which may be fewer or more than the image would give. Of groups each output channel's sum is
// over the channels of its own, and the kernel has cin / groups of them.
struct Geometry {
  int64_t n, h, w, cin, cout, kh, kw, oh, ow, stride_h, stride_w, pad_top, pad_left;
  int64_t dilation_h = 1, dilation_w = 1, groups = 1;
  int64_t kernel_floats() const { return kh * kw * (cin / groups) * cout; }
  double flops() const { return 2.0 * n * oh * ow * kernel_floats(); }
};

enum class Kind : int64_t { kForward, kKernelGradient, kInputGradient };

// The three maps. Of a kernel of 3 by 3 at stride 1 Winograd's filtering may take up to `winograd` by
// `winograd` outputs at once, 2 or 4, where that is cheaper; 0 is none of it.
// y = relu?(conv(x, w) + bias?); bias has cout numbers or is null.
void conv(Pool& pool, const Geometry& geometry, const float* x, const float* w, const float* bias,
          bool relu, float* y, int64_t winograd = 0);
// dw = the gradient of sum(dy conv(x, w)) by w.
void conv_kernel_gradient(Pool& pool, const Geometry& geometry, const float* x, const float* dy,
                          float* dw, int64_t winograd = 0);
// dx = the same by x.
void conv_input_gradient(Pool& pool, const Geometry& geometry, const float* dy, const float* w,
                         float* dx, int64_t winograd = 0);
// y (n, oh / 2, ow / 2, cout) = the maximum of each 2 by 2 window of relu(conv(x, w) + bias), and which
// of its four cells has it first, or 4 where it is not above 0. A NaN wins over numbers, and is not
// above 0; a last odd row or column is dropped.
void conv_pool(Pool& pool, const Geometry& geometry, const float* x, const float* w,
               const float* bias, float* y, uint8_t* winner, int64_t winograd = 0);
// dw, where each window's dy went to its winner and nothing to other cells. Not by filtering.
void conv_pool_kernel_gradient(Pool& pool, const Geometry& geometry, const float* x,
                               const float* dy, const uint8_t* winner, float* dw);
// The name of the implementation: Winograd's ("winograd 2x2"), "patches", or oneDNN's for one image
// ("brgconv:avx512_core", "ref", ...).
std::string conv_implementation(Kind kind, const Geometry& geometry, int64_t winograd);

// What the maps have of images of conv's output: they write them, or the maxima of their windows;
// they read them, or what windows have for their winners. `winner` is null where there are no windows.
struct Results {
  float* y;
  uint8_t* winner = nullptr;
};
struct Cotangents {
  const float* dy;
  const uint8_t* winner = nullptr;
  // Images from the `first` on, laid out in the buffer if they are not there.
  const float* images(const Geometry& geometry, int64_t first, int64_t count, Buffer& buffer) const;
};
// The maxima of images of outputs, from the `first` on.
void pool_images(const Geometry& geometry, int64_t first, int64_t count, const float* z, Results to);
// Of windows side by side, whose upper and lower cells lie so.
void pool_row(const float* upper, const float* lower, int64_t windows, int64_t channels, float* y,
              uint8_t* winner);

// The same maps by Winograd's filtering, and how many by how many outputs it had best take at once,
// up to `most`; 0 where it is no cheaper, or cannot be done.
int64_t winograd_outputs(Kind kind, const Geometry& geometry, int64_t most);
void winograd_conv(int64_t outputs, Pool& pool, const Geometry& geometry, const float* x,
                   const float* w, const float* bias, bool relu, Results to);
void winograd_kernel_gradient(int64_t outputs, Pool& pool, const Geometry& geometry,
                              const float* x, const float* dy, float* dw);
void winograd_input_gradient(int64_t outputs, Pool& pool, const Geometry& geometry,
                             const float* dy, const float* w, float* dx);

// The gradients as products over patches (the pixels under a kernel, laid out side by side), and
// whether they are the faster way.
bool takes_patches(Kind kind, const Geometry& geometry);
void patches_kernel_gradient(Pool& pool, const Geometry& geometry, const float* x,
                             Cotangents from, float* dw);
void patches_input_gradient(Pool& pool, const Geometry& geometry, const float* dy, const float* w,
                            float* dx);
// Primitives in the cache, and the most that it holds.
size_t conv_cache_size();
constexpr size_t kConvCacheCapacity = 256;

// y (n, m) = relu?(op(a) op(b) + bias?), op the identity or the transpose, bias m numbers or null.
void matmul(Pool& pool, int64_t n, int64_t k, int64_t m, bool transpose_a, bool transpose_b,
            const float* a, const float* b, const float* bias, bool relu, float* y);

// Numbers (examples, rows, groups, channels): each group of each example is standardised by its own
// mean and variance, and has a gamma and a beta for each of its channels. Of (1, n, c, 1) that is
// batch normalisation, of (n, 1, 1, c) layer normalisation.
struct NormShape {
  int64_t examples, rows, groups, channels;
  int64_t columns() const { return groups * channels; }
  int64_t size() const { return examples * rows * columns(); }
};

// Of each group of each example: the mean in two parts, the biased variance, 1 / sqrt(var + eps).
struct Statistics {
  float *mean, *left, *var, *inv_std;
  Statistics of(int64_t i) const { return {mean + i, left + i, var ? var + i : var, inv_std + i}; }
};

struct NormOptions {
  bool centred;  // whether the mean is taken off; else it is 0, and the variance the mean square
  bool fixed;    // for gradients: whether the statistics were given, and do not depend on x
  bool relu;     // not of what is fixed
};

// y = relu?(gamma x_hat + beta) with x_hat = (x - mean - left) inv_std.
void norm(Pool& pool, const NormShape& shape, NormOptions options, double eps, const float* x,
          const float* gamma, const float* beta, float* y, const Statistics& kept);
// dx, dgamma and dbeta, the gradients of sum(dy y); var is not read, nor the mean that is not taken
// off.
void norm_gradient(Pool& pool, const NormShape& shape, NormOptions options, const float* dy,
                   const float* x, const Statistics& kept, const float* gamma, const float* beta,
                   float* dx, float* dgamma, float* dbeta);

// The windows of a pool along an axis: the i-th begins at i stride - before, its cells are dilation
// apart. A mean counts its cells in the image, and so many places before and after it.
struct Windows {
  int64_t size, outputs, window, stride, dilation, before, counted_before, counted_after;
};
// Of images; every window has a cell in the image.
struct Pooling {
  int64_t n, c;
  Windows rows, columns;
};
bool each_has_a_cell(const Windows& windows);

// y = the maximum of each window, channel by channel; a NaN wins over numbers.
void max_pool(Pool& pool, const Pooling& pooling, const float* x, float* y);
// dx = each window's dy, at its first maximum in row-major order; sums in the windows' order.
void max_pool_gradient(Pool& pool, const Pooling& pooling, const float* x, const float* dy,
                       float* dx);
// y = the sum of each window, divided by how many of its cells count.
void avg_pool(Pool& pool, const Pooling& pooling, const float* x, float* y);
// dx = the gradient of sum(dy avg_pool(x)) by x.
void avg_pool_gradient(Pool& pool, const Pooling& pooling, const float* dy, float* dx);

// y = x w(x) number by number, w the normal distribution's, or the sigmoid that is nearly that.
void gelu(Pool& pool, bool approximate, int64_t count, const float* x, float* y);
// dx = the gradient of sum(dy y) by x.
void gelu_gradient(Pool& pool, bool approximate, int64_t count, const float* x, const float* dy,
                   float* dx);

// Loops of our own are compiled for the wide vectors too, and the right one is chosen at loading;
// the sanitizers cannot be there so early.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#if __GNUC__ >= 12
#define FUNCNET_WIDE __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define FUNCNET_WIDE __attribute__((target_clones("default", "avx2", "avx512f")))
#endif
#else
#define FUNCNET_WIDE
#endif

// y = max(y, 0), but not-a-number stays: oneDNN's own ReLU turns it into 0 and hides it.
void relu_in_place(float* y, int64_t count);
// y += x.
void add_to(float* y, const float* x, int64_t count);

}  // namespace funcnet
