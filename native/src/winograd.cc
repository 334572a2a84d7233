// Winograd's minimal filtering for kernels of 3 by 3 at stride 1 (Winograd 1980; Lavin and Gray
// 2016, https://arxiv.org/abs/1509.09308). From a tile x of m + 2 by m + 2 pixels come m by m
// outputs,
//
//   y = A' [(G w G') * (B' x B)] A
//
// with * number by number: (m + 2)^2 products a pair of channels, where the sum over the kernel has
// 9 m^2. Over tiles and channels the middle is (m + 2)^2 products of matrices, one a frequency, and
// these are oneDNN's. The other maps are adjoints: the kernel's gradient is
// G' [sum over tiles of (B' x B) * (A dy A')] G, and that of the images is this map of dy, with the
// kernel turned round and its channels exchanged.
#include <array>
#include <vector>

#include "kernels.h"
#include "products.h"

namespace funcnet {
namespace {

// ---- Transforms ---------------------------------------------------------------------------------

struct Filter2 {  // G for m = 2, at the points 0, 1, -1 and infinity
  static constexpr float at[4][3] = {{1, 0, 0}, {.5f, .5f, .5f}, {.5f, -.5f, .5f}, {0, 0, 1}};
};
struct Inputs2 {  // B'
  static constexpr float at[4][4] = {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}};
};
struct Outputs2 {  // A'
  static constexpr float at[2][4] = {{1, 1, 1, 0}, {0, 1, -1, -1}};
};

struct Filter4 {  // G for m = 4, at the points 0, 1, -1, 2, -2 and infinity
  static constexpr float at[6][3] = {{1.f / 4, 0, 0},
                                     {-1.f / 6, -1.f / 6, -1.f / 6},
                                     {-1.f / 6, 1.f / 6, -1.f / 6},
                                     {1.f / 24, 1.f / 12, 1.f / 6},
                                     {1.f / 24, -1.f / 12, 1.f / 6},
                                     {0, 0, 1}};
};
struct Inputs4 {
  static constexpr float at[6][6] = {{4, 0, -5, 0, 1, 0},  {0, -4, -4, 1, 1, 0},
                                     {0, 4, -4, -1, 1, 0}, {0, -2, -1, 2, 1, 0},
                                     {0, 2, -1, -2, 1, 0}, {0, 4, 0, -5, 0, 1}};
};
struct Outputs4 {
  static constexpr float at[4][6] = {
      {1, 1, 1, 1, 1, 0}, {0, 1, -1, 2, -2, 0}, {0, 1, 1, 4, 4, 0}, {0, 1, -1, 8, -8, 1}};
};

template <typename Table>
struct Plain {
  static constexpr int kRows = std::extent_v<decltype(Table::at), 0>;
  static constexpr int kColumns = std::extent_v<decltype(Table::at), 1>;
  static constexpr float at(int i, int j) { return Table::at[i][j]; }
};
template <typename Table>
struct Transposed {
  static constexpr int kRows = Plain<Table>::kColumns, kColumns = Plain<Table>::kRows;
  static constexpr float at(int i, int j) { return Table::at[j][i]; }
};

#define ALWAYS __attribute__((always_inline))

// Calls step(0) .. step(count - 1), each with its number as a constant.
template <typename Step, int... i>
ALWAYS inline void unrolled(Step step, std::integer_sequence<int, i...>) {
  (step(std::integral_constant<int, i>{}), ...);
}
template <int count, typename Step>
ALWAYS inline void unrolled(Step step) {
  unrolled(step, std::make_integer_sequence<int, count>{});
}

template <typename Matrix, int i>
constexpr bool all_zero_before(int end) {
  for (int j = 0; j < end; ++j) {
    if (Matrix::at(i, j) != 0) return false;
  }
  return true;
}

// The sum over j < end of Matrix(i, j) x[j stride], of what is not zero.
template <typename Matrix, int i, int end, int stride>
ALWAYS inline float row_times(const float* x) {
  constexpr float factor = Matrix::at(i, end - 1);
  if constexpr (factor == 0) {
    return row_times<Matrix, i, end - 1, stride>(x);
  } else if constexpr (all_zero_before<Matrix, i>(end - 1)) {
    return factor * x[(end - 1) * stride];
  } else {
    return row_times<Matrix, i, end - 1, stride>(x) + factor * x[(end - 1) * stride];
  }
}

enum class Finish { kNone, kBias, kBiasRelu };

// out = finish(Matrix in Matrix') for `count` squares at once: the k-th has its numbers in[.][k],
// and out[.][k], row by row. A sum that is not a number stays that through the ReLU.
template <typename Matrix, Finish finish>
FUNCNET_WIDE void transform(const float* const* in, float* const* out, int64_t count,
                            const float* bias) {
  constexpr int r = Matrix::kRows, c = Matrix::kColumns;
#pragma GCC ivdep
  for (int64_t k = 0; k < count; ++k) {
    float x[c * c], half[r * c];
    unrolled<c * c>([&](auto i) ALWAYS { x[i] = in[i][k]; });
    unrolled<r * c>([&](auto i) ALWAYS {
      half[i] = row_times<Matrix, i / c, c, c>(x + i % c);
    });
    unrolled<r * r>([&](auto i) ALWAYS {
      float y = row_times<Matrix, i % r, c, 1>(half + i / r * c);
      if (finish != Finish::kNone) y += bias[k];
      if (finish == Finish::kBiasRelu) y = y < 0.0f ? 0.0f : y;
      out[i][k] = y;
    });
  }
}
template <typename Matrix>
void transform(const float* const* in, float* const* out, int64_t count) {
  transform<Matrix, Finish::kNone>(in, out, count, nullptr);
}

// ---- Tiles --------------------------------------------------------------------------------------

// Images cut into squares of `size` by `size` pixels, from `step` to `step`, of which the first lies
// `before` pixels beyond the corner.
template <typename Float, int size>
struct Squares {
  Float* images;
  int64_t n, height, width, channels, step, before_h, before_w, down, across;
  Float* outside;  // what a square has beyond its image, and all of it beyond the last image

