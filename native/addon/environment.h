#pragma once
#include <napi.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>

#include "kernels/kernel_table.h"

namespace terabag {

// The kernels in use; throws when TERABAG_ISA names none that runs here.
const KernelTable& kernels(Napi::Env env);

// State of one environment: the way back to its thread, and its jobs in flight.
class Environment {
 public:
  // Settles on the environment's thread; env is null when it is being torn down, and nothing is to be called then.
  struct Job {
    Environment* environment;
    std::function<void()> work;
    std::function<void(napi_env)> settle;
    napi_deferred deferred;
    napi_ref arguments;  // Keeps typed arrays and workspaces until the job is settled.
    std::function<Napi::Value(Napi::Env)> outcome;
  };

  explicit Environment(Napi::Env env);

  // Runs work on a thread of the addon, then settles a promise with its outcome on the environment's thread: an error rejects it. settled
  // is called before that, even when the outcome cannot be told any more. A job that cannot be submitted is settled at once, and an error
  // with status out_of_memory is thrown.
  Napi::Value run(const Napi::CallbackInfo& info, std::function<void()> work, std::function<Napi::Value(Napi::Env)> outcome,
                  std::function<void(napi_env)> settled = nullptr);

 private:
  void wait();
  static void settle(napi_env env, napi_value, void*, void* data);

  napi_threadsafe_function to_thread_ = nullptr;
  uint64_t unsettled_ = 0;  // On the environment's thread only.
  std::mutex mutex_;
  std::condition_variable idle_;
  uint64_t running_ = 0;
};

}  // namespace terabag
