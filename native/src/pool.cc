// Pools of images, channels last. The cells of a window are met in row-major order, some channels
// at a time; those in the padding are left out before, so nothing has to be put there. Gradients
// are gathered: each place adds up what its windows have for it, and is written once.
#include <type_traits>
#include <vector>

#include "kernels.h"

#define INLINE inline __attribute__((always_inline))
// Without the pragma GCC writes such a loop out, number by number, before it looks for vectors.
#define EACH_LANE _Pragma("omp simd") for (int i = 0; i < N; ++i)

namespace funcnet {
namespace {

// The cells of a window along an axis that lie in the image: the place of the first, its number in
// the window, how many there are, and how many a mean counts.
struct Cells {
  int64_t at, tap, count, counted;
};

// A window that a place lies in, and the number of its cell there.
struct Cover {
  int64_t output, tap;
};

Cells cells_of(const Windows& w, int64_t output) {
  const int64_t start = output * w.stride - w.before;
  const auto first = [&](int64_t place) {  // the first cell not before a place, or the window's end
    if (place <= start) return int64_t{0};
    return std::min((place - start + w.dilation - 1) / w.dilation, w.window);
  };
  const int64_t tap = first(0);
  return {start + tap * w.dilation, tap, first(w.size) - tap,
          first(w.size + w.counted_after) - first(-w.counted_before)};
}

// All windows along an axis, and for each place in the image the windows that it lies in, in order.
struct Axis {
  explicit Axis(const Windows& w) : w(w), covers(w.size) {
    for (int64_t i = 0; i < w.outputs; ++i) {
      const Cells c = cells_of(w, i);
      cells.push_back(c);
      for (int64_t p = 0; p < c.count; ++p) covers[c.at + p * w.dilation].push_back({i, c.tap + p});
    }
  }
  // The last window that may begin at or before a place, and how many may hold it, side by side.
  int64_t last(int64_t at) const { return std::min((at + w.before) / w.stride, w.outputs - 1); }
  int64_t most() const { return std::min((w.window - 1) * w.dilation / w.stride + 1, w.outputs); }

