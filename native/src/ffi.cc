// The XLA side: what comes is checked here, before oneDNN sees it.
#include <array>
#include <cstdio>
#include <initializer_list>

#include "ffi.h"
#include "kernels.h"

namespace funcnet {
namespace {

// Attributes of the three convolutions. Winograd is how many outputs a side its filtering may take
// at once. The gradients do not read pad_bottom and pad_right: how far they reach follows from the
// shape of dy.
struct Attributes {
  int64_t stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, dilation_h, dilation_w,
      groups, winograd;
};

template <typename Binding>
auto with_attributes(Binding binding) {
  return std::move(binding)
      .template Attr<int64_t>("stride_h")
      .template Attr<int64_t>("stride_w")
      .template Attr<int64_t>("pad_top")
      .template Attr<int64_t>("pad_bottom")
      .template Attr<int64_t>("pad_left")
      .template Attr<int64_t>("pad_right")
      .template Attr<int64_t>("dilation_h")
      .template Attr<int64_t>("dilation_w")
      .template Attr<int64_t>("groups")
      .template Attr<int64_t>("winograd");
}

// Sizes beyond what oneDNN counts in 32 bits, and numbers that are no convolution.
std::string complaint(const Geometry& g) {
  constexpr int64_t kMost = int64_t{1} << 20;
  std::ostringstream text;
  const auto within = [](int64_t value, int64_t least) { return least <= value && value <= kMost; };
  if (!within(g.stride_h, 1) || !within(g.stride_w, 1)) {
    text << "strides must be 1 to " << kMost << ", got (" << g.stride_h << ", " << g.stride_w
         << ")";
  } else if (!within(g.dilation_h, 1) || !within(g.dilation_w, 1)) {
    text << "dilations must be 1 to " << kMost << ", got (" << g.dilation_h << ", "
         << g.dilation_w << ")";
  } else if (!within(g.pad_top, -kMost) || !within(g.pad_left, -kMost)) {
    text << "pads must be within " << kMost << ", got top " << g.pad_top << " and left "
         << g.pad_left;
  } else if (g.groups < 1 || g.cin % g.groups != 0 || g.cout % g.groups != 0) {
    text << g.groups << " groups do not divide " << g.cin << " channels and " << g.cout;
  } else if (g.kh < 1 || g.kw < 1 || g.cin < 1 || g.cout < 1) {
    text << "a kernel (height, width, in, out) must have no zero size, got ("
         << g.kh << ", " << g.kw << ", " << g.cin << ", " << g.cout << ")";
  } else {
    // In floating point, where a product too large is still a large number.
    const double window = (double(std::max<int64_t>(g.oh, 1)) * g.stride_h + double(g.kh) * g.dilation_h) *
                          (double(std::max<int64_t>(g.ow, 1)) * g.stride_w + double(g.kw) * g.dilation_w) * g.cin;
    const double image = double(g.h) * g.w * g.cin, out = double(g.oh) * g.ow * g.cout;
    const double kernel = double(g.kh) * g.kw * (g.cin / g.groups) * g.cout;
    if (std::max(std::max(window, image), std::max(out, kernel)) >= 1u << 31) {
      text << "an image, its padded window, its output or the kernel holds 2^31 numbers or more";
    }
  }
  return text.str();
}

// The geometry of buffers x, w, y (or of their gradients), or what is wrong with it.
template <typename X, typename W, typename Y>
ffi::Error geometry_of(const char* name, X x, W w, Y y, const Attributes& a, Geometry* g) {
  *g = {x[0], x[1], x[2], x[3], w[3], w[0], w[1], y[1], y[2],
        a.stride_h, a.stride_w, a.pad_top, a.pad_left, a.dilation_h, a.dilation_w, a.groups};
  if (a.groups < 1 || x[3] % a.groups != 0 || w[3] % a.groups != 0) {
    return invalid(name, ": ", a.groups, " groups do not divide ", x[3], " channels and ", w[3]);
  }
  if (w[2] != x[3] / a.groups) {
    return invalid(name, ": images ", shape(x), " have ", x[3] / a.groups,
                   a.groups == 1 ? " channels" : " channels a group", ", but the kernel ",
                   shape(w), " takes ", w[2]);
  }
  if (y[0] != x[0] || y[3] != w[3]) {
    return invalid(name, ": images ", shape(x), " and kernel ", shape(w), " give (", x[0],
                   ", *, *, ", w[3], "), not ", shape(y));
  }
  if (a.winograd != 0 && a.winograd != 2 && a.winograd != 4) {
    return invalid(name, ": winograd must be 0, 2 or 4, got ", a.winograd);
  }
  const std::string text = complaint(*g);
  return text.empty() ? ffi::Error::Success() : invalid(name, ": ", text);
}

// Rows that a forward convolution gives.
int64_t out_size(int64_t size, int64_t kernel, int64_t stride, int64_t before, int64_t after) {
  const int64_t room = size + before + after - kernel;
  return room < 0 ? 0 : room / stride + 1;
}

// The bias that may follow the operands, a vector of `size`; null where there is none.
ffi::Error optional_bias(const char* name, const ffi::RemainingArgs& rest, int64_t size,
                         const float** bias) {
  *bias = nullptr;
  if (rest.size() == 0) return ffi::Error::Success();
  if (rest.size() > 1) return invalid(name, ": one bias at most, got ", rest.size());
  const auto vector = rest.get<Vector>(0);
  if (vector.has_error()) return vector.error();
  if (vector->dimensions()[0] != size) {
    return invalid(name, ": a bias of ", size, " was expected, got ",
                   shape(vector->dimensions()));
  }
  *bias = vector->typed_data();
  return ffi::Error::Success();
}

ffi::Error Conv(ffi::ThreadPool threads, Tensor x, Tensor w, ffi::RemainingArgs rest,
                ffi::Result<Tensor> y, bool relu, int64_t stride_h, int64_t stride_w,
                int64_t pad_top, int64_t pad_bottom, int64_t pad_left, int64_t pad_right,
                int64_t dilation_h, int64_t dilation_w, int64_t groups, int64_t winograd) {
  const Attributes a{stride_h,  stride_w,   pad_top,    pad_bottom, pad_left,
                     pad_right, dilation_h, dilation_w, groups,     winograd};
  Geometry g;
  if (auto error = geometry_of("funcnet_conv", x.dimensions(), w.dimensions(), y->dimensions(), a,
                               &g);
      error.failure()) {
    return error;
  }
  const int64_t oh = out_size(g.h, (g.kh - 1) * g.dilation_h + 1, stride_h, pad_top, pad_bottom);
  const int64_t ow = out_size(g.w, (g.kw - 1) * g.dilation_w + 1, stride_w, pad_left, pad_right);
  if (g.oh != oh || g.ow != ow) {
    return invalid("funcnet_conv: images ", shape(x.dimensions()), ", kernel ",
                   shape(w.dimensions()), ", strides (", stride_h, ", ", stride_w, "), pads ((",
                   pad_top, ", ", pad_bottom, "), (", pad_left, ", ", pad_right, ")) give ", oh,
                   " by ", ow, ", not ", shape(y->dimensions()));
  }
  const float* bias;
  if (auto error = optional_bias("funcnet_conv", rest, g.cout, &bias); error.failure()) {
    return error;
  }
  XlaPool pool(threads);
  return guarded([&] {
    conv(pool, g, x.typed_data(), w.typed_data(), bias, relu, y->typed_data(), winograd);
  });
}

ffi::Error ConvKernelGradient(ffi::ThreadPool threads, Tensor x, Tensor dy, ffi::Result<Tensor> dw,
                              int64_t stride_h, int64_t stride_w, int64_t pad_top,
                              int64_t pad_bottom, int64_t pad_left, int64_t pad_right,
                              int64_t dilation_h, int64_t dilation_w, int64_t groups, int64_t winograd) {
  const Attributes a{stride_h,  stride_w,   pad_top,    pad_bottom, pad_left,
                     pad_right, dilation_h, dilation_w, groups,     winograd};
  Geometry g;
  if (auto error = geometry_of("funcnet_conv_kernel_gradient", x.dimensions(), dw->dimensions(),
                               dy.dimensions(), a, &g);
      error.failure()) {
    return error;
  }
  XlaPool pool(threads);
  return guarded([&] {
    conv_kernel_gradient(pool, g, x.typed_data(), dy.typed_data(), dw->typed_data(), winograd);
  });
}

ffi::Error ConvInputGradient(ffi::ThreadPool threads, Tensor dy, Tensor w, ffi::Result<Tensor> dx,
                             int64_t stride_h, int64_t stride_w, int64_t pad_top,
                             int64_t pad_bottom, int64_t pad_left, int64_t pad_right,
                              int64_t dilation_h, int64_t dilation_w, int64_t groups, int64_t winograd) {
  const Attributes a{stride_h,  stride_w,   pad_top,    pad_bottom, pad_left,
                     pad_right, dilation_h, dilation_w, groups,     winograd};
  Geometry g;
  if (auto error = geometry_of("funcnet_conv_input_gradient", dx->dimensions(), w.dimensions(),
                               dy.dimensions(), a, &g);
      error.failure()) {
    return error;
  }
  XlaPool pool(threads);
  return guarded([&] {
    conv_input_gradient(pool, g, dy.typed_data(), w.typed_data(), dx->typed_data(), winograd);
  });
}

using Bytes = ffi::Buffer<ffi::U8, 4>;

// Whether y and the winners are of a whole output's windows of 2 by 2.
template <typename Y, typename Winner>
ffi::Error windows_fit(const char* name, const Geometry& g, Y y, Winner winner) {
  const std::array<int64_t, 4> wanted{g.n, g.oh / 2, g.ow / 2, g.cout};
  for (const auto& found : {y, winner}) {
    if (!std::equal(found.begin(), found.end(), wanted.begin(), wanted.end())) {
      return invalid(name, ": outputs of ", g.oh, " by ", g.ow, " have windows ", shape(wanted),
                     ", not ", shape(found));
    }
  }
  return ffi::Error::Success();
}

ffi::Error ConvPool(ffi::ThreadPool threads, Tensor x, Tensor w, ffi::RemainingArgs rest,
                    ffi::Result<Tensor> y, ffi::Result<Bytes> winner, int64_t stride_h,
                    int64_t stride_w, int64_t pad_top, int64_t pad_bottom, int64_t pad_left,
                    int64_t pad_right, int64_t dilation_h, int64_t dilation_w, int64_t groups,
                    int64_t winograd) {
  const Attributes a{stride_h,  stride_w,   pad_top,    pad_bottom, pad_left,
                     pad_right, dilation_h, dilation_w, groups,     winograd};
  const auto xs = x.dimensions(), ws = w.dimensions();
  const std::array<int64_t, 4> whole{
      xs[0], out_size(xs[1], (ws[0] - 1) * dilation_h + 1, stride_h, pad_top, pad_bottom),
      out_size(xs[2], (ws[1] - 1) * dilation_w + 1, stride_w, pad_left, pad_right), ws[3]};
  Geometry g;
  if (auto error = geometry_of("funcnet_conv_pool", xs, ws, whole, a, &g); error.failure()) {
    return error;
  }
  if (auto error = windows_fit("funcnet_conv_pool", g, y->dimensions(), winner->dimensions());
      error.failure()) {
    return error;
  }
  const float* bias;
  if (auto error = optional_bias("funcnet_conv_pool", rest, g.cout, &bias); error.failure()) {
    return error;
  }
  XlaPool pool(threads);
  return guarded([&] {
    conv_pool(pool, g, x.typed_data(), w.typed_data(), bias, y->typed_data(),
              winner->typed_data(), winograd);
  });
}

ffi::Error ConvPoolKernelGradient(ffi::ThreadPool threads, Tensor x, Tensor dy, Bytes winner,
                                  ffi::Result<Tensor> dw, int64_t stride_h, int64_t stride_w,
                                  int64_t pad_top, int64_t pad_bottom, int64_t pad_left,
                                  int64_t pad_right, int64_t dilation_h, int64_t dilation_w,
                                  int64_t groups, int64_t winograd) {
  const Attributes a{stride_h,  stride_w,   pad_top,    pad_bottom, pad_left,
                     pad_right, dilation_h, dilation_w, groups,     winograd};
  const auto dys = dy.dimensions();
  const std::array<int64_t, 4> whole{dys[0], 2 * dys[1], 2 * dys[2], dys[3]};
  Geometry g;
  if (auto error = geometry_of("funcnet_conv_pool_kernel_gradient", x.dimensions(),
                               dw->dimensions(), whole, a, &g);
      error.failure()) {
    return error;
  }
  if (auto error = windows_fit("funcnet_conv_pool_kernel_gradient", g, dys, winner.dimensions());
      error.failure()) {
    return error;
  }
  XlaPool pool(threads);
  return guarded([&] {
    conv_pool_kernel_gradient(pool, g, x.typed_data(), dy.typed_data(), winner.typed_data(),
                              dw->typed_data());
  });
}

ffi::Error Matmul(ffi::ThreadPool threads, Matrix a, Matrix b, ffi::RemainingArgs rest,
                  ffi::Result<Matrix> y, bool transpose_a, bool transpose_b, bool relu) {
  const auto as = a.dimensions(), bs = b.dimensions(), ys = y->dimensions();
  const int64_t n = as[transpose_a], k = as[!transpose_a], m = bs[!transpose_b];
  if (bs[transpose_b] != k || ys[0] != n || ys[1] != m) {
    return invalid("funcnet_matmul: ", shape(as), transpose_a ? " transposed" : "", " times ",
                   shape(bs), transpose_b ? " transposed" : "", " does not give ", shape(ys));
  }
  const float* bias;
  if (auto error = optional_bias("funcnet_matmul", rest, m, &bias); error.failure()) {
    return error;
  }
  XlaPool pool(threads);
  return guarded([&] {
    matmul(pool, n, k, m, transpose_a, transpose_b, a.typed_data(), b.typed_data(), bias, relu,
           y->typed_data());
  });
}

// The shape of numbers (examples, rows, groups, channels), or what does not fit to it: each of
// `same` has it, `parameters` are (groups, channels), `statistics` (examples, groups).
using Dimensions = ffi::Span<const int64_t>;
ffi::Error norm_shape(const char* name, Dimensions x, std::initializer_list<Dimensions> same,
                      std::initializer_list<Dimensions> parameters,
                      std::initializer_list<Dimensions> statistics, NormShape* s) {
  *s = {x[0], x[1], x[2], x[3]};
  if (s->rows < 1 || s->columns() < 1) {
    return invalid(name, ": numbers (examples, rows, groups, channels) must have no zero size but ",
                   "the first, got ", shape(x));
  }
  const auto fits = [](Dimensions found, std::initializer_list<int64_t> wanted) {
    return std::equal(found.begin(), found.end(), wanted.begin(), wanted.end());
  };
  for (const auto& found : same) {
    if (!fits(found, {x[0], x[1], x[2], x[3]})) {
      return invalid(name, ": numbers ", shape(x), " beside ", shape(found));
    }
  }
  for (const auto& found : parameters) {
    if (!fits(found, {x[2], x[3]})) {
      return invalid(name, ": numbers ", shape(x), " with parameters ", shape(found));
    }
  }
  for (const auto& found : statistics) {
    if (!fits(found, {x[0], x[2]})) {
      return invalid(name, ": numbers ", shape(x), " with statistics ", shape(found));
    }
  }
  return ffi::Error::Success();
}

using Numbers = ffi::Result<Matrix>;
ffi::Error Norm(ffi::ThreadPool threads, Tensor x, Matrix gamma, Matrix beta,
                ffi::Result<Tensor> y, Numbers mean, Numbers left, Numbers var, Numbers inv_std,
                double eps, bool centred, bool relu) {
  NormShape s;
  if (auto error = norm_shape("funcnet_norm", x.dimensions(), {y->dimensions()},
                              {gamma.dimensions(), beta.dimensions()},
                              {mean->dimensions(), left->dimensions(), var->dimensions(),
                               inv_std->dimensions()},
                              &s);
      error.failure()) {
    return error;
  }
  XlaPool pool(threads);
  return guarded([&] {
    norm(pool, s, {centred, false, relu}, eps, x.typed_data(), gamma.typed_data(),
         beta.typed_data(), y->typed_data(),
         {mean->typed_data(), left->typed_data(), var->typed_data(), inv_std->typed_data()});
  });
}

ffi::Error NormGradient(ffi::ThreadPool threads, Tensor dy, Tensor x, Matrix mean, Matrix left,
                        Matrix inv_std, Matrix gamma, Matrix beta, ffi::Result<Tensor> dx,
                        Numbers dgamma, Numbers dbeta, bool centred, bool fixed, bool relu) {
  NormShape s;
  if (auto error = norm_shape("funcnet_norm_gradient", x.dimensions(),
                              {dy.dimensions(), dx->dimensions()},
                              {gamma.dimensions(), beta.dimensions(), dgamma->dimensions(),
                               dbeta->dimensions()},
                              {mean.dimensions(), left.dimensions(), inv_std.dimensions()}, &s);
      error.failure()) {
    return error;
  }
  if (fixed && relu) return invalid("funcnet_norm_gradient: fixed statistics go with no ReLU");
  XlaPool pool(threads);
  return guarded([&] {
    norm_gradient(pool, s, {centred, fixed, relu}, dy.typed_data(), x.typed_data(),
                  {mean.typed_data(), left.typed_data(), nullptr, inv_std.typed_data()},
                  gamma.typed_data(), beta.typed_data(), dx->typed_data(), dgamma->typed_data(),
                  dbeta->typed_data());
  });
}

}  // namespace
}  // namespace funcnet

