// The XLA side of the pools.
#include "ffi.h"
#include "kernels.h"

namespace funcnet {
namespace {

// (window, stride, dilation, before, counted_before, counted_after) along an axis.
using Numbers = ffi::Span<const int64_t>;

// An axis of a pool, or what is wrong with it.
ffi::Error windows_of(const char* name, int64_t size, int64_t outputs, Numbers n, Windows* w) {
  constexpr int64_t kMost = int64_t{1} << 20;
  if (n.size() != 6) return invalid(name, ": six numbers an axis were expected, got ", n.size());
  *w = {size, outputs, n[0], n[1], n[2], n[3], n[4], n[5]};
  for (size_t i = 0; i < n.size(); ++i) {
    if (n[i] < (i < 3) || n[i] > kMost) {
      return invalid(name, ": windows, strides and dilations must be 1 to ", kMost,
                     ", pads 0 or more, got ", shape(n));
    }
  }
  if (!each_has_a_cell(*w)) {
    return invalid(name, ": of ", outputs, " windows ", shape(n), " one has no cell in ", size);
  }
  return ffi::Error::Success();
}

template <typename X, typename Y>
ffi::Error pooling_of(const char* name, X x, Y y, Numbers rows, Numbers columns, Pooling* p) {
  if (x[0] != y[0] || x[3] != y[3]) {
    return invalid(name, ": images ", shape(x), " do not give ", shape(y));
  }
  p->n = x[0], p->c = x[3];
  auto error = windows_of(name, x[1], y[1], rows, &p->rows);
  return error.failure() ? error : windows_of(name, x[2], y[2], columns, &p->columns);
}

ffi::Error MaxPool(ffi::ThreadPool threads, Tensor x, ffi::Result<Tensor> y, Numbers rows,
                   Numbers columns) {
  Pooling p;
  auto error = pooling_of("funcnet_max_pool", x.dimensions(), y->dimensions(), rows, columns, &p);
  if (error.failure()) return error;
  XlaPool pool(threads);
  return guarded([&] { max_pool(pool, p, x.typed_data(), y->typed_data()); });
}

ffi::Error MaxPoolGradient(ffi::ThreadPool threads, Tensor x, Tensor dy, ffi::Result<Tensor> dx,
                           Numbers rows, Numbers columns) {
  const char* name = "funcnet_max_pool_gradient";
  Pooling p;
  auto error = pooling_of(name, x.dimensions(), dy.dimensions(), rows, columns, &p);
  if (error.failure()) return error;
  const auto xs = x.dimensions(), dxs = dx->dimensions();
  if (!std::equal(xs.begin(), xs.end(), dxs.begin())) {
    return invalid(name, ": images ", shape(xs), " have no gradient ", shape(dxs));
  }
  XlaPool pool(threads);
  return guarded([&] {
    max_pool_gradient(pool, p, x.typed_data(), dy.typed_data(), dx->typed_data());
  });
}

ffi::Error AvgPool(ffi::ThreadPool threads, Tensor x, ffi::Result<Tensor> y, Numbers rows,
                   Numbers columns) {
  Pooling p;
  auto error = pooling_of("funcnet_avg_pool", x.dimensions(), y->dimensions(), rows, columns, &p);
  if (error.failure()) return error;
  XlaPool pool(threads);
  return guarded([&] { avg_pool(pool, p, x.typed_data(), y->typed_data()); });
}

ffi::Error AvgPoolGradient(ffi::ThreadPool threads, Tensor dy, ffi::Result<Tensor> dx,
                           Numbers rows, Numbers columns) {
  Pooling p;
  auto error = pooling_of("funcnet_avg_pool_gradient", dx->dimensions(), dy.dimensions(), rows,
                          columns, &p);
  if (error.failure()) return error;
  XlaPool pool(threads);
  return guarded([&] { avg_pool_gradient(pool, p, dy.typed_data(), dx->typed_data()); });
}

template <typename Binding>
auto with_windows(Binding binding) {
  return std::move(binding)
      .template Ret<Tensor>()
      .template Attr<Numbers>("rows")
      .template Attr<Numbers>("columns");
}

}  // namespace
}  // namespace funcnet

#pragma GCC visibility push(default)
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    funcnet_max_pool, funcnet::MaxPool,
    funcnet::with_windows(ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<funcnet::Tensor>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    funcnet_max_pool_gradient, funcnet::MaxPoolGradient,
    funcnet::with_windows(ffi::Ffi::Bind()
                              .Ctx<ffi::ThreadPool>()
                              .Arg<funcnet::Tensor>()
                              .Arg<funcnet::Tensor>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    funcnet_avg_pool, funcnet::AvgPool,
    funcnet::with_windows(ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<funcnet::Tensor>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    funcnet_avg_pool_gradient, funcnet::AvgPoolGradient,
    funcnet::with_windows(ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<funcnet::Tensor>()));
#pragma GCC visibility pop
