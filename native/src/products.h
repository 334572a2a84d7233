// Products of many pairs of small matrices.
#pragma once

#include "onednn.h"

namespace funcnet {

// `count` matrices of `rows` by `columns`, row-major. Sixteen floats lie between two of them:
// without, all would share the few places of the cache that one address modulo 4096 has.
struct Planes {
  int64_t count, rows, columns;

  int64_t stride() const { return (rows * columns + 31) / 16 * 16; }
  int64_t floats() const { return count * stride(); }
  // Where a row lies in each of them.
  void locate(float* planes, int64_t row, float** places) const {
    for (int64_t i = 0; i < count; ++i) places[i] = planes + i * stride() + row * columns;
  }
};

// y = op(a) op(b), or y += op(a) op(b), for each pair; `columns` of y are a multiple of 16. Where b
// serves many products it is laid out for them once.
class Products {
 public:
  Products(const Planes& a, bool transpose_a, const Planes& b, bool transpose_b, bool adding);

  int64_t laid_floats() const;
  void lay(const float* b, float* laid) const;
  // b as `lay` has left it, or as it is where the products add.
  void run(const float* a, const float* b, float* y) const;

 private:
  const Planes a_, b_, y_;
  const bool transpose_a_, transpose_b_, adding_;
  struct Primitive;
  std::shared_ptr<const Primitive> primitive_;  // oneDNN's, or null: by the loops below
};

}  // namespace funcnet
