// The kernels without XLA, for the sanitizers: on a pool of threads, on one that runs each task at
// once, and on one that runs tasks only after the call has returned, from several threads at once,
// compared with plain loops.
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <deque>
#include <random>
#include <new>
#include <thread>
#include <vector>

#include "kernels.h"

using namespace funcnet;
using Floats = std::vector<float>;

namespace {

class Threads final : public Pool {
 public:
  explicit Threads(int count) {
    for (int i = 0; i < count; ++i) threads_.emplace_back([this] { loop(); });
  }
  ~Threads() override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
  }
  int64_t threads() const override { return static_cast<int64_t>(threads_.size()); }
  void schedule(std::function<void()> task) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    wake_.notify_one();
  }

 private:
  void loop() {
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return stop_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      auto task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }
  }
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
  bool stop_ = false;
};

class AtOnce final : public Pool {
 public:
  int64_t threads() const override { return 4; }
  void schedule(std::function<void()> task) override { task(); }
};

// A pool whose threads are all busy: what is scheduled runs when the pool goes.
class TooLate final : public Pool {
 public:
  ~TooLate() override {
    for (auto& task : tasks_) task();
  }
  int64_t threads() const override { return 4; }
  void schedule(std::function<void()> task) override { tasks_.push_back(std::move(task)); }

 private:
  std::vector<std::function<void()>> tasks_;
};

Floats normal(int64_t count, int seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> distribution;
  Floats values(count);
  for (float& value : values) value = distribution(generator);
  return values;
}

