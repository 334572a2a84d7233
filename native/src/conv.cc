#include <cstring>
#include <vector>

#include "kernels.h"
#include "onednn.h"
#include "windows.h"

namespace funcnet {
namespace {

using Dims = memory::dims;

Buffer& window_buffer() {
  thread_local Buffer buffer;
  return buffer;
}

// ---- Primitives ---------------------------------------------------------------------------------

// One of the three maps for a fixed number of images: images in plain layout, the kernel in
// whatever layout oneDNN likes best.
struct Plan {
  memory::desc x, w, y, bias, scratch;
  Reorder kernel;  // from HWIO to `w`, or back for the kernel gradient
  dnnl::primitive primitive;
  std::string implementation;
};

Plan make_plan(Kind kind, const Geometry& g, bool with_bias, bool compile) {
  const auto algorithm = dnnl::algorithm::convolution_direct;
  const memory::desc x({g.n, g.cin, g.h, g.w}, kFloat, memory::format_tag::nhwc);
  const memory::desc y({g.n, g.cout, g.oh, g.ow}, kFloat, memory::format_tag::nhwc);
  const bool grouped = g.groups > 1;
  const Dims sizes = grouped ? Dims{g.groups, g.cout / g.groups, g.cin / g.groups, g.kh, g.kw}
                             : Dims{g.cout, g.cin, g.kh, g.kw};
  const memory::desc w(sizes, kFloat, memory::format_tag::any);
  const memory::desc hwio(sizes, kFloat,
                          grouped ? memory::format_tag::hwigo : memory::format_tag::hwio);
  const memory::desc bias = with_bias ? memory::desc({g.cout}, kFloat, memory::format_tag::x)
                                      : memory::desc();
  const Dims strides{g.stride_h, g.stride_w}, gaps{g.dilation_h - 1, g.dilation_w - 1};
  const Dims before{g.pad_top, g.pad_left};
  const Dims after{window_height(g) - g.h - g.pad_top, window_width(g) - g.w - g.pad_left};
  const auto attributes = own_scratchpad();
  const dnnl::convolution_forward::primitive_desc forward(
      engine(), dnnl::prop_kind::forward_training, algorithm, x, w, bias, y, strides, gaps, before,
      after, attributes);

  const auto finish = [&](const auto& desc, const memory::desc& kernel_desc) {
    Plan plan{x, kernel_desc, y, bias, desc.scratchpad_desc(), {}, {}, desc.impl_info_str()};
    if (!compile) return plan;
    plan.primitive = dnnl::primitive(desc.get());
    plan.kernel = kind == Kind::kKernelGradient ? Reorder(kernel_desc, hwio)
                                                : Reorder(hwio, kernel_desc);
    return plan;
  };
  switch (kind) {
    case Kind::kForward:
      return finish(forward, forward.weights_desc());
    case Kind::kKernelGradient: {
      const dnnl::convolution_backward_weights::primitive_desc desc(
          engine(), algorithm, x, w, bias, y, strides, gaps, before, after, forward, attributes);
      return finish(desc, desc.diff_weights_desc());
    }
    default: {
      const dnnl::convolution_backward_data::primitive_desc desc(
          engine(), algorithm, x, w, y, strides, gaps, before, after, forward, attributes);
      return finish(desc, desc.weights_desc());
    }
  }
}

using Key = std::array<int64_t, 18>;

Cache<Key, Plan>& plans() {
  static auto* cache = [] {
    dnnl::set_primitive_cache_capacity(0);  // this cache is bounded; a second would only add to it
    return new Cache<Key, Plan>(kConvCacheCapacity);
  }();
  return *cache;
}

std::shared_ptr<const Plan> plan_for(Kind kind, const Geometry& g, bool bias = false) {
  const Key key{static_cast<int64_t>(kind), bias, g.n, g.h, g.w, g.cin, g.cout, g.kh, g.kw,
                g.oh, g.ow, g.stride_h, g.stride_w, g.pad_top, g.pad_left, g.dilation_h,
                g.dilation_w, g.groups};
  return plans().get(key, [&] {
    OneThread one;  // a primitive remembers how many threads it was made for
    return std::make_shared<const Plan>(make_plan(kind, g, bias, /*compile=*/true));
  });
}

// ---- Chunks -------------------------------------------------------------------------------------

int64_t image_floats(const Geometry& g) { return g.h * g.w * g.cin + g.oh * g.ow * g.cout; }

// Images worked on at once: few enough to stay in a core's cache between one pass and the next,
// and enough that starting oneDNN (some microseconds) is nothing.
int64_t images_in_cache(const Geometry& g) {
  constexpr int64_t kFloats = 128 * 1024;
  return std::max<int64_t>(1, kFloats / std::max<int64_t>(image_floats(g), 1));
}

// A range of images in chunks of one size, but for the last.
struct Chunks {
  int64_t size, count, rest;  // chunks of `size` images, the last of `rest`
  Chunks(int64_t images, int64_t size)
      : size(size), count(ceil_div(images, size)), rest(images - (count - 1) * size) {}
  int64_t images(int64_t chunk) const { return chunk + 1 < count ? size : rest; }
};

// A plan, and the kernel in its layout.
struct Prepared {
  std::shared_ptr<const Plan> plan;
  Buffer reordered;
  const float* w;

