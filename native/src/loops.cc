#include "kernels.h"

namespace funcnet {

FUNCNET_WIDE void relu_in_place(float* y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) y[i] = y[i] < 0.0f ? 0.0f : y[i];
}

FUNCNET_WIDE void add_to(float* __restrict y, const float* __restrict x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) y[i] += x[i];
}

FUNCNET_WIDE void sum_rows(float* __restrict y, const float* __restrict x, int64_t rows,
                           int64_t columns) {
  constexpr int64_t kWidth = 32;  // sums that stay in registers
  int64_t column = 0;
  for (; column + kWidth <= columns; column += kWidth) {
    float sums[kWidth] = {};
    for (int64_t row = 0; row < rows; ++row) {
      const float* line = x + row * columns + column;
      for (int64_t i = 0; i < kWidth; ++i) sums[i] += line[i];
    }
    std::copy_n(sums, kWidth, y + column);
  }
  if (column == columns) return;
  std::fill_n(y + column, columns - column, 0.0f);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = column; i < columns; ++i) y[i] += x[row * columns + i];
  }
}

}  // namespace funcnet
