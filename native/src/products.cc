// oneDNN's batched product where the CPU has AVX-512, at 0.8 to 0.95 of what such a core can do. Of
// AVX2 alone it makes a general one for each pair, whose laying out takes as long as a product of 64
// by 64 matrices: there a loop of our own takes 0.7 of its time.
#include "products.h"

#include <algorithm>
#include <array>

#include "kernels.h"

namespace funcnet {
namespace {

#if defined(__x86_64__) && defined(__GNUC__)
#define FUNCNET_AVX2 __attribute__((target("avx2,fma")))
bool has_own() {
  static const bool own = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                          !__builtin_cpu_supports("avx512f");
  return own;
}
#else
#define FUNCNET_AVX2
bool has_own() { return false; }
#endif

// ---- Loops of our own ---------------------------------------------------------------------------

typedef float Eight __attribute__((vector_size(32), aligned(4), may_alias));
constexpr int64_t kPanel = 16;  // columns of y that a row's sums are taken of at once

// A matrix read by strides.
struct Strided {
  const float* data;
  int64_t row, column;
};

// `rows` rows of one panel of y: twelve sums of eight for six rows, which is as many as there are
// registers for, and as many as keep two multipliers busy.
template <int rows>
FUNCNET_AVX2 inline void panel(int64_t k, const Strided& a, const float* b, int64_t b_row, float* y,
                               int64_t y_row, bool adding) {
  Eight sums[rows][2] = {};
  for (int64_t i = 0; i < k; ++i) {
    const auto* line = reinterpret_cast<const Eight*>(b + i * b_row);
    const Eight left = line[0], right = line[1];
#pragma GCC unroll 6
    for (int r = 0; r < rows; ++r) {
      const float factor = a.data[r * a.row + i * a.column];
      sums[r][0] += factor * left;
      sums[r][1] += factor * right;
    }
  }
  for (int r = 0; r < rows; ++r) {
    auto* line = reinterpret_cast<Eight*>(y + r * y_row);
    line[0] = adding ? line[0] + sums[r][0] : sums[r][0];
    line[1] = adding ? line[1] + sums[r][1] : sums[r][1];
  }
}

// y (n, m) = a b, or y += a b, the panels of b `b_panel` floats apart.
void product(int64_t n, int64_t k, int64_t m, const Strided& a, const float* b, int64_t b_row,
             int64_t b_panel, float* y, bool adding) {
  static constexpr decltype(&panel<1>) kPanels[] = {panel<1>, panel<2>, panel<3>,
                                                    panel<4>, panel<5>, panel<6>};
  for (int64_t column = 0; column < m; column += kPanel, b += b_panel) {
    for (int64_t row = 0; row < n; row += 6) {
      kPanels[std::min<int64_t>(n - row, 6) - 1](k, {a.data + row * a.row, a.row, a.column}, b,
                                                 b_row, y + row * m + column, m, adding);
    }
  }
}

// The columns of a matrix, or its rows, in panels of sixteen, one row of a panel after the other.
void lay_panels(const float* matrix, const Planes& shape, bool transposed, float* laid) {
  const int64_t rows = transposed ? shape.columns : shape.rows;
  const int64_t columns = transposed ? shape.rows : shape.columns;
  for (int64_t column = 0; column < columns; column += kPanel) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = column; i < column + kPanel; ++i) {
        *laid++ = transposed ? matrix[i * shape.columns + row] : matrix[row * columns + i];
      }
    }
  }
}

memory::desc desc_of(const Planes& planes, bool transposed) {
  if (transposed) {
    return {{planes.count, planes.columns, planes.rows}, kFloat,
            memory::dims{planes.stride(), 1, planes.columns}};
  }
  return {{planes.count, planes.rows, planes.columns}, kFloat,
          memory::dims{planes.stride(), planes.columns, 1}};
}

}  // namespace

// ---- oneDNN's -----------------------------------------------------------------------------------

struct Products::Primitive {
  memory::desc a, b, y, scratch;
  Reorder laid;
  dnnl::matmul primitive;

  Primitive(const memory::desc& a_, const memory::desc& b_, const memory::desc& y_, bool adding)
      : a(a_), y(y_) {
    auto attributes = own_scratchpad();
    dnnl::post_ops sum;
    sum.append_sum();
    if (adding) attributes.set_post_ops(sum);
    const memory::desc any(b_.get_dims(), kFloat, memory::format_tag::any);
    const dnnl::matmul::primitive_desc desc(engine(), a, adding ? b_ : any, y, attributes);
    b = desc.weights_desc();
    scratch = desc.scratchpad_desc();
    laid = Reorder(b_, b);
    primitive = dnnl::matmul(desc);
  }
};

Products::Products(const Planes& a, bool transpose_a, const Planes& b, bool transpose_b,
                   bool adding)
    : a_(a), b_(b),
      y_{a.count, transpose_a ? a.columns : a.rows, transpose_b ? b.rows : b.columns},
      transpose_a_(transpose_a), transpose_b_(transpose_b), adding_(adding) {
  if (has_own()) return;
  using Key = std::array<int64_t, 7>;
  static auto* cache = new Cache<Key, Primitive>(kConvCacheCapacity);
  const Key key{a.count, a.rows, a.columns, y_.columns, transpose_a, transpose_b, adding};
  primitive_ = cache->get(key, [&] {
    OneThread one;
    return std::make_shared<const Primitive>(desc_of(a, transpose_a), desc_of(b, transpose_b),
                                             desc_of(y_, false), adding);
  });
}

int64_t Products::laid_floats() const {
  return primitive_ ? primitive_->b.get_size() / sizeof(float) : b_.floats();
}

void Products::lay(const float* b, float* laid) const {
  OneThread one;
  if (primitive_ && primitive_->laid.needed()) {
    primitive_->laid.run(b, laid);
  } else if (primitive_) {
    std::copy_n(b, b_.floats(), laid);
  } else {
    for (int64_t i = 0; i < b_.count; ++i) {
      lay_panels(b + i * b_.stride(), b_, transpose_b_, laid + i * b_.stride());
    }
  }
}

void Products::run(const float* a, const float* b, float* y) const {
  if (primitive_) {
    execute(primitive_->primitive, primitive_->scratch,
            {{DNNL_ARG_SRC, memory_at(primitive_->a, a)},
             {DNNL_ARG_WEIGHTS, memory_at(primitive_->b, b)},
             {DNNL_ARG_DST, memory_at(primitive_->y, y)}});
    return;
  }
  const int64_t terms = transpose_a_ ? a_.rows : a_.columns, columns = y_.columns;
  for (int64_t i = 0; i < a_.count; ++i) {
    const float* pixels = a + i * a_.stride();
    const Strided left = transpose_a_ ? Strided{pixels, 1, a_.columns}
                                      : Strided{pixels, a_.columns, 1};
    product(y_.rows, terms, columns, left, b + i * b_.stride(), adding_ ? columns : kPanel,
            adding_ ? kPanel : kPanel * terms, y + i * y_.stride(), adding_);
  }
}

}  // namespace funcnet