  Prepared(Kind kind, const Geometry& g, bool bias, const float* hwio)
      : plan(plan_for(kind, g, bias)), w(hwio) {
    if (!plan->kernel.needed()) return;
    float* target = static_cast<float*>(reordered.bytes(plan->w.get_size()));
    OneThread one;
    plan->kernel.run(hwio, target);
    w = target;
  }
};

// Runs a map from images to images chunk by chunk. The two sizes of chunk have a plan each, which
// may want the kernel in different layouts.
template <typename Run>
void for_each_chunk(Pool& pool, Kind kind, const Geometry& g, const Geometry& inner, bool bias,
                    const float* w, Run run) {
  const int64_t threads = worthwhile_threads(pool, g.flops());
  const Chunks chunks(g.n, std::min(images_in_cache(inner), ceil_div(g.n, 4 * threads)));
  const Prepared whole(kind, of_images(inner, chunks.images(0)), bias, w);
  std::unique_ptr<const Prepared> last;
  if (chunks.rest != chunks.images(0)) {
    last = std::make_unique<const Prepared>(kind, of_images(inner, chunks.rest), bias, w);
  }
  for_each_share(pool, threads, chunks.count, [&](int64_t i) {
    const int64_t images = chunks.images(i);
    run(i * chunks.size, images, images == chunks.images(0) ? whole : *last);
  });
}

Buffer& output_buffer() {
  thread_local Buffer buffer;
  return buffer;
}

// The convolution, written whole or pooled.
void conv_to(Results to, Pool& pool, const Geometry& g, const float* x, const float* w,
             const float* bias, bool relu, int64_t winograd) {
  if (g.n == 0 || g.oh == 0 || g.ow == 0) return;
  if (const auto outputs = winograd_outputs(Kind::kForward, g, winograd)) {
    return winograd_conv(outputs, pool, g, x, w, bias, relu, to);
  }
  const bool direct = fits(g);
  const Geometry inner = direct ? g : windowed(g);
  for_each_chunk(pool, Kind::kForward, g, inner, bias != nullptr, w,
                 [&](int64_t first, int64_t images, const Prepared& prepared) {
    const Plan& plan = *prepared.plan;
    const float* source = x + first * g.h * g.w * g.cin;
    if (!direct) source = to_window(of_images(g, images), source, window_buffer());
    const int64_t image = g.oh * g.ow * g.cout;
    float* target = to.winner ? output_buffer().floats(images * image) : to.y + first * image;
    std::unordered_map<int, memory> arguments{
        {DNNL_ARG_SRC, memory_at(plan.x, source)},
        {DNNL_ARG_WEIGHTS, memory_at(plan.w, prepared.w)},
        {DNNL_ARG_DST, memory_at(plan.y, target)}};
    if (bias) arguments.emplace(DNNL_ARG_BIAS, memory_at(plan.bias, bias));
    execute(plan.primitive, plan.scratch, std::move(arguments));
    if (to.winner) {
      pool_images(g, first, images, target, to);
    } else if (relu) {
      relu_in_place(target, images * image);
    }
  });
}

}  // namespace

void conv(Pool& pool, const Geometry& g, const float* x, const float* w, const float* bias,
          bool relu, float* y, int64_t winograd) {
  conv_to({y}, pool, g, x, w, bias, relu, winograd);
}

void conv_pool(Pool& pool, const Geometry& g, const float* x, const float* w, const float* bias,
               float* y, uint8_t* winner, int64_t winograd) {
  conv_to({y, winner}, pool, g, x, w, bias, true, winograd);
}

void conv_input_gradient(Pool& pool, const Geometry& g, const float* dy, const float* w,
                         float* dx, int64_t winograd) {
  if (g.n == 0 || g.h == 0 || g.w == 0) return;
  if (g.oh == 0 || g.ow == 0) {
    std::fill_n(dx, g.n * g.h * g.w * g.cin, 0.0f);
    return;
  }
  if (const auto outputs = winograd_outputs(Kind::kInputGradient, g, winograd)) {
    return winograd_input_gradient(outputs, pool, g, dy, w, dx);
  }
  if (takes_patches(Kind::kInputGradient, g)) return patches_input_gradient(pool, g, dy, w, dx);
  const bool direct = fits(g);
  const Geometry inner = direct ? g : windowed(g);
  for_each_chunk(pool, Kind::kInputGradient, g, inner, false, w,
                 [&](int64_t first, int64_t images, const Prepared& prepared) {
    const Plan& plan = *prepared.plan;
    const Geometry part = of_images(g, images);
    float* result = dx + first * g.h * g.w * g.cin;
    float* target = direct ? result : window_buffer().floats(window_count(part));
    execute(plan.primitive, plan.scratch,
            {{DNNL_ARG_DIFF_DST, memory_at(plan.y, dy + first * g.oh * g.ow * g.cout)},
             {DNNL_ARG_WEIGHTS, memory_at(plan.w, prepared.w)},
             {DNNL_ARG_DIFF_SRC, memory_at(plan.x, target)}});
    if (!direct) from_window(part, target, result);
  });
}

namespace {

// The kernel's gradient, but for filtering's.
void kernel_gradient(Pool& pool, const Geometry& g, const float* x, Cotangents from, float* dw) {
  if (g.n == 0 || g.oh == 0 || g.ow == 0) {
    std::fill_n(dw, g.kernel_floats(), 0.0f);
    return;
  }
  if (takes_patches(Kind::kKernelGradient, g)) return patches_kernel_gradient(pool, g, x, from, dw);
  const bool direct = fits(g);
  const Geometry inner = direct ? g : windowed(g);
  const int64_t threads = worthwhile_threads(pool, g.flops());
  const int64_t kernel_floats = g.kernel_floats();
  const int64_t image = std::max<int64_t>(image_floats(inner), 1);
  // A share's sum must be no larger than the images that it is over, or sums cost more than shares
  // save; and a chunk's gradient, added to its share's sum, must be small beside its images.
  const int64_t shares =
      std::clamp<int64_t>(g.n * image / kernel_floats, 1, std::min(threads, g.n));
  const int64_t worth_adding = 4 * kernel_floats / image + 1;
  const int64_t size = std::min(std::max(images_in_cache(inner), worth_adding),
                                ceil_div(g.n, shares));

  // Partial sums are added as they lie in the layout of the whole chunks' plan.
  const auto plan_of = [&](int64_t images) {
    return plan_for(Kind::kKernelGradient, of_images(inner, images));
  };
  const auto layout = plan_of(size);
  const int64_t used = layout->w.get_size() / sizeof(float);
  const int64_t stride = (used + 15) / 16 * 16;
  Buffer sums_buffer;
  float* sums = sums_buffer.floats(shares * stride);

  for_each_share(pool, threads, shares, [&](int64_t share) {
    thread_local Buffer part_buffer, relaid_buffer;
    const int64_t begin = g.n * share / shares, end = g.n * (share + 1) / shares;
    const Chunks chunks(end - begin, size);
    float* sum = sums + share * stride;
    for (int64_t i = 0; i < chunks.count; ++i) {
      const int64_t images = chunks.images(i), first = begin + i * size;
      const auto plan = images == size ? layout : plan_of(images);
      float* target = i == 0 ? sum : part_buffer.floats(stride);
      const bool as_laid = plan->w == layout->w;
      float* written = as_laid ? target
                               : static_cast<float*>(relaid_buffer.bytes(plan->w.get_size()));
      const float* source = x + first * g.h * g.w * g.cin;
      if (!direct) source = to_window(of_images(g, images), source, window_buffer());
      const float* cotangent = from.images(g, first, images, output_buffer());
      execute(plan->primitive, plan->scratch,
              {{DNNL_ARG_SRC, memory_at(plan->x, source)},
               {DNNL_ARG_DIFF_DST, memory_at(plan->y, cotangent)},
               {DNNL_ARG_DIFF_WEIGHTS, memory_at(plan->w, written)}});
      if (!as_laid) Reorder(plan->w, layout->w).run(written, target);
      if (i > 0) add_to(sum, target, used);
    }
  });

  constexpr int64_t kBlock = 1 << 15;
  for_each_share(pool, shares, shares > 1 ? ceil_div(used, kBlock) : 0, [&](int64_t block) {
    const int64_t first = block * kBlock, count = std::min(kBlock, used - first);
    for (int64_t share = 1; share < shares; ++share) {
      add_to(sums + first, sums + share * stride + first, count);
    }
  });
  OneThread one;
  if (layout->kernel.needed()) {
    layout->kernel.run(sums, dw);
  } else {
    std::copy_n(sums, kernel_floats, dw);
  }
}

}  // namespace

void conv_kernel_gradient(Pool& pool, const Geometry& g, const float* x, const float* dy,
                          float* dw, int64_t winograd) {
  const auto outputs = g.n > 0 ? winograd_outputs(Kind::kKernelGradient, g, winograd) : 0;
  if (outputs) return winograd_kernel_gradient(outputs, pool, g, x, dy, dw);
  kernel_gradient(pool, g, x, {dy}, dw);
}

void conv_pool_kernel_gradient(Pool& pool, const Geometry& g, const float* x, const float* dy,
                               const uint8_t* winner, float* dw) {
  kernel_gradient(pool, g, x, {dy, winner}, dw);
}

std::string conv_implementation(Kind kind, const Geometry& geometry, int64_t winograd) {
  if (const auto outputs = winograd_outputs(kind, geometry, winograd)) {
    const std::string side = std::to_string(outputs);
    return "winograd " + side + "x" + side;
  }
  if (takes_patches(kind, geometry)) return "patches";
  OneThread one;
  const Geometry one_image = of_images(geometry, 1);
  return make_plan(kind, fits(one_image) ? one_image : windowed(one_image), false,
                   /*compile=*/false).implementation;
}

size_t conv_cache_size() { return plans().size(); }

}  // namespace funcnet