  void locate(int64_t square, Float** pixels) const {
    const int64_t image = square / (down * across), place = square % (down * across);
    const int64_t top = place / across * step - before_h, left = place % across * step - before_w;
    for (int64_t row = top; row < top + size; ++row) {
      const bool in_rows = image < n && 0 <= row && row < height;
      for (int64_t column = left; column < left + size; ++column) {
        *pixels++ = in_rows && 0 <= column && column < width
                        ? images + ((image * height + row) * width + column) * channels
                        : outside;
      }
    }
  }
};

// ---- The maps -----------------------------------------------------------------------------------

// Tiles in blocks of equal length, which are worked on at once: few tiles, so that their planes stay
// in a core's cache, but not so few that the kernel's planes, which pass by for each block, are more
// than theirs. Threads get as many blocks each, of a multiple of the six rows that products like.
struct Blocks {
  int64_t count, size;
  Blocks(int64_t tiles, int64_t frequencies, const Geometry& g, int64_t threads) {
    constexpr int64_t kFloats = 128 * 1024;
    const int64_t most = std::max(kFloats / (frequencies * (g.cin + g.cout)),
                                  g.cin * g.cout / (g.cin + g.cout));
    const int64_t turns = ceil_div(tiles, threads * std::max<int64_t>(most / 6 * 6, 6));
    size = ceil_div(ceil_div(tiles, turns * threads), 6) * 6;
    count = ceil_div(tiles, size);
  }
};

template <int m>
struct Transforms;
template <>
struct Transforms<2> {
  using Filter = Filter2;
  using Inputs = Inputs2;
  using Outputs = Outputs2;
};
template <>
struct Transforms<4> {
  using Filter = Filter4;
  using Inputs = Inputs4;
  using Outputs = Outputs4;
};

template <int m>
struct Winograd {
  static constexpr int kSide = m + 2, kFrequencies = kSide * kSide;
  using Filter = Plain<typename Transforms<m>::Filter>;
  using FilterAdjoint = Transposed<typename Transforms<m>::Filter>;
  using Inputs = Plain<typename Transforms<m>::Inputs>;
  using Outputs = Plain<typename Transforms<m>::Outputs>;
  using OutputsAdjoint = Transposed<typename Transforms<m>::Outputs>;

  static Squares<const float, kSide> tiles(const Geometry& g, const float* x, const float* zeros) {
    return {x, g.n, g.h, g.w, g.cin, m, g.pad_top, g.pad_left, ceil_div(g.oh, m),
            ceil_div(g.ow, m), zeros};
  }
  template <typename Float>
  static Squares<Float, m> outputs(const Geometry& g, Float* y, Float* outside) {
    return {y, g.n, g.oh, g.ow, g.cout, m, 0, 0, ceil_div(g.oh, m), ceil_div(g.ow, m), outside};
  }
  static int64_t count(const Geometry& g) { return g.n * ceil_div(g.oh, m) * ceil_div(g.ow, m); }

  // The pixels of squares, transformed to a row of the planes each.
  template <typename Matrix, int size>
  static void to_planes(const Squares<const float, size>& squares, int64_t first, int64_t count,
                        const Planes& planes, float* data) {
    for (int64_t i = 0; i < count; ++i) {
      const float* pixels[size * size];
      float* places[kFrequencies];
      squares.locate(first + i, pixels);
      planes.locate(data, i, places);
      transform<Matrix>(pixels, places, squares.channels);
    }
  }

