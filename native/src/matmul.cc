#include "kernels.h"
#include "onednn.h"

namespace funcnet {

void matmul(Pool& pool, int64_t n, int64_t k, int64_t m, bool transpose_a, bool transpose_b,
            const float* a, const float* b, const float* bias, bool relu, float* y) {
  if (n == 0 || m == 0) return;
  const int64_t threads = worthwhile_threads(pool, 2.0 * n * k * m);
  // The longer side of y is cut, never the sum: the bits do not depend on the number of threads
  // that happened to be free. Sixteen floats fill a line of the cache.
  const bool by_rows = n >= m;
  const int64_t length = by_rows ? n : m, lines = ceil_div(length, 16);
  const int64_t shares = std::min(threads, lines);
  for_each_share(pool, threads, shares, [&](int64_t share) {
    const int64_t begin = lines * share / shares * 16;
    const int64_t count = std::min(lines * (share + 1) / shares * 16, length) - begin;
    const int64_t row = by_rows ? begin : 0, rows = by_rows ? count : n;
    const int64_t column = by_rows ? 0 : begin, columns = by_rows ? m : count;
    float* corner = y + row * m + column;
    if (k == 0) {
      for (int64_t i = 0; i < rows; ++i) std::fill_n(corner + i * m, columns, 0.0f);
    } else {
      const int64_t a_width = transpose_a ? n : k, b_width = transpose_b ? k : m;
      sgemm(transpose_a, transpose_b, rows, columns, k, a + (transpose_a ? row : row * k), a_width,
            b + (transpose_b ? column * k : column), b_width, /*adding=*/false, corner, m);
    }
    for (int64_t i = 0; i < rows; ++i) {
      float* line = corner + i * m;
      if (bias) add_to(line, bias + column, columns);
      if (relu) relu_in_place(line, columns);
    }
  });
}

}  // namespace funcnet
