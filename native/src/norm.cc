// Normalisation: two passes over memory forward and two backward, whatever a group is. Where an
// example has one row, a group's numbers lie side by side and are summed along the row; where it
// has many, sums are taken per column and the columns of a group are put together afterwards.
#include <cmath>
#include <limits>
#include <vector>

#include "kernels.h"

// Inlined, so that it is compiled for the vectors of whoever calls it.
#define FUNCNET_INLINE inline __attribute__((always_inline))

namespace funcnet {
namespace {

// So many numbers are added in float32, what is more in float64; they stay in the first cache.
constexpr int64_t kBlock = 4096;

int64_t block_rows(int64_t columns) { return std::max<int64_t>(kBlock / columns, 8); }

// A few shares a thread, so that one which comes late finds something left to do.
struct Shares {
  int64_t total, threads, size, count;
  Shares(const Pool& pool, int64_t total, double numbers)
      : total(total),
        threads(worthwhile_threads(pool, 32 * numbers)),
        size(threads == 1 ? total : (total + 4 * threads - 1) / (4 * threads)),
        count(size ? (total + size - 1) / size : 0) {}
  int64_t begin(int64_t share) const { return share * size; }
  int64_t end(int64_t share) const { return std::min(begin(share) + size, total); }
};

class NoPool final : public Pool {
 public:
  int64_t threads() const override { return 1; }
  void schedule(std::function<void()> task) override { task(); }
};

float floor_of(NormOptions o) { return o.relu ? 0 : -std::numeric_limits<float>::infinity(); }

// What standardises and scales a column, or a row: (x - mean - left) inv_std gamma + beta.
struct Affine {
  const float *mean, *left, *inv_std, *gamma, *beta;
};

// ---- Columns ------------------------------------------------------------------------------------

FUNCNET_WIDE void add_deviations(const float* x, int64_t rows, int64_t columns, const float* from,
                                 float* sum, float* squares) {
  for (; rows >= 4; rows -= 4, x += 4 * columns) {
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) {
      const float a = x[j] - from[j], b = x[j + columns] - from[j];
      const float c = x[j + 2 * columns] - from[j], d = x[j + 3 * columns] - from[j];
      sum[j] += (a + b) + (c + d);
      squares[j] += (a * a + b * b) + (c * c + d * d);
    }
  }
  for (; rows > 0; --rows, x += columns) {
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) {
      const float a = x[j] - from[j];
      sum[j] += a;
      squares[j] += a * a;
    }
  }
}

// How many numbers there are, their mean, and the sum of the squares of what they differ from it.
struct Moments {
  double count = 0, mean = 0, squares = 0;

  // Chan, Golub and LeVeque 1979.
  void add(double more, double other_mean, double other_squares) {
    const double delta = other_mean - mean, part = more / (count + more);
    mean += delta * part;
    squares += other_squares + delta * delta * count * part;
    count += more;
  }
};

// Each column's moments, block after block: deviations are from the mean of the blocks before, of
// the first block from its own.
FUNCNET_WIDE void add_block(double before, double rows, int64_t columns, const float* from,
                            const float* sum, const float* squares, double* mean, double* total) {
  const double part = rows / (before + rows);
#pragma omp simd
  for (int64_t j = 0; j < columns; ++j) {
    const double left = sum[j] / rows, delta = from[j] + left - mean[j];
    total[j] += squares[j] - left * sum[j] + delta * delta * before * part;
    mean[j] += delta * part;
  }
}

void moments(const float* x, int64_t rows, int64_t columns, double* mean, double* total) {
  std::vector<float> work(3 * columns);
  float *from = work.data(), *sum = from + columns, *squares = sum + columns;
  const int64_t size = block_rows(columns);
  add_deviations(x, std::min(size, rows), columns, from, sum, squares);
  for (int64_t j = 0; j < columns; ++j) from[j] = sum[j] / std::min(size, rows);
  for (int64_t done = 0; done < rows; done += size) {
    const int64_t some = std::min(size, rows - done);
    if (done) std::copy_n(mean, columns, from);
    std::fill_n(sum, 2 * columns, 0.0f);
    add_deviations(x + done * columns, some, columns, from, sum, squares);
    add_block(done, some, columns, from, sum, squares, mean, total);
  }
}

