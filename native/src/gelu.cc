// The Gaussian error linear unit, number by number. XLA's erfc takes most of its time, and the
// sigmoid's exponential is taken with more care than its digits need.
#include <cstring>

#include "kernels.h"

namespace funcnet {
namespace {

#define ALWAYS __attribute__((always_inline)) inline

constexpr float kSmallest = -87.0f;  // below, e^x is 0 here
constexpr float kNear = 40.0f;       // beyond, slopes are 0 or 1, and powers of x would overflow

// e^(x + tail) of x <= 0 and a small tail, to 2 eps of itself: 2^n e^r with |r| <= log(2) / 2.
ALWAYS float exponential(float x, float tail) {
  constexpr float kRound = 12582912.0f;  // 1.5 2^23: what is added to it loses its fraction
  const float at = x > kSmallest ? x : kSmallest;
  const float n = (at * 1.44269504f + kRound) - kRound;
  const float r = (at - n * 0.693359375f) - n * -2.12194440e-4f + tail;  // log(2) in two parts
  const float rr = r * r;
  const float q = (5.000000091e-1f + 1.666650355e-1f * r) +
                  ((4.166622983e-2f + 8.370601717e-3f * r) + 1.394877633e-3f * rr) * rr;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  const float y = (q * rr + (r + 1.0f)) * power;
  return x > kSmallest ? y : 0.0f;
}

struct Weight {
  float value, slope;  // w(x) and x w'(x)
};

// The sigmoid of z, both sides right to eps of themselves, and x z'(x) times its slope.
ALWAYS Weight sigmoid(float z, float x_dz) {
  const float e = exponential(z < 0.0f ? z : -z, 0.0f);
  const float large = 1.0f / (1.0f + e), small = e * large;
  const float value = z < 0.0f ? small : large, rest = z < 0.0f ? large : small;
  return {value, x_dz * value * rest};
}

template <bool approximate>
ALWAYS Weight weight(float x) {
  const float near = x > kNear ? kNear : x < -kNear ? -kNear : x;
  if constexpr (approximate) {
    constexpr float kTwice = 1.5957691216f, kCubic = 0.044715f;  // 2 sqrt(2 / pi)
    return sigmoid(kTwice * (x + kCubic * x * x * x),
                   near * kTwice * (1.0f + 3.0f * kCubic * near * near));
  } else {
    // The density's exponent in two parts, of which the first is exact; and erfc(z) e^(z z) as a
    // polynomial in t = 2 / (2 + z), fitted to 5e-8.
    const float size = near < 0.0f ? -near : near;
    int32_t bits;
    std::memcpy(&bits, &size, sizeof bits);
    bits &= ~0xfff;
    float most;
    std::memcpy(&most, &bits, sizeof most);
    const float density = exponential(-0.5f * most * most, -0.5f * (size - most) * (size + most));
    const float t = 2.0f / (2.0f + size * 0.70710678f);
    const float tt = t * t, t4 = tt * tt;
    const float p = ((2.820834766e-1f + 2.824335293e-1f * t) +
                     (2.426322678e-1f + 2.047355147e-1f * t) * tt) +
                    ((-3.187662501e-2f + 2.862428641e-1f * t) +
                     (-4.947925117e-1f + 2.884395307e-1f * t) * tt + -5.989809555e-2f * t4) * t4;
    const float small = (0.5f * density) * (t * p);
    return {x < 0.0f ? small : 1.0f - small, near * 0.39894228f * density};
  }
}

// y = x w(x), or dx = dy (w(x) + x w'(x)).
template <bool approximate>
FUNCNET_WIDE void forward(const float* __restrict x, float* __restrict y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) y[i] = x[i] * weight<approximate>(x[i]).value;
}
template <bool approximate>
FUNCNET_WIDE void gradient(const float* __restrict x, const float* __restrict dy,
                           float* __restrict dx, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const Weight w = weight<approximate>(x[i]);
    dx[i] = dy[i] * (w.value + w.slope);
  }
}

template <typename Run>
void in_shares(Pool& pool, int64_t count, Run run) {
  constexpr int64_t kShare = 1 << 14;
  constexpr double kFlops = 40;  // a number's, about
  for_each_share(pool, worthwhile_threads(pool, kFlops * count), ceil_div(count, kShare),
                 [&](int64_t i) { run(i * kShare, std::min(kShare, count - i * kShare)); });
}

}  // namespace

void gelu(Pool& pool, bool approximate, int64_t count, const float* x, float* y) {
  const auto run = approximate ? forward<true> : forward<false>;
  in_shares(pool, count, [&](int64_t i, int64_t some) { run(x + i, y + i, some); });
}

void gelu_gradient(Pool& pool, bool approximate, int64_t count, const float* x, const float* dy,
                   float* dx) {
  const auto run = approximate ? gradient<true> : gradient<false>;
  in_shares(pool, count, [&](int64_t i, int64_t some) { run(x + i, dy + i, dx + i, some); });
}

}  // namespace funcnet