  // The kernel's planes, cin by cout; of a kernel turned round if asked for.
  static void filter(Pool& pool, int64_t threads, const Geometry& g, const float* w, bool turned,
                     const Planes& planes, float* data) {
    const int64_t numbers = g.cin * g.cout, size = 4096;
    for_each_share(pool, threads, ceil_div(numbers, size), [&](int64_t share) {
      const int64_t begin = share * size;
      const float* taps[9];
      float* places[kFrequencies];
      for (int i = 0; i < 9; ++i) taps[i] = w + (turned ? 8 - i : i) * numbers + begin;
      planes.locate(data, 0, places);
      for (auto& place : places) place += begin;
      transform<Filter>(taps, places, std::min(size, numbers - begin));
    });
  }

  // The windows of a tile of outputs: one, or two rows of two.
  static void pool_tile(const Geometry& g, int64_t number, const float* tile, Results to) {
    const int64_t across = ceil_div(g.ow, m), down = ceil_div(g.oh, m), ph = g.oh / 2, pw = g.ow / 2;
    const int64_t place = number % (down * across), column = place % across * (m / 2);
    for (int64_t i = 0; i < m / 2; ++i) {
      const int64_t row = place / across * (m / 2) + i;
      if (row >= ph) break;
      const int64_t at = ((number / (down * across) * ph + row) * pw + column) * g.cout;
      const float* upper = tile + 2 * i * m * g.cout;
      pool_row(upper, upper + m * g.cout, std::min<int64_t>(m / 2, pw - column), g.cout, to.y + at,
               to.winner + at);
    }
  }

  // y = finish(conv(x, w)), the kernel's planes being (cin, cout), or (cout, cin) transposed.
  static void conv(Pool& pool, const Geometry& g, const float* x, const float* w, bool turned,
                   const float* bias, bool relu, Results to) {
    const int64_t threads = worthwhile_threads(pool, g.flops());
    const Planes kernel = turned ? Planes{kFrequencies, g.cout, g.cin}
                                 : Planes{kFrequencies, g.cin, g.cout};
    Buffer filter_buffer, laid_buffer;
    float* filters = filter_buffer.floats(kernel.floats());
    filter(pool, threads, g, w, turned, kernel, filters);

    const Blocks blocks(count(g), kFrequencies, g, threads);
    const Planes in{kFrequencies, blocks.size, g.cin}, out{kFrequencies, blocks.size, g.cout};
    const Products products(in, false, kernel, turned, /*adding=*/false);
    float* laid = laid_buffer.floats(products.laid_floats());
    products.lay(filters, laid);
    const std::vector<float> zeros(std::max(g.cin, g.cout));
    for_each_share(pool, threads, blocks.count, [&](int64_t block) {
      thread_local Buffer in_buffer, out_buffer, outside_buffer, tile_buffer;
      float* in_data = in_buffer.floats(in.floats());
      float* out_data = out_buffer.floats(out.floats());
      float* tile = tile_buffer.floats(m * m * g.cout);
      const int64_t first = block * blocks.size;
      to_planes<Inputs>(tiles(g, x, zeros.data()), first, blocks.size, in, in_data);
      products.run(in_data, laid, out_data);
      const auto squares = outputs<float>(g, to.y, outside_buffer.floats(g.cout));
      const auto finish = !relu || to.winner ? transform<Outputs, Finish::kBias>
                                : transform<Outputs, Finish::kBiasRelu>;
      for (int64_t i = 0; i < std::min(blocks.size, count(g) - first); ++i) {
        float* places[kFrequencies];
        float* pixels[m * m];
        out.locate(out_data, i, places);
        if (to.winner) {
          for (int k = 0; k < m * m; ++k) pixels[k] = tile + k * g.cout;
        } else {
          squares.locate(first + i, pixels);
        }
        finish(places, pixels, g.cout, bias ? bias : zeros.data());
        if (to.winner) pool_tile(g, first + i, tile, to);
      }
    });
  }

