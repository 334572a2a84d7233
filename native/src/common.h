// What the kernels share: work spread over XLA's threads, oneDNN kept to one thread each, memory
// per thread, and a bounded cache of what is expensive to make.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <oneapi/dnnl/dnnl.hpp>
#include <thread>
#include <utility>

#if DNNL_CPU_RUNTIME != DNNL_RUNTIME_OMP && DNNL_CPU_RUNTIME != DNNL_RUNTIME_SEQ
#error "funcnet_native needs a oneDNN built for OpenMP or for one thread: it brings its own threads"
#endif

namespace funcnet {

// Somebody else's threads. `schedule` may run its task at once, later on any thread, or after the
// call that scheduled it has long returned.
class Pool {
 public:
  virtual ~Pool() = default;
  virtual int64_t threads() const = 0;
  virtual void schedule(std::function<void()> task) = 0;
};

// Keeps oneDNN to the calling thread while it lives. OpenMP's setting belongs to the thread, which
// may be the user's own (torch in the same process reads it too), so it is put back.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

// Calls share(0) .. share(shares - 1) on up to `threads` threads, the caller's among them, and
// returns when all are done. Whoever is free takes the next one. The caller waits only for shares
// that another thread has begun, and a share waits for nobody: a pool with one thread, or with
// none free, cannot lock up, and tasks that come too late find nothing left to do. The first
// exception of a share is thrown again here.
inline void for_each_share(Pool& pool, int64_t threads, int64_t shares,
                           const std::function<void(int64_t)>& share) {
  if (shares <= 1 || threads <= 1) {
    OneThread one;
    for (int64_t i = 0; i < shares; ++i) share(i);
    return;
  }
  struct Work {
    const std::function<void(int64_t)>* share;  // outlives every share, not every late task
    int64_t shares;
    std::atomic<int64_t> next{0};
    std::atomic<int64_t> done{0};
    std::mutex mutex;
    std::condition_variable finished;
    std::exception_ptr error;

    void take() {
      OneThread one;
      for (int64_t i; (i = next.fetch_add(1)) < shares;) {
        try {
          (*share)(i);
        } catch (...) {
          std::lock_guard<std::mutex> lock(mutex);
          if (!error) error = std::current_exception();
        }
        if (done.fetch_add(1) + 1 == shares) {
          std::lock_guard<std::mutex> lock(mutex);  // or the wait below could miss the notice
          finished.notify_all();
        }
      }
    }
  };
  auto work = std::make_shared<Work>();
  work->share = &share;
  work->shares = shares;
  for (int64_t i = 1; i < std::min(threads, shares); ++i) pool.schedule([work] { work->take(); });
  work->take();
  // What is left is some microseconds of another thread's share: worth a few turns before sleeping.
  for (int turn = 0; turn < 64 && work->done.load() < shares; ++turn) std::this_thread::yield();
  std::unique_lock<std::mutex> lock(work->mutex);
  work->finished.wait(lock, [&] { return work->done.load() == shares; });
  if (work->error) std::rethrow_exception(work->error);
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How many threads a piece of work is worth: a thread is woken for some tens of microseconds.
inline int64_t worthwhile_threads(const Pool& pool, double flops) {
  constexpr double kFlopsPerThread = 4e6;
  const auto worth = static_cast<int64_t>(std::min(flops / kFlopsPerThread, 1e6));
  return std::clamp<int64_t>(worth, 1, std::max<int64_t>(pool.threads(), 1));
}

// Aligned memory that grows and is not filled.
class Buffer {
 public:
  float* floats(int64_t count) { return static_cast<float*>(bytes(count * sizeof(float))); }
  void* bytes(size_t size) {
    if (size > size_) {
      data_.reset();
      size_ = 0;
      const size_t rounded = (size + 63) / 64 * 64;
      data_.reset(std::aligned_alloc(64, rounded));
      if (!data_) throw std::bad_alloc();
      size_ = rounded;
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  std::unique_ptr<void, Free> data_;
  size_t size_ = 0;
};

// The last `capacity` values asked for, made when first asked for. Values are shared, so that one
// in use survives its eviction.
template <typename Key, typename Value>
class Cache {
 public:
  explicit Cache(size_t capacity) : capacity_(capacity) {}

  template <typename Make>
  std::shared_ptr<const Value> get(const Key& key, Make make) {
    std::lock_guard<std::mutex> lock(mutex_);  // also while making: nobody makes a thing twice
    auto found = places_.find(key);
    if (found != places_.end()) {
      recent_.splice(recent_.begin(), recent_, found->second);
      return found->second->second;
    }
    std::shared_ptr<const Value> value = make();
    recent_.emplace_front(key, value);
    places_[key] = recent_.begin();
    if (recent_.size() > capacity_) {
      places_.erase(recent_.back().first);
      recent_.pop_back();
    }
    return value;
  }

  size_t size() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return recent_.size();
  }

 private:
  using Recent = std::list<std::pair<Key, std::shared_ptr<const Value>>>;
  const size_t capacity_;
  mutable std::mutex mutex_;
  Recent recent_;
  std::map<Key, typename Recent::iterator> places_;
};

}  // namespace funcnet
