// What the users of oneDNN's primitives share.
#pragma once

#include <stdexcept>
#include <unordered_map>

#include "common.h"

namespace funcnet {

using dnnl::memory;
constexpr auto kFloat = memory::data_type::f32;

inline const dnnl::engine& engine() {
  static const auto* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);  // outlives threads
  return *engine;
}

inline dnnl::stream& stream() {
  thread_local dnnl::stream stream(engine());
  return stream;
}

// The scratchpad that oneDNN works in, one a thread: with the library's own, one primitive on two
// threads gives wrong numbers.
inline Buffer& scratchpad() {
  thread_local Buffer buffer;
  return buffer;
}

inline memory memory_at(const memory::desc& desc, const void* data) {
  return memory(desc, engine(), const_cast<void*>(data));
}

inline dnnl::primitive_attr own_scratchpad() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

inline void execute(const dnnl::primitive& primitive, const memory::desc& scratch,
                    std::unordered_map<int, memory> arguments) {
  arguments.insert_or_assign(DNNL_ARG_SCRATCHPAD,
                             memory_at(scratch, scratchpad().bytes(scratch.get_size())));
  primitive.execute(stream(), arguments);
}

// y (n, m) = op(a) op(b), or y += op(a) op(b); rows of a, b and y are so many floats apart.
inline void sgemm(bool transpose_a, bool transpose_b, int64_t n, int64_t m, int64_t k,
                  const float* a, int64_t a_row, const float* b, int64_t b_row, bool adding,
                  float* y, int64_t y_row) {
  const auto status = dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', n, m, k, 1.0f, a,
                                 a_row, b, b_row, adding ? 1.0f : 0.0f, y, y_row);
  if (status != dnnl_success) throw std::runtime_error("oneDNN's sgemm refused the product");
}

// A change of layout, or none where the two are the same.
struct Reorder {
  memory::desc from, to, scratch;
  dnnl::reorder primitive;

  Reorder() = default;
  Reorder(const memory::desc& from, const memory::desc& to) : from(from), to(to) {
    if (from == to) return;
    dnnl::reorder::primitive_desc desc(engine(), from, engine(), to, own_scratchpad());
    scratch = desc.scratchpad_desc();
    primitive = dnnl::reorder(desc);
  }
  bool needed() const { return from != to; }
  void run(const void* source, void* target) const {
    execute(primitive, scratch,
            {{DNNL_ARG_FROM, memory_at(from, source)}, {DNNL_ARG_TO, memory_at(to, target)}});
  }
};

}  // namespace funcnet