FUNCNET_WIDE void normalise(const float* x, int64_t rows, int64_t columns, Affine by, float floor,
                            float* y) {
  for (; rows > 0; --rows, x += columns, y += columns) {
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) {
      const float z = (x[j] - by.mean[j] - by.left[j]) * by.inv_std[j] * by.gamma[j] + by.beta[j];
      y[j] = z < floor ? floor : z;
    }
  }
}

// The statistics of a group, or not-a-number where its mean is none.
void keep(const Moments& of, bool centred, double eps, int64_t at, const Statistics& kept) {
  const bool finite = std::isfinite(of.mean);
  const double mean = finite ? of.mean : std::numeric_limits<double>::quiet_NaN();
  const double var = std::max(of.squares / of.count, 0.0) + (centred ? mean - mean : mean * mean);
  kept.mean[at] = centred ? mean : 0;
  kept.left[at] = centred ? mean - kept.mean[at] : 0;
  kept.var[at] = var;
  kept.inv_std[at] = 1 / std::sqrt(kept.var[at] + eps);
}

// Each group's numbers, once for every column.
void spread(const NormShape& s, const float* of_groups, float* of_columns) {
  for (int64_t g = 0; g < s.groups; ++g) {
    std::fill_n(of_columns + g * s.channels, s.channels, of_groups[g]);
  }
}

void norm_example(Pool& pool, const NormShape& s, NormOptions options, double eps, const float* x,
                  const float* gamma, const float* beta, float* y, const Statistics& kept) {
  const int64_t columns = s.columns();
  const Shares shares(pool, s.rows, double(s.rows) * columns);
  std::vector<double> found(2 * shares.count * columns);
  for_each_share(pool, shares.threads, shares.count, [&](int64_t share) {
    const int64_t begin = shares.begin(share), rows = shares.end(share) - begin;
    double* mean = found.data() + 2 * share * columns;
    moments(x + begin * columns, rows, columns, mean, mean + columns);
  });
  for (int64_t g = 0; g < s.groups; ++g) {
    Moments group;
    for (int64_t j = g * s.channels; j < (g + 1) * s.channels; ++j) {
      for (int64_t share = 0; share < shares.count; ++share) {
        const double* mean = found.data() + 2 * share * columns;
        group.add(shares.end(share) - shares.begin(share), mean[j], mean[columns + j]);
      }
    }
    keep(group, options.centred, eps, g, kept);
  }
  std::vector<float> work(3 * columns);
  float *mean = work.data(), *left = mean + columns, *inv_std = left + columns;
  spread(s, kept.mean, mean), spread(s, kept.left, left), spread(s, kept.inv_std, inv_std);
  for_each_share(pool, shares.threads, shares.count, [&](int64_t share) {
    const int64_t begin = shares.begin(share), rows = shares.end(share) - begin;
    normalise(x + begin * columns, rows, columns, {mean, left, inv_std, gamma, beta},
              floor_of(options), y + begin * columns);
  });
}

// A cotangent that the ReLU lets through, where there is one.
template <bool relu>
FUNCNET_INLINE float passed(float dy, float x_hat, float gamma, float beta) {
  return !relu || x_hat * gamma + beta > 0 ? dy : 0;
}

template <bool relu>
FUNCNET_INLINE void add_products(const float* dy, const float* x, int64_t rows, int64_t columns,
                                 Affine by, float* sum, float* products) {
  for (; rows > 0; --rows, x += columns, dy += columns) {
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) {
      const float x_hat = (x[j] - by.mean[j] - by.left[j]) * by.inv_std[j];
      const float d = passed<relu>(dy[j], x_hat, by.gamma[j], by.beta[j]);
      sum[j] += d;
      products[j] += d * x_hat;
    }
  }
}

FUNCNET_WIDE void add_products(const float* dy, const float* x, int64_t rows, int64_t columns,
                               Affine by, bool relu, float* sum, float* products) {
  if (relu) {
    add_products<true>(dy, x, rows, columns, by, sum, products);
  } else {
    add_products<false>(dy, x, rows, columns, by, sum, products);
  }
}