// Numbers that end, or begin, where memory does: what oneDNN compiles for itself no sanitizer sees,
// but a read or write beyond them ends the process.
class Guarded {
 public:
  Guarded(size_t count, bool at_end, const float* values = nullptr) {
    const size_t page = sysconf(_SC_PAGESIZE), bytes = count * sizeof(float);
    const size_t inner = (bytes + page - 1) / page * page;
    size_ = inner + 2 * page;
    base_ = static_cast<char*>(mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED) throw std::bad_alloc();
    if (inner && mprotect(base_ + page, inner, PROT_READ | PROT_WRITE)) throw std::bad_alloc();
    data_ = reinterpret_cast<float*>(base_ + page + (at_end ? inner - bytes : 0));
    if (values) std::copy_n(values, count, data_);
  }
  Guarded(const Floats& values, bool at_end) : Guarded(values.size(), at_end, values.data()) {}
  ~Guarded() { munmap(base_, size_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  float* data() const { return data_; }
  float operator[](size_t i) const { return data_[i]; }

 private:
  size_t size_;
  char* base_;
  float* data_;
};

std::atomic<int> failures{0};

void expect_close(const char* what, const Guarded& got, const std::vector<double>& want,
                  double terms) {
  for (size_t i = 0; i < want.size(); ++i) {
    // Normal factors: a sum of `terms` products, each rounding off by the size of what is summed.
    if (!(std::abs(got[i] - want[i]) <= 1.2e-7 * (terms + 16) * 8)) {
      std::printf("%s: at %zu got %g, want %g\n", what, i, got[i], want[i]);
      ++failures;
      return;
    }
  }
}

// Calls visit(index in x, index in w, index in y) for every product.
template <typename Visit>
void for_each_product(const Geometry& g, Visit visit) {
  for (int64_t n = 0; n < g.n; ++n)
    for (int64_t i = 0; i < g.oh; ++i)
      for (int64_t j = 0; j < g.ow; ++j)
        for (int64_t p = 0; p < g.kh; ++p)
          for (int64_t q = 0; q < g.kw; ++q) {
            const int64_t row = i * g.stride_h + p * g.dilation_h - g.pad_top;
            const int64_t column = j * g.stride_w + q * g.dilation_w - g.pad_left;
            if (row < 0 || row >= g.h || column < 0 || column >= g.w) continue;
            const int64_t inputs = g.cin / g.groups, outputs = g.cout / g.groups;
            for (int64_t c = 0; c < inputs; ++c)
              for (int64_t o = 0; o < g.cout; ++o)
                visit(((n * g.h + row) * g.w + column) * g.cin + o / outputs * inputs + c,
                      ((p * g.kw + q) * inputs + c) * g.cout + o,
                      ((n * g.oh + i) * g.ow + j) * g.cout + o);
          }
}

struct Case {
  Geometry g;
  Floats x, w, dy, bias;
  std::vector<double> y, dw, dx;

  explicit Case(const Geometry& g) : g(g) {
    const int64_t xs = g.n * g.h * g.w * g.cin, ws = g.kernel_floats();
    const int64_t ys = g.n * g.oh * g.ow * g.cout;
    x = normal(xs, 1), w = normal(ws, 2), dy = normal(ys, 3), bias = normal(g.cout, 4);
    y.assign(ys, 0), dw.assign(ws, 0), dx.assign(xs, 0);
    for_each_product(g, [&](int64_t at_x, int64_t at_w, int64_t at_y) {
      y[at_y] += double(x[at_x]) * w[at_w];
      dw[at_w] += double(x[at_x]) * dy[at_y];
      dx[at_x] += double(dy[at_y]) * w[at_w];
    });
    for (int64_t i = 0; i < ys; ++i) y[i] = std::max(y[i] + bias[i % g.cout], 0.0);
  }

  void run(Pool& pool) const {
    for (const bool at_end : {true, false}) {
      run(pool, at_end);
      if (g.oh > 1 && g.ow > 1) run_pooled(pool, at_end);
    }
  }

  bool can_filter() const {
    return g.kh == 3 && g.kw == 3 && g.stride_h == 1 && g.stride_w == 1 && g.dilation_h == 1 &&
           g.dilation_w == 1 && g.groups == 1 && g.cin % 16 == 0 && g.cout % 16 == 0 && g.n &&
           g.h && g.w && g.oh && g.ow;
  }

  // The four cells of a window, as places in y.
  std::array<int64_t, 4> cells(int64_t window) const {
    const int64_t ph = g.oh / 2, pw = g.ow / 2, o = window % g.cout, place = window / g.cout;
    const int64_t image = place / (ph * pw), row = place / pw % ph, column = place % pw;
    const int64_t first = ((image * g.oh + 2 * row) * g.ow + 2 * column) * g.cout + o;
    return {first, first + g.cout, first + g.ow * g.cout, first + (g.ow + 1) * g.cout};
  }

  void run_pooled(Pool& pool, bool at_end) const {
    const int64_t windows = g.n * (g.oh / 2) * (g.ow / 2) * g.cout;
    const Guarded x(this->x, at_end), w(this->w, at_end), bias(this->bias, at_end);
    const Guarded top(windows, at_end), dw_got(dw.size(), at_end);
    const Guarded cotangent(Floats(dy.begin(), dy.begin() + windows), at_end);
    std::vector<uint8_t> winner(windows);
    std::vector<double> want(windows);
    for (int64_t i = 0; i < windows; ++i) {
      for (const int64_t cell : cells(i)) want[i] = std::max(want[i], y[cell]);
    }
    for (const int64_t m : {0, 2, 4}) {
      if (m > 0 && !can_filter()) break;
      const Results to{top.data(), winner.data()};
      if (m > 0) {
        winograd_conv(m, pool, g, x.data(), w.data(), bias.data(), true, to);
      } else {
        conv_pool(pool, g, x.data(), w.data(), bias.data(), to.y, to.winner);
      }
      const double terms = std::max<int64_t>(m * m, 1) * g.kh * g.kw * g.cin;
      expect_close("pooled", top, want, terms);
      std::vector<double> at_winner(windows);
      for (int64_t i = 0; i < windows; ++i) {
        at_winner[i] = winner[i] < 4 ? y[cells(i)[winner[i]]] : 0.0;
      }
      expect_close("winner", top, at_winner, terms);
    }
    std::vector<double> dz(y.size()), dw_want(dw.size());
    for (int64_t i = 0; i < windows; ++i) {
      if (winner[i] < 4) dz[cells(i)[winner[i]]] = cotangent[i];
    }
    for_each_product(g, [&](int64_t at_x, int64_t at_w, int64_t at_y) {
      dw_want[at_w] += this->x[at_x] * dz[at_y];
    });
    conv_pool_kernel_gradient(pool, g, x.data(), cotangent.data(), winner.data(), dw_got.data());
    expect_close("kernel gradient of winners", dw_got, dw_want, g.n * g.oh * g.ow);
  }

  void run(Pool& pool, bool at_end) const {
    const Guarded x(this->x, at_end), w(this->w, at_end), dy(this->dy, at_end);
    const Guarded bias(this->bias, at_end);
    const Guarded y_got(y.size(), at_end), dw_got(dw.size(), at_end), dx_got(dx.size(), at_end);
    conv(pool, g, x.data(), w.data(), bias.data(), true, y_got.data());
    conv_kernel_gradient(pool, g, x.data(), dy.data(), dw_got.data());
    conv_input_gradient(pool, g, dy.data(), w.data(), dx_got.data());
    const auto expect = [&](double factor) {
      expect_close("conv", y_got, y, factor * g.kh * g.kw * g.cin);
      expect_close("kernel gradient", dw_got, dw, factor * g.n * g.oh * g.ow);
      expect_close("input gradient", dx_got, dx, factor * g.kh * g.kw * g.cout);
    };
    expect(1);
    // Winograd's filtering, of whatever shape it can do, cheaper or not.
    if (!can_filter()) return;
    for (const int64_t m : {2, 4}) {
      winograd_conv(m, pool, g, x.data(), w.data(), bias.data(), true, {y_got.data()});
      winograd_kernel_gradient(m, pool, g, x.data(), dy.data(), dw_got.data());
      winograd_input_gradient(m, pool, g, dy.data(), w.data(), dx_got.data());
      expect(m * m);
    }
  }
};

void run_gelu(Pool& pool, int64_t count) {
  const Floats x = normal(count, 8), dy = normal(count, 9);
  for (const bool at_end : {true, false}) {
    const Guarded in(x, at_end), cotangent(dy, at_end), y(x.size(), at_end), dx(x.size(), at_end);
    gelu(pool, false, count, in.data(), y.data());
    gelu_gradient(pool, false, count, in.data(), cotangent.data(), dx.data());
    std::vector<double> y_want, dx_want;
    for (int64_t i = 0; i < count; ++i) {
      const double z = x[i], w = std::erfc(-z / std::sqrt(2.0)) / 2;
      y_want.push_back(z * w);
      dx_want.push_back(dy[i] * (w + z * std::exp(-z * z / 2) / std::sqrt(2 * std::acos(-1.0))));
    }
    expect_close("gelu", y, y_want, 8);
    expect_close("its gradient", dx, dx_want, 8);
  }
}

void run_matmul(Pool& pool, int64_t n, int64_t k, int64_t m) {
  const Floats a = normal(n * k, 5), b = normal(k * m, 6), bias = normal(m, 7);
  for (int flags = 0; flags < 4; ++flags) {
    const bool ta = flags & 1, tb = flags & 2;
    std::vector<double> want(n * m);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < m; ++j) {
        double sum = bias[j];
        for (int64_t c = 0; c < k; ++c)
          sum += double(ta ? a[c * n + i] : a[i * k + c]) * (tb ? b[j * k + c] : b[c * m + j]);
        want[i * m + j] = std::max(sum, 0.0);
      }
    for (const bool at_end : {true, false}) {
      const Guarded a_end(a, at_end), b_end(b, at_end), bias_end(bias, at_end);
      const Guarded got(n * m, at_end);
      matmul(pool, n, k, m, ta, tb, a_end.data(), b_end.data(), bias_end.data(), true, got.data());
      expect_close("matmul", got, want, double(k));
    }
  }
}

struct NormCase {
  NormShape s;
  bool relu;
  Floats x, dy, gamma, beta;
  std::vector<double> var, y, dx, dgamma, dbeta;
  static constexpr double kEps = 0.1;

