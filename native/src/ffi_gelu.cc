// The XLA side of the Gaussian error linear unit.
#include "ffi.h"
#include "kernels.h"

namespace funcnet {
namespace {

ffi::Error Gelu(ffi::ThreadPool threads, Vector x, ffi::Result<Vector> y, bool approximate) {
  const int64_t count = x.element_count();
  if (count != int64_t(y->element_count())) {
    return invalid("funcnet_gelu: ", count, " numbers do not give ", y->element_count());
  }
  XlaPool pool(threads);
  return guarded([&] { gelu(pool, approximate, count, x.typed_data(), y->typed_data()); });
}

ffi::Error GeluGradient(ffi::ThreadPool threads, Vector x, Vector dy, ffi::Result<Vector> dx,
                        bool approximate) {
  const int64_t count = x.element_count(), others = dy.element_count(), of = dx->element_count();
  if (count != others || count != of) {
    return invalid("funcnet_gelu_gradient: ", count, " numbers and ", others, " do not give ", of);
  }
  XlaPool pool(threads);
  return guarded([&] {
    gelu_gradient(pool, approximate, count, x.typed_data(), dy.typed_data(), dx->typed_data());
  });
}

}  // namespace
}  // namespace funcnet

#pragma GCC visibility push(default)
XLA_FFI_DEFINE_HANDLER_SYMBOL(funcnet_gelu, funcnet::Gelu,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<funcnet::Vector>()
                                  .Ret<funcnet::Vector>()
                                  .Attr<bool>("approximate"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(funcnet_gelu_gradient, funcnet::GeluGradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<funcnet::Vector>()
                                  .Arg<funcnet::Vector>()
                                  .Ret<funcnet::Vector>()
                                  .Attr<bool>("approximate"));
#pragma GCC visibility pop