template <bool relu, bool fixed>
FUNCNET_INLINE void differentiate(const float* dy, const float* x, int64_t rows, int64_t columns,
                                  Affine by, const float* mean, const float* slope, float* dx) {
  for (; rows > 0; --rows, x += columns, dy += columns, dx += columns) {
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) {
      const float x_hat = (x[j] - by.mean[j] - by.left[j]) * by.inv_std[j];
      const float d = passed<relu>(dy[j], x_hat, by.gamma[j], by.beta[j]);
      const float g = by.gamma[j] * d;
      dx[j] = by.inv_std[j] * (fixed ? g : g - mean[j] - x_hat * slope[j]);
    }
  }
}

FUNCNET_WIDE void differentiate(const float* dy, const float* x, int64_t rows, int64_t columns,
                                Affine by, NormOptions options, const float* mean,
                                const float* slope, float* dx) {
  if (options.fixed) {
    differentiate<false, true>(dy, x, rows, columns, by, mean, slope, dx);
  } else if (options.relu) {
    differentiate<true, false>(dy, x, rows, columns, by, mean, slope, dx);
  } else {
    differentiate<false, false>(dy, x, rows, columns, by, mean, slope, dx);
  }
}

// Adds floats to doubles and clears them.
FUNCNET_WIDE void drain(float* from, int64_t count, double* into) {
  for (int64_t j = 0; j < count; ++j) into[j] += from[j], from[j] = 0;
}

// Adds this example's sums of dy and of dy x_hat, a number a column each, to `sums`.
// Where the statistics were given dx waits for no sums, and is taken with a block in the cache.
void norm_example_gradient(Pool& pool, const NormShape& s, NormOptions options, const float* dy,
                           const float* x, const Statistics& kept, const float* gamma,
                           const float* beta, float* dx, double* sums) {
  const int64_t columns = s.columns();
  const Shares shares(pool, s.rows, double(s.rows) * columns);
  std::vector<float> work(5 * columns);
  float *mean = work.data(), *left = mean + columns, *inv_std = left + columns;
  float *offset = inv_std + columns, *slope = offset + columns;
  if (options.centred) spread(s, kept.mean, mean), spread(s, kept.left, left);
  spread(s, kept.inv_std, inv_std);
  const Affine by{mean, left, inv_std, gamma, beta};
  std::vector<double> found(2 * shares.count * columns);
  for_each_share(pool, shares.threads, shares.count, [&](int64_t share) {
    std::vector<float> block(2 * columns);
    const int64_t size = block_rows(columns), end = shares.end(share);
    for (int64_t row = shares.begin(share); row < end; row += size) {
      const int64_t at = row * columns, rows = std::min(size, end - row);
      add_products(dy + at, x + at, rows, columns, by, options.relu, block.data(),
                   block.data() + columns);
      if (options.fixed) {
        differentiate(dy + at, x + at, rows, columns, by, options, offset, slope, dx + at);
      }
      drain(block.data(), 2 * columns, found.data() + 2 * share * columns);
    }
  });
  for (int64_t share = 1; share < shares.count; ++share) {
    for (int64_t j = 0; j < 2 * columns; ++j) found[j] += found[2 * share * columns + j];
  }
  for (int64_t j = 0; j < 2 * columns; ++j) sums[j] += found[j];
  if (options.fixed) return;
  const double count = double(s.rows) * s.channels;
  for (int64_t g = 0; g < s.groups; ++g) {
    const int64_t first = g * s.channels;
    double sum = 0, products = 0;
    for (int64_t j = first; j < first + s.channels; ++j) {
      sum += gamma[j] * found[j];
      products += gamma[j] * found[columns + j];
    }
    std::fill_n(offset + first, s.channels, options.centred ? float(sum / count) : 0);
    std::fill_n(slope + first, s.channels, static_cast<float>(products / count));
  }
  for_each_share(pool, shares.threads, shares.count, [&](int64_t share) {
    const int64_t at = shares.begin(share) * columns;
    differentiate(dy + at, x + at, shares.end(share) - shares.begin(share), columns, by, options,
                  offset, slope, dx + at);
  });
}

