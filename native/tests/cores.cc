// What more cores give, simulated: each call is cut as for so many threads, its shares are run one
// after the other and timed, and then dealt out, each to the core that is free first, as a pool of
// threads does. What is between the shares stays on one core. A core that joins in comes kWake late;
// that memory and caches are shared is left out, so that this is what the cutting allows at most.
//
//   cmake -S native -B build -DFUNCNET_NATIVE_DRIVER=ON && cmake --build build --target cores
//   build/cores
#include <chrono>
#include <cstdio>
#include <random>
#include <vector>

#include "kernels.h"

namespace funcnet {
namespace {

constexpr double kWake = 20e-6;  // seconds, assumed
constexpr int kTurns = 5;        // the fastest is taken, share by share

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Phase {
  int64_t threads;
  std::vector<double> shares;  // seconds

  double on(int64_t cores) const {
    const auto used = std::clamp<int64_t>(std::min(threads, cores), 1, shares.size());
    std::vector<double> free(used, kWake);
    free[0] = 0;
    for (const double share : shares) *std::min_element(free.begin(), free.end()) += share;
    return *std::max_element(free.begin(), free.end());
  }
};

std::vector<Phase> phases;  // of the call at hand
int depth = 0;              // a share may hold shares of its own, which are its own time

class Cores final : public Pool {
 public:
  explicit Cores(int64_t count) : count_(count) {}
  int64_t threads() const override { return count_; }
  void schedule(std::function<void()>) override {}

 private:
  const int64_t count_;
};

// Seconds of a call on so many cores.
double simulated(int64_t cores, const std::function<void(Pool&)>& call) {
  Cores pool(cores);
  call(pool);  // compiles, and touches memory
  std::vector<Phase> best;
  double between = 1e9;
  for (int turn = 0; turn < kTurns; ++turn) {
    phases.clear();
    const double began = now();
    call(pool);
    double rest = now() - began;
    if (turn == 0) best = phases;
    for (size_t i = 0; i < phases.size(); ++i) {
      for (size_t j = 0; j < phases[i].shares.size(); ++j) {
        rest -= phases[i].shares[j];
        best[i].shares[j] = std::min(best[i].shares[j], phases[i].shares[j]);
      }
    }
    between = std::min(between, rest);
  }
  double sum = between;
  for (const Phase& phase : best) sum += phase.on(cores);
  return sum;
}

std::vector<float> normal(int64_t count) {
  std::mt19937 generator(0);
  std::normal_distribution<float> distribution;
  std::vector<float> values(count);
  for (float& value : values) value = distribution(generator);
  return values;
}

void line(const char* name, const std::function<void(Pool&)>& call) {
  const double one = simulated(1, call);
  std::printf("| %s | %.2f |", name, 1e3 * one);
  for (const int64_t cores : {2, 4, 16, 64}) std::printf(" %.1f |", one / simulated(cores, call));
  std::printf("\n");
}

void convolution(const char* name, const Geometry& g, int64_t winograd) {
  const auto x = normal(g.n * g.h * g.w * g.cin), w = normal(g.kernel_floats());
  const auto dy = normal(g.n * g.oh * g.ow * g.cout), bias = normal(g.cout);
  std::vector<float> y(dy.size()), dx(x.size()), dw(w.size());
  const std::string label = name;
  line((label + ", forward").c_str(), [&](Pool& pool) {
    conv(pool, g, x.data(), w.data(), bias.data(), true, y.data(), winograd);
  });
  line((label + ", by the kernel").c_str(), [&](Pool& pool) {
    conv_kernel_gradient(pool, g, x.data(), dy.data(), dw.data(), winograd);
  });
  line((label + ", by the images").c_str(), [&](Pool& pool) {
    conv_input_gradient(pool, g, dy.data(), w.data(), dx.data(), winograd);
  });
}

void product(const char* name, int64_t n, int64_t k, int64_t m) {
  const auto a = normal(n * k), b = normal(k * m);
  std::vector<float> y(n * m);
  line(name, [&](Pool& pool) {
    matmul(pool, n, k, m, false, false, a.data(), b.data(), nullptr, false, y.data());
  });
}

void pooling(const char* name, int64_t window, int64_t outputs) {
  const Windows side{32, outputs, window, 2, 1, 0, 0, 0};
  const Pooling p{100, 32, side, side};
  const auto x = normal(100 * 32 * 32 * 32), dy = normal(100 * outputs * outputs * 32);
  std::vector<float> y(dy.size()), dx(x.size());
  line(name, [&](Pool& pool) {
    max_pool(pool, p, x.data(), y.data());
    max_pool_gradient(pool, p, x.data(), dy.data(), dx.data());
  });
}

void normalisation(const char* name, const NormShape& s) {
  const auto x = normal(s.size()), dy = normal(s.size()), gamma = normal(s.columns());
  std::vector<float> y(s.size()), dx(s.size()), dgamma(s.columns()), dbeta(s.columns());
  std::vector<float> kept(4 * s.examples * s.groups);
  const int64_t some = s.examples * s.groups;
  const Statistics at{kept.data(), kept.data() + some, kept.data() + 2 * some,
                      kept.data() + 3 * some};
  const NormOptions options{true, false, false};
  line(name, [&](Pool& pool) {
    norm(pool, s, options, 1e-5, x.data(), gamma.data(), gamma.data(), y.data(), at);
    norm_gradient(pool, s, options, dy.data(), x.data(), at, gamma.data(), gamma.data(), dx.data(),
                  dgamma.data(), dbeta.data());
  });
}

}  // namespace

void timed_shares(Pool&, int64_t threads, int64_t shares,
                  const std::function<void(int64_t)>& share) {
  OneThread one;
  Phase phase{threads, {}};
  ++depth;
  for (int64_t i = 0; i < shares; ++i) {
    const double began = now();
    share(i);
    phase.shares.push_back(now() - began);
  }
  --depth;
  if (depth == 0 && shares > 0) phases.push_back(phase);
}

}  // namespace funcnet

int main() {
  using namespace funcnet;
  std::printf("| 100 images | ms on one core | 2 cores | 4 | 16 | 64 |\n|---|---:|---:|---:|---:|---:|\n");
  convolution("3×3, 64→64, 32×32", {100, 32, 32, 64, 64, 3, 3, 32, 32, 1, 1, 1, 1}, 2);
  convolution("3×3, 256→256, 16×16", {100, 16, 16, 256, 256, 3, 3, 16, 16, 1, 1, 1, 1}, 2);
  convolution("3×3, 64→128, 8×8", {100, 8, 8, 64, 128, 3, 3, 8, 8, 1, 1, 1, 1}, 2);
  convolution("3×3, 64→64, 32×32, direct", {100, 32, 32, 64, 64, 3, 3, 32, 32, 1, 1, 1, 1}, 0);
  convolution("5×5, 3→32, 32×32", {100, 32, 32, 3, 32, 5, 5, 32, 32, 1, 1, 2, 2}, 0);
  product("product 100×3072×500", 100, 3072, 500);
  product("product 100×500×500", 100, 500, 500);
  pooling("max pool 2×2, forward and backward", 2, 16);
  pooling("max pool 3×3 by 2, forward and backward", 3, 15);
  normalisation("batch norm 32×32×32, forward and backward", {1, 102400, 32, 1});
  normalisation("layer norm 32×32×32, forward and backward", {102400, 1, 1, 32});
  const auto x = normal(1000000);
  std::vector<float> y(x.size());
  line("gelu 1000×1000", [&](Pool& pool) { gelu(pool, true, x.size(), x.data(), y.data()); });
}