  const Windows w;
  std::vector<Cells> cells;
  std::vector<std::vector<Cover>> covers;
};

struct Plan {
  explicit Plan(const Pooling& p) : c(p.c), rows(p.rows), columns(p.columns) {}
  const int64_t c;
  const Axis rows, columns;
  int64_t x_row() const { return columns.w.size * c; }
  int64_t y_row() const { return columns.w.outputs * c; }
};

// A window: its first cell in the image, counted in floats, the steps to the next ones, how many
// there are, and of how many a mean is.
struct Window {
  int64_t at, row_step, column_step, rows, columns, tap, taps_a_row;
  float counted;
};

// Calls at<N>(k) for N channels from the k-th on, over all of [from, to): over some of them twice,
// which changes nothing, where whole vectors end before them.
template <typename Op>
INLINE void each_channel(int64_t from, int64_t to, const Op& op) {
  const bool many = from + 16 <= to;
  for (; from + 32 <= to; from += 32) op.template at<32>(from);
  for (; from + 16 <= to; from += 16) op.template at<16>(from);
  if (many && from < to) op.template at<16>(to - 16), from = to;
  for (; from + 4 <= to; from += 4) op.template at<4>(from);
  for (; from < to; ++from) op.template at<1>(from);
}

// Calls visit(place, number in the window) for each cell, in row-major order.
template <typename Visit>
INLINE void each_cell(const Window& w, Visit visit) {
  for (int64_t p = 0; p < w.rows; ++p) {
    for (int64_t q = 0; q < w.columns; ++q) {
      visit(w.at + p * w.row_step + q * w.column_step,
            static_cast<int32_t>(w.tap + p * w.taps_a_row + q));
    }
  }
}

// The maximum of a window, into y, or the number of the first cell that has it, into winners; NaN
// is larger than any number.
struct Maximum {
  const Window& w;
  const float* x;
  float* y;
  int32_t* winners;
  template <int N>
  INLINE void at(int64_t k) const {
    float best[N];
    int32_t winner[N];
    const float* cells = x + k;
    EACH_LANE {
      best[i] = cells[w.at + i];
      winner[i] = static_cast<int32_t>(w.tap);
    }
    each_cell(w, [&](int64_t at, int32_t tap) __attribute__((always_inline)) {
      EACH_LANE {
        const float cell = cells[at + i];
        const bool better = !(cell <= best[i]) & (best[i] == best[i]);
        best[i] = better ? cell : best[i];
        winner[i] = better ? tap : winner[i];
      }
    });
    if (y) EACH_LANE y[k + i] = best[i];
    if (winners) EACH_LANE winners[k + i] = winner[i];
  }
};

struct Mean {
  const Window& w;
  const float* x;
  float* y;
  template <int N>
  INLINE void at(int64_t k) const {
    float sum[N] = {};
    const float* cells = x + k;
    each_cell(w, [&](int64_t at, int32_t) __attribute__((always_inline)) {
      EACH_LANE sum[i] += cells[at + i];
    });
    EACH_LANE y[k + i] = sum[i] / w.counted;
  }
};

// What each cell of a window has of a mean's cotangent.
struct Share {
  const Window& w;
  const float* dy;
  float* shares;
  template <int N>
  INLINE void at(int64_t k) const {
    EACH_LANE shares[k + i] = dy[k + i] / w.counted;
  }
};

// Calls each(window, its number) for the windows of a row of them.
template <typename Each>
INLINE void each_window(const Plan& plan, int64_t i, Each each) {
  const Cells& r = plan.rows.cells[i];
  const int64_t row_step = plan.rows.w.dilation * plan.x_row();
  const int64_t column_step = plan.columns.w.dilation * plan.c;
  for (int64_t j = 0; j < plan.columns.w.outputs; ++j) {
    const Cells& s = plan.columns.cells[j];
    each(Window{r.at * plan.x_row() + s.at * plan.c, row_step, column_step, r.count, s.count,
                r.tap * plan.columns.w.window + s.tap, plan.columns.w.window,
                static_cast<float>(r.counted * s.counted)},
         j);
  }
}

// What a row of windows has for a row of places: winners and dy, or the shares of a mean; and the
// number of a cell of this row's in the windows.
template <typename T>
struct Given {
  const T* ring;
  const float* dy;
  int64_t tap;
};

// The sum over the windows of a place of what they have for it: of dy, where the place has won; or,
// for a mean, of what has been shared out.
template <typename T>
struct Gather {
  const std::vector<Given<T>>& rows;
  const std::vector<Cover>& columns;
  int64_t width, c;
  float* dx;
  template <int N>
  INLINE void at(int64_t k) const {
    float sum[N] = {};
    for (const Given<T>& r : rows) {
      for (const Cover& s : columns) {
        const T* here = r.ring + s.output * width + k;
        if constexpr (std::is_same_v<T, float>) {
          EACH_LANE sum[i] += here[i];
        } else {
          const auto tap = static_cast<int32_t>(r.tap + s.tap);
          const float* to = r.dy + s.output * c + k;
          EACH_LANE sum[i] += here[i] == tap ? to[i] : 0.0f;
        }
      }
    }
    EACH_LANE dx[k + i] = sum[i];
  }
};

Buffer& ring_buffer() {
  thread_local Buffer buffer;
  return buffer;
}

// The gradient of an image, row by row. Of the rows of windows that hold a place the ring has what
// they give: winners (of x), or shares (where x is null).
template <typename T>
INLINE void gradient(const Plan& plan, int64_t from, int64_t to, const float* x, const float* dy,
                     float* dx) {
  const int64_t width = to - from, ring_rows = plan.rows.most();
  const int64_t ring_row = plan.columns.w.outputs * width;
  T* ring = static_cast<T*>(ring_buffer().bytes(ring_rows * ring_row * sizeof(T)));
  std::vector<Given<T>> given;
  int64_t next = 0;
  for (int64_t a = 0; a < plan.rows.w.size; ++a) {
    for (const int64_t last = plan.rows.last(a); next <= last; ++next) {
      T* row = ring + next % ring_rows * ring_row - from;
      each_window(plan, next, [&](const Window& w, int64_t j) __attribute__((always_inline)) {
        if constexpr (std::is_same_v<T, float>) {
          const float* here = dy + next * plan.y_row() + j * plan.c;
          each_channel(from, to, Share{w, here, row + j * width});
        } else {
          each_channel(from, to, Maximum{w, x, nullptr, row + j * width});
        }
      });
    }
    given.clear();
    for (const Cover& r : plan.rows.covers[a]) {
      given.push_back({ring + r.output % ring_rows * ring_row - from, dy + r.output * plan.y_row(),
                       r.tap * plan.columns.w.window});
    }
    for (int64_t b = 0; b < plan.columns.w.size; ++b) {
      float* place = dx + a * plan.x_row() + b * plan.c;
      each_channel(from, to, Gather<T>{given, plan.columns.covers[b], width, plan.c, place});
    }
  }
}

// Of one image, the channels [from, to).
FUNCNET_WIDE void max_image(const Plan& plan, int64_t from, int64_t to, const float* x, float* y) {
  for (int64_t i = 0; i < plan.rows.w.outputs; ++i) {
    each_window(plan, i, [&](const Window& w, int64_t j) __attribute__((always_inline)) {
      each_channel(from, to, Maximum{w, x, y + i * plan.y_row() + j * plan.c, nullptr});
    });
  }
}
FUNCNET_WIDE void mean_image(const Plan& plan, int64_t from, int64_t to, const float* x, float* y) {
  for (int64_t i = 0; i < plan.rows.w.outputs; ++i) {
    each_window(plan, i, [&](const Window& w, int64_t j) __attribute__((always_inline)) {
      each_channel(from, to, Mean{w, x, y + i * plan.y_row() + j * plan.c});
    });
  }
}
FUNCNET_WIDE void max_gradient(const Plan& plan, int64_t from, int64_t to, const float* x,
                               const float* dy, float* dx) {
  gradient<int32_t>(plan, from, to, x, dy, dx);
}
FUNCNET_WIDE void mean_gradient(const Plan& plan, int64_t from, int64_t to, const float* dy,
                                float* dx) {
  gradient<float>(plan, from, to, nullptr, dy, dx);
}

// Calls of_image(plan, where its x begins, where its y begins, from, to) for every image; few are
// cut by channels too. No two shares write to one place, so the bits do not depend on the cuts.
template <typename OfImage>
void each_image(Pool& pool, const Pooling& p, OfImage of_image) {
  if (p.n == 0 || p.c == 0) return;
  const Plan plan(p);
  const int64_t x_image = p.rows.size * plan.x_row(), y_image = p.rows.outputs * plan.y_row();
  const double cells = double(p.n) * y_image * p.rows.window * p.columns.window;
  const int64_t threads = worthwhile_threads(pool, 4 * cells);
  const int64_t cuts = p.n >= threads ? 1 : std::clamp<int64_t>(p.c / 16, 1, threads);
  const int64_t width = ((p.c + cuts - 1) / cuts + 15) / 16 * 16;  // lines of the cache
  const int64_t few = std::max<int64_t>(1, p.n / (4 * threads));
  for_each_share(pool, threads, (p.n + few - 1) / few * cuts, [&](int64_t share) {
    const int64_t from = share % cuts * width, to = std::min(from + width, p.c);
    const int64_t begin = share / cuts * few, end = std::min(begin + few, p.n);
    for (int64_t n = begin; from < to && n < end; ++n) {
      of_image(plan, n * x_image, n * y_image, from, to);
    }
  });
}

}  // namespace

bool each_has_a_cell(const Windows& w) {
  for (int64_t i = 0; i < w.outputs; ++i) {
    if (cells_of(w, i).count < 1) return false;
  }
  return true;
}

void max_pool(Pool& pool, const Pooling& p, const float* x, float* y) {
  each_image(pool, p, [=](const Plan& plan, int64_t at_x, int64_t at_y, int64_t from, int64_t to) {
    max_image(plan, from, to, x + at_x, y + at_y);
  });
}

void max_pool_gradient(Pool& pool, const Pooling& p, const float* x, const float* dy, float* dx) {
  each_image(pool, p, [=](const Plan& plan, int64_t at_x, int64_t at_y, int64_t from, int64_t to) {
    max_gradient(plan, from, to, x + at_x, dy + at_y, dx + at_x);
  });
}

void avg_pool(Pool& pool, const Pooling& p, const float* x, float* y) {
  each_image(pool, p, [=](const Plan& plan, int64_t at_x, int64_t at_y, int64_t from, int64_t to) {
    mean_image(plan, from, to, x + at_x, y + at_y);
  });
}

void avg_pool_gradient(Pool& pool, const Pooling& p, const float* dy, float* dx) {
  each_image(pool, p, [=](const Plan& plan, int64_t at_x, int64_t at_y, int64_t from, int64_t to) {
    mean_gradient(plan, from, to, dy + at_y, dx + at_x);
  });
}

}  // namespace funcnet