// ---- Rows ---------------------------------------------------------------------------------------

struct Sums {
  double first = 0, second = 0;
};

// Sums of x - from and of its squares.
FUNCNET_INLINE Sums deviations(const float* x, int64_t count, float from) {
  Sums sums;
  for (int64_t done = 0; done < count; done += kBlock) {
    float first = 0, second = 0;
    const int64_t end = std::min(done + kBlock, count);
#pragma omp simd reduction(+ : first, second)
    for (int64_t j = done; j < end; ++j) {
      const float d = x[j] - from;
      first += d;
      second += d * d;
    }
    sums.first += first;
    sums.second += second;
  }
  return sums;
}

// Groups [begin, end), each of `channels` numbers side by side.
FUNCNET_WIDE void norm_runs(const NormShape& s, NormOptions options, int64_t begin, int64_t end,
                            float eps, const float* x, const float* gammas, const float* betas,
                            float* y, const Statistics& kept) {
  const int64_t channels = s.channels;
  const float floor = floor_of(options);
  const double each = 1.0 / channels;
  for (int64_t i = begin; i < end; ++i) {
    const float *row = x + i * channels, *gamma = gammas + i % s.groups * channels;
    const float* beta = betas + i % s.groups * channels;
    float* out = y + i * channels;
    const float mean = options.centred ? deviations(row, channels, 0).first * each : 0;
    const Sums sums = deviations(row, channels, mean);
    const float left = options.centred ? sums.first * each : 0;
    const double off = options.centred ? left * sums.first : 0;
    const float var = std::max((sums.second - off) * each, 0.0);
    const float inv_std = 1 / std::sqrt(var + eps);
    kept.mean[i] = mean, kept.left[i] = left, kept.var[i] = var, kept.inv_std[i] = inv_std;
#pragma omp simd
    for (int64_t j = 0; j < channels; ++j) {
      const float z = (row[j] - mean - left) * inv_std * gamma[j] + beta[j];
      out[j] = z < floor ? floor : z;
    }
  }
}

// Sums of gamma dy and of gamma dy x_hat along a row; dy and dy x_hat are added to each column's.
template <bool relu>
FUNCNET_INLINE Sums row_sums(const float* dy, const float* x, int64_t channels, float mean,
                             float left, float inv_std, const float* gamma, const float* beta,
                             float* dbeta, float* dgamma) {
  Sums sums;
  for (int64_t done = 0; done < channels; done += kBlock) {
    float first = 0, second = 0;
    const int64_t end = std::min(done + kBlock, channels);
#pragma omp simd reduction(+ : first, second)
    for (int64_t j = done; j < end; ++j) {
      const float x_hat = (x[j] - mean - left) * inv_std;
      const float d = passed<relu>(dy[j], x_hat, gamma[j], beta[j]), g = gamma[j] * d;
      dbeta[j] += d;
      dgamma[j] += d * x_hat;
      first += g;
      second += g * x_hat;
    }
    sums.first += first;
    sums.second += second;
  }
  return sums;
}

// Groups [begin, end) of `channels` numbers side by side.
template <bool relu, bool fixed>
FUNCNET_INLINE void runs_gradient(const NormShape& s, NormOptions options, int64_t begin,
                                  int64_t end, const float* dys, const float* xs,
                                  const Statistics& kept, const float* gammas, const float* betas,
                                  float* dxs, float* dbetas, float* dgammas) {
  const int64_t channels = s.channels;
  const double part = 1.0 / channels;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t group = i % s.groups * channels;
    const float *dy = dys + i * channels, *x = xs + i * channels;
    const float *gamma = gammas + group, *beta = betas + group;
    const float mean = options.centred ? kept.mean[i] : 0;
    const float left = options.centred ? kept.left[i] : 0, inv_std = kept.inv_std[i];
    const Sums sums = row_sums<relu>(dy, x, channels, mean, left, inv_std, gamma, beta,
                                     dbetas + group, dgammas + group);
    const float offset = options.centred ? sums.first * part : 0, slope = sums.second * part;
    float* dx = dxs + i * channels;
#pragma omp simd
    for (int64_t j = 0; j < channels; ++j) {
      const float x_hat = (x[j] - mean - left) * inv_std;
      const float d = passed<relu>(dy[j], x_hat, gamma[j], beta[j]);
      dx[j] = inv_std * (fixed ? gamma[j] * d : gamma[j] * d - offset - x_hat * slope);
    }
  }
}