  NormCase(const NormShape& s, bool relu) : s(s), relu(relu) {
    const int64_t size = s.size(), columns = s.columns(), groups = s.examples * s.groups;
    const double count = double(s.rows) * s.channels;
    x = normal(size, 8), dy = normal(size, 9), gamma = normal(columns, 10);
    beta = normal(columns, 11);
    var.assign(groups, 0), y.assign(size, 0), dx.assign(size, 0);
    dgamma.assign(columns, 0), dbeta.assign(columns, 0);
    std::vector<double> mean(groups), offset(groups), slope(groups);
    // Calls visit(index of the number, of its column, of its group) for every number.
    const auto each = [&](auto visit) {
      for (int64_t i = 0; i < size; ++i) {
        const int64_t j = i % columns;
        visit(i, j, i / (s.rows * columns) * s.groups + j / s.channels);
      }
    };
    each([&](int64_t i, int64_t, int64_t g) { mean[g] += x[i] / count; });
    each([&](int64_t i, int64_t, int64_t g) {
      var[g] += (x[i] - mean[g]) * (x[i] - mean[g]) / count;
    });
    const auto x_hat = [&](int64_t i, int64_t g) {
      return (x[i] - mean[g]) / std::sqrt(var[g] + kEps);
    };
    const auto passed = [&](int64_t i) { return !relu || y[i] > 0 ? double(dy[i]) : 0; };
    each([&](int64_t i, int64_t j, int64_t g) {
      y[i] = gamma[j] * x_hat(i, g) + beta[j];
      dgamma[j] += passed(i) * x_hat(i, g), dbeta[j] += passed(i);
      offset[g] += gamma[j] * passed(i) / count;
      slope[g] += gamma[j] * passed(i) * x_hat(i, g) / count;
    });
    each([&](int64_t i, int64_t j, int64_t g) {
      dx[i] = (gamma[j] * passed(i) - offset[g] - x_hat(i, g) * slope[g]);
      dx[i] /= std::sqrt(var[g] + kEps);
      if (relu) y[i] = std::max(y[i], 0.0);
    });
  }

