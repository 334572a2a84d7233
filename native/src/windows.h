// The part of images that a convolution's kernel reads, and what lies beyond them as zeros.
#pragma once

#include "kernels.h"

namespace funcnet {

// Rows and columns that the kernel reads, from the first to the last.
inline int64_t span_height(const Geometry& g) { return (g.kh - 1) * g.dilation_h + 1; }
inline int64_t span_width(const Geometry& g) { return (g.kw - 1) * g.dilation_w + 1; }
inline int64_t window_height(const Geometry& g) { return (g.oh - 1) * g.stride_h + span_height(g); }
inline int64_t window_width(const Geometry& g) { return (g.ow - 1) * g.stride_w + span_width(g); }

// Whether oneDNN's fast kernels take this padding as it is. They take none that is negative beyond
// what the stride leaves over, and for more than about half a kernel they fall back to slow ones.
inline bool fits(int64_t size, int64_t window, int64_t kernel, int64_t stride, int64_t before) {
  const int64_t after = window - size - before;
  return size > 0 && 0 <= before && before <= kernel / 2 && -stride < after && after <= kernel / 2;
}
inline bool fits(const Geometry& g) {
  return fits(g.h, window_height(g), span_height(g), g.stride_h, g.pad_top) &&
         fits(g.w, window_width(g), span_width(g), g.stride_w, g.pad_left);
}

// The same convolution on images already cut and padded to the window.
inline Geometry windowed(Geometry g) {
  g.h = window_height(g);
  g.w = window_width(g);
  g.pad_top = g.pad_left = 0;
  return g;
}

inline Geometry of_images(Geometry g, int64_t images) {
  g.n = images;
  return g;
}

// The part of one axis that window and image share, as [first, last) in the window.
inline std::pair<int64_t, int64_t> overlap(int64_t size, int64_t window, int64_t before) {
  const int64_t first = std::clamp<int64_t>(before, 0, window);
  return {first, std::clamp<int64_t>(before + size, first, window)};
}

// Calls copy(offset in the window, offset in the image, count) for every run of floats they share.
template <typename Copy>
void for_each_shared_run(const Geometry& g, Copy copy) {
  const int64_t height = window_height(g), width = window_width(g);
  const auto [top, bottom] = overlap(g.h, height, g.pad_top);
  const auto [left, right] = overlap(g.w, width, g.pad_left);
  for (int64_t i = 0; i < g.n; ++i) {
    for (int64_t row = top; row < bottom; ++row) {
      copy(((i * height + row) * width + left) * g.cin,
           ((i * g.h + row - g.pad_top) * g.w + left - g.pad_left) * g.cin,
           (right - left) * g.cin);
    }
  }
}

inline int64_t window_count(const Geometry& g) {
  return g.n * window_height(g) * window_width(g) * g.cin;
}

inline const float* to_window(const Geometry& g, const float* x, Buffer& buffer) {
  float* window = buffer.floats(window_count(g));
  std::fill_n(window, window_count(g), 0.0f);
  for_each_shared_run(g, [&](int64_t at_window, int64_t at_image, int64_t count) {
    std::copy_n(x + at_image, count, window + at_window);
  });
  return window;
}

inline void from_window(const Geometry& g, const float* window, float* dx) {
  std::fill_n(dx, g.n * g.h * g.w * g.cin, 0.0f);
  for_each_shared_run(g, [&](int64_t at_window, int64_t at_image, int64_t count) {
    std::copy_n(window + at_window, count, dx + at_image);
  });
}

}  // namespace funcnet