FUNCNET_WIDE void norm_runs_gradient(const NormShape& s, NormOptions options, int64_t begin,
                                     int64_t end, const float* dy, const float* x,
                                     const Statistics& kept, const float* gamma, const float* beta,
                                     float* dx, float* dbeta, float* dgamma) {
  if (options.fixed) {
    runs_gradient<false, true>(s, options, begin, end, dy, x, kept, gamma, beta, dx, dbeta, dgamma);
  } else if (options.relu) {
    runs_gradient<true, false>(s, options, begin, end, dy, x, kept, gamma, beta, dx, dbeta, dgamma);
  } else {
    runs_gradient<false, false>(s, options, begin, end, dy, x, kept, gamma, beta, dx, dbeta,
                                dgamma);
  }
}

}  // namespace

void norm(Pool& pool, const NormShape& s, NormOptions options, double eps, const float* x,
          const float* gamma, const float* beta, float* y, const Statistics& kept) {
  if (s.rows > 1 && s.examples == 1) {
    norm_example(pool, s, options, eps, x, gamma, beta, y, kept);
    return;
  }
  const int64_t units = s.rows > 1 ? s.examples : s.examples * s.groups;
  const Shares shares(pool, units, double(s.size()));
  for_each_share(pool, shares.threads, shares.count, [&](int64_t share) {
    const int64_t begin = shares.begin(share), end = shares.end(share);
    if (s.rows == 1) {
      norm_runs(s, options, begin, end, eps, x, gamma, beta, y, kept);
      return;
    }
    NoPool alone;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = i * s.rows * s.columns();
      norm_example(alone, s, options, eps, x + at, gamma, beta, y + at, kept.of(i * s.groups));
    }
  });
}

void norm_gradient(Pool& pool, const NormShape& s, NormOptions options, const float* dy,
                   const float* x, const Statistics& kept, const float* gamma, const float* beta,
                   float* dx, float* dgamma, float* dbeta) {
  const int64_t columns = s.columns();
  const int64_t units = s.rows == 1 ? s.examples * s.groups : s.examples;
  const Shares shares(pool, units, double(s.size()));
  std::vector<double> found(2 * std::max<int64_t>(shares.count, 1) * columns);
  if (s.rows > 1 && s.examples == 1) {
    norm_example_gradient(pool, s, options, dy, x, kept, gamma, beta, dx, found.data());
  } else {
    for_each_share(pool, shares.threads, shares.count, [&](int64_t share) {
      const int64_t begin = shares.begin(share), end = shares.end(share);
      double* sums = found.data() + 2 * share * columns;
      if (s.rows > 1) {
        NoPool alone;
        for (int64_t i = begin; i < end; ++i) {
          const int64_t at = i * s.rows * columns;
          norm_example_gradient(alone, s, options, dy + at, x + at, kept.of(i * s.groups), gamma,
                                beta, dx + at, sums);
        }
        return;
      }
      std::vector<float> block(2 * columns);
      const int64_t size = 64 * s.groups;
      for (int64_t i = begin; i < end; i += size) {
        norm_runs_gradient(s, options, i, std::min(i + size, end), dy, x, kept, gamma, beta, dx,
                           block.data(), block.data() + columns);
        drain(block.data(), 2 * columns, sums);
      }
    });
  }
  for (int64_t share = 1; share < shares.count; ++share) {
    for (int64_t j = 0; j < 2 * columns; ++j) found[j] += found[2 * share * columns + j];
  }
  std::copy_n(found.data(), columns, dbeta);
  std::copy_n(found.data() + columns, columns, dgamma);
}

}  // namespace funcnet
