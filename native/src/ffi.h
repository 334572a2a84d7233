// What the XLA sides of the kernels share: the pool, words for what is wrong, and no throwing.
#pragma once

#include <sstream>
#include <string>
#include <utility>

#include "common.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace funcnet {

using Tensor = ffi::Buffer<ffi::F32, 4>;
using Matrix = ffi::Buffer<ffi::F32, 2>;
using Vector = ffi::Buffer<ffi::F32, 1>;

class XlaPool final : public Pool {
 public:
  explicit XlaPool(ffi::ThreadPool& pool) : pool_(pool), threads_(pool.num_threads()) {}
  int64_t threads() const override { return threads_; }
  void schedule(std::function<void()> task) override { pool_.Schedule(std::move(task)); }

 private:
  ffi::ThreadPool& pool_;
  int64_t threads_;
};

template <typename... Parts>
ffi::Error invalid(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  return ffi::Error::InvalidArgument(message.str());
}

template <typename Dimensions>
std::string shape(const Dimensions& dimensions) {
  std::ostringstream text;
  text << "(";
  const char* comma = "";
  for (const int64_t size : dimensions) {
    text << comma << size;
    comma = ", ";
  }
  text << ")";
  return text.str();
}

// Runs a kernel; nothing may be thrown across XLA's C interface.
template <typename Run>
ffi::Error guarded(Run run) {
  try {
    run();
    return ffi::Error::Success();
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "funcnet_native: out of memory");
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("funcnet_native: oneDNN: ") + error.what());
  }
}

}  // namespace funcnet