  void run(Pool& pool, bool at_end) const {
    const Guarded x_in(x, at_end), dy_in(dy, at_end), gamma_in(gamma, at_end);
    const Guarded beta_in(beta, at_end), y_got(y.size(), at_end), dx_got(dx.size(), at_end);
    const Guarded dgamma_got(gamma.size(), at_end), dbeta_got(gamma.size(), at_end);
    const Guarded means(var.size(), at_end), left(var.size(), at_end), vars(var.size(), at_end);
    const Guarded inv_stds(var.size(), at_end);
    const NormOptions options{true, false, relu};
    norm(pool, s, options, kEps, x_in.data(), gamma_in.data(), beta_in.data(), y_got.data(),
         {means.data(), left.data(), vars.data(), inv_stds.data()});
    norm_gradient(pool, s, options, dy_in.data(), x_in.data(),
                  {means.data(), left.data(), nullptr, inv_stds.data()}, gamma_in.data(),
                  beta_in.data(), dx_got.data(), dgamma_got.data(), dbeta_got.data());
    expect_close("norm", y_got, y, 64);
    expect_close("variance", vars, var, 64);
    expect_close("norm's dx", dx_got, dx, 64);
    expect_close("dgamma", dgamma_got, dgamma, double(x.size() / gamma.size()));
    expect_close("dbeta", dbeta_got, dbeta, double(x.size() / gamma.size()));
  }
};

// Calls visit(index in x, index in y) for every cell of every window.
template <typename Visit>
void for_each_cell(const Pooling& p, Visit visit) {
  const Windows &r = p.rows, &s = p.columns;
  for (int64_t n = 0; n < p.n; ++n)
    for (int64_t i = 0; i < r.outputs; ++i)
      for (int64_t j = 0; j < s.outputs; ++j)
        for (int64_t tap = 0; tap < r.window * s.window; ++tap) {
          const int64_t row = i * r.stride + tap / s.window * r.dilation - r.before;
          const int64_t column = j * s.stride + tap % s.window * s.dilation - s.before;
          if (row < 0 || row >= r.size || column < 0 || column >= s.size) continue;
          for (int64_t c = 0; c < p.c; ++c)
            visit(((n * r.size + row) * s.size + column) * p.c + c,
                  ((n * r.outputs + i) * s.outputs + j) * p.c + c);
        }
}

void run_pools(Pool& pool, const Pooling& p) {
  const int64_t xs = p.n * p.rows.size * p.columns.size * p.c;
  const int64_t ys = p.n * p.rows.outputs * p.columns.outputs * p.c;
  const Floats x = normal(xs, 8), dy = normal(ys, 9);
  std::vector<double> top(ys, -1e9), top_dx(xs, 0), mean(ys, 0), mean_dx(xs, 0);
  std::vector<int64_t> winner(ys), count(ys, 0);
  for_each_cell(p, [&](int64_t at_x, int64_t at_y) {
    if (x[at_x] > top[at_y]) top[at_y] = x[at_x], winner[at_y] = at_x;
    mean[at_y] += x[at_x];
    ++count[at_y];
  });
  for (int64_t i = 0; i < ys; ++i) mean[i] /= count[i], top_dx[winner[i]] += dy[i];
  for_each_cell(p, [&](int64_t at_x, int64_t at_y) { mean_dx[at_x] += dy[at_y] / count[at_y]; });
  for (const bool at_end : {true, false}) {
    const Guarded x_end(x, at_end), dy_end(dy, at_end), y(ys, at_end), dx(xs, at_end);
    max_pool(pool, p, x_end.data(), y.data());
    expect_close("max pool", y, top, 1);
    max_pool_gradient(pool, p, x_end.data(), dy_end.data(), dx.data());
    expect_close("max pool's gradient", dx, top_dx, 9);
    avg_pool(pool, p, x_end.data(), y.data());
    expect_close("mean", y, mean, 9);
    avg_pool_gradient(pool, p, dy_end.data(), dx.data());
    expect_close("mean's gradient", dx, mean_dx, 9);
  }
}

}  // namespace