#define EXPORT extern "C" __attribute__((visibility("default")))

#pragma GCC visibility push(default)
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    funcnet_conv, funcnet::Conv,
    funcnet::with_attributes(ffi::Ffi::Bind()
                                 .Ctx<ffi::ThreadPool>()
                                 .Arg<funcnet::Tensor>()
                                 .Arg<funcnet::Tensor>()
                                 .RemainingArgs()
                                 .Ret<funcnet::Tensor>()
                                 .Attr<bool>("relu")));
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    funcnet_conv_kernel_gradient, funcnet::ConvKernelGradient,
    funcnet::with_attributes(ffi::Ffi::Bind()
                                 .Ctx<ffi::ThreadPool>()
                                 .Arg<funcnet::Tensor>()
                                 .Arg<funcnet::Tensor>()
                                 .Ret<funcnet::Tensor>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    funcnet_conv_input_gradient, funcnet::ConvInputGradient,
    funcnet::with_attributes(ffi::Ffi::Bind()
                                 .Ctx<ffi::ThreadPool>()
                                 .Arg<funcnet::Tensor>()
                                 .Arg<funcnet::Tensor>()
                                 .Ret<funcnet::Tensor>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    funcnet_conv_pool, funcnet::ConvPool,
    funcnet::with_attributes(ffi::Ffi::Bind()
                                 .Ctx<ffi::ThreadPool>()
                                 .Arg<funcnet::Tensor>()
                                 .Arg<funcnet::Tensor>()
                                 .RemainingArgs()
                                 .Ret<funcnet::Tensor>()
                                 .Ret<funcnet::Bytes>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    funcnet_conv_pool_kernel_gradient, funcnet::ConvPoolKernelGradient,
    funcnet::with_attributes(ffi::Ffi::Bind()
                                 .Ctx<ffi::ThreadPool>()
                                 .Arg<funcnet::Tensor>()
                                 .Arg<funcnet::Tensor>()
                                 .Arg<funcnet::Bytes>()
                                 .Ret<funcnet::Tensor>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(funcnet_matmul, funcnet::Matmul,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<funcnet::Matrix>()
                                  .Arg<funcnet::Matrix>()
                                  .RemainingArgs()
                                  .Ret<funcnet::Matrix>()
                                  .Attr<bool>("transpose_a")
                                  .Attr<bool>("transpose_b")
                                  .Attr<bool>("relu"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(funcnet_norm, funcnet::Norm,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<funcnet::Tensor>()
                                  .Arg<funcnet::Matrix>()
                                  .Arg<funcnet::Matrix>()
                                  .Ret<funcnet::Tensor>()
                                  .Ret<funcnet::Matrix>()
                                  .Ret<funcnet::Matrix>()
                                  .Ret<funcnet::Matrix>()
                                  .Ret<funcnet::Matrix>()
                                  .Attr<double>("eps")
                                  .Attr<bool>("centred")
                                  .Attr<bool>("relu"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(funcnet_norm_gradient, funcnet::NormGradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<funcnet::Tensor>()
                                  .Arg<funcnet::Tensor>()
                                  .Arg<funcnet::Matrix>()
                                  .Arg<funcnet::Matrix>()
                                  .Arg<funcnet::Matrix>()
                                  .Arg<funcnet::Matrix>()
                                  .Arg<funcnet::Matrix>()
                                  .Ret<funcnet::Tensor>()
                                  .Ret<funcnet::Matrix>()
                                  .Ret<funcnet::Matrix>()
                                  .Attr<bool>("centred")
                                  .Attr<bool>("fixed")
                                  .Attr<bool>("relu"));
#pragma GCC visibility pop

// What Python asks by ctypes.

EXPORT size_t funcnet_native_cache_size() { return funcnet::conv_cache_size(); }
EXPORT size_t funcnet_native_cache_capacity() { return funcnet::kConvCacheCapacity; }

// oneDNN's version as loaded (major, minor, patch), the version of its headers, and the bits of
// the instruction set in use.
EXPORT void funcnet_native_version(int64_t* numbers) {
  const dnnl_version_t* loaded = dnnl_version();
  const int64_t all[] = {loaded->major, loaded->minor, loaded->patch, DNNL_VERSION_MAJOR,
                         DNNL_VERSION_MINOR, static_cast<int64_t>(dnnl_get_effective_cpu_isa())};
  std::copy(std::begin(all), std::end(all), numbers);
}

// Writes the name of the implementation for a Geometry's 16 numbers, and for `winograd` outputs a
// side at most, into `name`, and returns true, or writes what stands against it, and returns false.
EXPORT bool funcnet_native_implementation(int64_t kind, const int64_t* n, int64_t winograd,
                                          char* name, size_t size) {
  const funcnet::Geometry g{n[0], n[1], n[2],  n[3],  n[4],  n[5],  n[6],  n[7],
                            n[8], n[9], n[10], n[11], n[12], n[13], n[14], n[15]};
  std::string text = funcnet::complaint(g);
  bool good = text.empty();
  if (good) {
    try {
      text = g.oh > 0 && g.ow > 0
                 ? funcnet::conv_implementation(funcnet::Kind(kind), g, winograd)
                 : "none";
    } catch (const std::exception& error) {
      text = error.what();
      good = false;
    }
  }
  std::snprintf(name, size, "%s", text.c_str());
  return good;
}
