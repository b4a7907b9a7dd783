#pragma once
#include <napi.h>

#include <string>

#include "addon/arguments.h"
#include "engine/job_clock.h"

namespace terabag {

// Where a call of the engine writes how long it took, in microseconds: fields of a caller's Float64Array, or nowhere when nobody asked.
class CallTimes {
 public:
  enum Field { kQueued, kRan, kCpu, kInteraction, kLayers };

  CallTimes() = default;
  // Arguments at and at + 1: the array, undefined or null when nobody asks, and where its fields start.
  // A call that runs on the calling thread alone takes as much CPU time as time: its clock is not asked.
  CallTimes(const Napi::CallbackInfo& info, size_t at, size_t fields, bool on_threads) {
    if (info.Length() <= at || info[at].IsUndefined() || info[at].IsNull()) return;
    const std::span<double> array = typed<double>(info, at, napi_float64_array, "times");
    const uint64_t start = integer(info[at + 1], "timesAt", 0, UINT32_MAX);
    if (array.size() < fields || start > array.size() - fields) throw argument_error(info.Env(), "times has no room at timesAt");
    out_ = array.data() + start;
    reads_cpu_ = on_threads && out_[kCpu] != 0;
    called_ns_ = steady_ns();
  }

  bool asked() const { return out_ != nullptr; }
  bool reads_cpu() const { return reads_cpu_; }
  void set(Field field, uint64_t ns) const { out_[field] = static_cast<double>(ns) / 1000; }

  // Does the work, on whatever thread it came to.
  template <typename Work>
  void measure(const Work& work) const {
    if (!asked()) return work();
    const uint64_t started_ns = steady_ns();
    set(kQueued, started_ns - called_ns_);
    work();
    set(kRan, steady_ns() - started_ns);
    if (!reads_cpu_) out_[kCpu] = out_[kRan];
  }

 private:
  double* out_ = nullptr;
  bool reads_cpu_ = false;
  uint64_t called_ns_ = 0;
};

}  // namespace terabag