int main() {
  // n h w cin cout kh kw oh ow stride_h stride_w pad_top pad_left
  const std::vector<Geometry> geometries = {
      {23, 16, 16, 16, 32, 3, 3, 16, 16, 1, 1, 1, 1},  // even chunks and a rest
      {9, 32, 32, 3, 32, 5, 5, 32, 32, 1, 1, 2, 2},    {7, 15, 13, 17, 9, 3, 3, 8, 7, 2, 2, 1, 1},
      {6, 9, 9, 8, 24, 3, 5, 8, 9, 1, 1, 1, 2},        // a row of dy is missing
      {5, 9, 9, 8, 8, 3, 3, 12, 14, 1, 1, 4, 2},       // padded beyond the kernel
      {5, 9, 9, 8, 8, 3, 3, 3, 4, 1, 1, -2, -1},       // cut
      {3, 28, 28, 1, 6, 5, 5, 24, 24, 1, 1, 0, 0},     {2, 12, 12, 4, 4, 11, 11, 12, 12, 1, 1, 5, 5},
      {2, 5, 5, 3, 4, 2, 2, 2, 2, 3, 3, 0, 0},         {1, 1, 1, 3, 4, 1, 1, 1, 1, 1, 1, 0, 0},
      {3, 4, 4, 2, 2, 3, 3, 0, 2, 1, 1, 0, 0},         {0, 8, 8, 3, 4, 3, 3, 8, 8, 1, 1, 1, 1},
      {64, 8, 8, 32, 48, 3, 3, 8, 8, 1, 1, 1, 1},
      {3, 13, 7, 16, 48, 3, 3, 14, 4, 1, 1, 2, -1},    // tiles that reach beyond on each side
      {5, 2, 3, 32, 16, 3, 3, 1, 1, 1, 1, 0, 0},
      {5, 9, 8, 16, 24, 3, 3, 7, 9, 1, 1, 1, 2, 2, 2, 1},    // dilated
      {5, 9, 9, 32, 32, 3, 3, 9, 9, 1, 1, 1, 1, 1, 1, 4},    // in groups
      {5, 9, 9, 16, 16, 3, 3, 5, 5, 2, 2, 1, 1, 1, 1, 16},   // of one channel each
  };
  // examples rows groups channels: per column, per row, per example; some of several shares
  std::vector<NormCase> norms;
  for (const NormShape& shape : std::vector<NormShape>{
           {1, 9001, 30, 1}, {9001, 1, 1, 30}, {67, 1, 3, 41}, {70, 130, 3, 11}, {1, 2, 3, 1},
           {1, 3, 2, 2500}, {2, 1, 1, 9001}, {3, 1, 1, 1}, {0, 5, 2, 3}}) {
    for (const bool relu : {false, true}) norms.emplace_back(shape, relu);
  }
  std::vector<Case> cases(geometries.begin(), geometries.end());
  const auto round = [&](Pool& pool, size_t offset) {
    for (size_t i = 0; i < cases.size(); ++i) cases[(i + offset) % cases.size()].run(pool);
    run_matmul(pool, 130, 70, 40);
    run_matmul(pool, 10, 300, 500);
    run_matmul(pool, 1, 1, 1);
    for (const int64_t count : {0, 1, 9, 70001}) run_gelu(pool, count);
    for (size_t i = 0; i < norms.size(); ++i) norms[i].run(pool, (i + offset) % 2);
    // size outputs window stride dilation before counted_before counted_after
    run_pools(pool, {9, 37, {17, 9, 3, 2, 1, 1, 0, 0}, {16, 8, 3, 2, 1, 1, 0, 0}});
    run_pools(pool, {1, 100, {24, 12, 2, 2, 1, 0, 0, 0}, {26, 13, 2, 2, 1, 0, 0, 0}});
    run_pools(pool, {2, 3, {9, 3, 3, 2, 2, 0, 0, 0}, {5, 7, 2, 1, 3, 2, 0, 0}});
    run_pools(pool, {0, 3, {4, 4, 1, 1, 1, 0, 0, 0}, {4, 4, 1, 1, 1, 0, 0, 0}});
  };

  {
    AtOnce pool;
    round(pool, 0);
  }
  {
    TooLate pool;
    round(pool, 0);
  }
  for (const int size : {1, 2, 4}) {
    Threads pool(size);
    round(pool, 0);
    std::vector<std::thread> callers;  // outside the pool
    for (size_t i = 0; i < 4; ++i) {
      callers.emplace_back([&, i] {
        for (int turn = 0; turn < 3; ++turn) round(pool, turn == 0 ? 0 : i * 3);
      });
    }
    for (auto& caller : callers) caller.join();
    std::atomic<int> left{3};  // callers that are the pool's own threads, and fill it
    for (int i = 0; i < 3; ++i) {
      pool.schedule([&] {
        round(pool, 0);
        --left;
      });
    }
    while (left > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  // More shapes than the cache holds, from two threads.
  std::vector<std::thread> many;
  for (int t = 0; t < 2; ++t) {
    many.emplace_back([t] {
      AtOnce pool;
      for (int64_t size = 1; size <= 200; ++size) {
        Case({1, size, 1 + t, 1, 1, 1, 1, size, 1 + t, 1, 1, 0, 0}).run(pool);
      }
    });
  }
  for (auto& thread : many) thread.join();
  if (conv_cache_size() > kConvCacheCapacity) ++failures;
  std::printf("%d failures, %zu primitives cached\n", failures.load(), conv_cache_size());
  return failures != 0;
}