  static void kernel_gradient(Pool& pool, const Geometry& g, const float* x, const float* dy,
                              float* dw) {
    const int64_t threads = worthwhile_threads(pool, g.flops());
    const Planes kernel{kFrequencies, g.cin, g.cout};
    const Blocks blocks(count(g), kFrequencies, g, threads);
    const Planes in{kFrequencies, blocks.size, g.cin}, out{kFrequencies, blocks.size, g.cout};
    const Products products(in, true, out, false, /*adding=*/true);
    // A share's sum must be no larger than what it is over, or many threads would need much memory.
    const int64_t worth = count(g) * (g.cin + g.cout) / (g.cin * g.cout);
    const int64_t shares = std::clamp<int64_t>(worth, 1, std::min(threads, blocks.count));
    Buffer sums_buffer;
    float* sums = sums_buffer.floats(shares * kernel.floats());
    const std::vector<float> zeros(std::max(g.cin, g.cout));
    for_each_share(pool, threads, shares, [&](int64_t share) {
      thread_local Buffer in_buffer, out_buffer;
      float* in_data = in_buffer.floats(in.floats());
      float* out_data = out_buffer.floats(out.floats());
      float* sum = sums + share * kernel.floats();
      std::fill_n(sum, kernel.floats(), 0.0f);
      const int64_t end = blocks.count * (share + 1) / shares;
      for (int64_t block = blocks.count * share / shares; block < end; ++block) {
        const int64_t first = block * blocks.size;
        to_planes<Inputs>(tiles(g, x, zeros.data()), first, blocks.size, in, in_data);
        to_planes<OutputsAdjoint>(outputs<const float>(g, dy, zeros.data()), first, blocks.size,
                                  out, out_data);
        products.run(in_data, out_data, sum);
      }
    });
    const int64_t numbers = g.cin * g.cout, size = 4096;
    for_each_share(pool, threads, ceil_div(numbers, size), [&](int64_t part) {
      const int64_t begin = part * size, length = std::min(size, numbers - begin);
      float* places[kFrequencies];
      float* taps[9];
      kernel.locate(sums, 0, places);
      for (auto& place : places) {
        place += begin;
        for (int64_t i = 1; i < shares; ++i) add_to(place, place + i * kernel.floats(), length);
      }
      for (int i = 0; i < 9; ++i) taps[i] = dw + i * numbers + begin;
      transform<FilterAdjoint>(places, taps, length);
    });
  }
};

// What m by m outputs at once cost, in multiplications and additions of the products: a number
// transformed costs as much as kTransform of these, measured on AVX2.
double cost(const Geometry& g, int64_t m) {
  const double kTransform = m == 2 ? 32 : 52;
  const double tiles = double(g.n) * ceil_div(g.oh, m) * ceil_div(g.ow, m);
  const double channels = double(g.cin) + g.cout, pairs = double(g.cin) * g.cout;
  const double places = (m + 2) * (m + 2);
  return places * (2 * pairs * tiles + kTransform * (channels * tiles + pairs));
}

// The input gradient, as the convolution that it is.
Geometry turned(Geometry g) {
  std::swap(g.h, g.oh);
  std::swap(g.w, g.ow);
  std::swap(g.cin, g.cout);
  g.pad_top = 2 - g.pad_top;
  g.pad_left = 2 - g.pad_left;
  return g;
}

}  // namespace

int64_t winograd_outputs(Kind kind, const Geometry& geometry, int64_t most) {
  const bool right_kernel = geometry.kh == 3 && geometry.kw == 3 && geometry.stride_h == 1 &&
                            geometry.stride_w == 1 && geometry.dilation_h == 1 &&
                            geometry.dilation_w == 1;
  if (!right_kernel || geometry.groups > 1) return 0;
  const Geometry g = kind == Kind::kInputGradient ? turned(geometry) : geometry;
  if (g.cin % 8 != 0 || g.cout % 16 != 0 || g.oh < 4 || g.ow < 4) return 0;
  int64_t best = 0;
  double least = 0.9 * g.flops();  // what is hardly cheaper is not worth its rounding
  for (const int64_t m : {2, 4}) {
    if (m <= most && cost(g, m) < least) {
      best = m;
      least = cost(g, m);
    }
  }
  return best;
}

void winograd_conv(int64_t outputs, Pool& pool, const Geometry& g, const float* x, const float* w,
                   const float* bias, bool relu, Results to) {
  const auto run = outputs == 2 ? Winograd<2>::conv : Winograd<4>::conv;
  run(pool, g, x, w, /*turned=*/false, bias, relu, to);
}

void winograd_input_gradient(int64_t outputs, Pool& pool, const Geometry& g, const float* dy,
                             const float* w, float* dx) {
  const auto run = outputs == 2 ? Winograd<2>::conv : Winograd<4>::conv;
  run(pool, turned(g), dy, w, /*turned=*/true, nullptr, false, {dx});
}

void winograd_kernel_gradient(int64_t outputs, Pool& pool, const Geometry& g, const float* x,
                              const float* dy, float* dw) {
  const auto run = outputs == 2 ? Winograd<2>::kernel_gradient : Winograd<4>::kernel_gradient;
  run(pool, g, x, dy, dw);
}

}  // namespace funcnet
