#include "addon/environment.h"

#include <exception>
#include <string>

#include "engine/thread_pool.h"

namespace terabag {

const KernelTable& kernels(Napi::Env env) {
  const KernelTable* table = selected_kernels();
  if (table != nullptr) return *table;
  std::string names;
  for (const char* const* name = available_kernels(); *name != nullptr; ++name) names += std::string(names.empty() ? "" : ", ") + *name;
  throw Napi::Error::New(env, "TERABAG_ISA names kernels that do not run here; this build and CPU have: " + names);
}

Environment::Environment(Napi::Env env) {
  napi_value name = Napi::String::New(env, "terabag");
  napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, nullptr, settle, &to_thread_);
  napi_unref_threadsafe_function(env, to_thread_);
  // Added after the function's own hook, so it runs before it: no thread uses the function, a buffer or this object afterwards.
  napi_add_env_cleanup_hook(env, [](void* self) { static_cast<Environment*>(self)->wait(); }, this);
}

Napi::Value Environment::run(const Napi::CallbackInfo& info, std::function<void()> work, std::function<Napi::Value(Napi::Env)> outcome,
                             std::function<void(napi_env)> settled) {
  const Napi::Env env = info.Env();
  Napi::Array kept = Napi::Array::New(env, info.Length() + 1);
  for (uint32_t i = 0; i < info.Length(); ++i) kept.Set(i, info[i]);
  kept.Set(static_cast<uint32_t>(info.Length()), info.This());
  auto job = std::make_unique<Job>(Job{this, std::move(work), std::move(settled), nullptr, nullptr, std::move(outcome)});
  napi_value promise;
  if (napi_create_promise(env, &job->deferred, &promise) != napi_ok || napi_create_reference(env, kept, 1, &job->arguments) != napi_ok) {
    throw Napi::Error::New(env, "a job cannot be started");
  }
  if (unsettled_++ == 0) napi_ref_threadsafe_function(env, to_thread_);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ++running_;
  }
  const auto work_and_settle = [job = job.get()] {
    job->work();
    Environment* environment = job->environment;
    if (napi_call_threadsafe_function(environment->to_thread_, job, napi_tsfn_nonblocking) != napi_ok) delete job;
    // The lock is held while notifying: the waiter may destroy this object as soon as it is free.
    std::lock_guard<std::mutex> lock(environment->mutex_);
    --environment->running_;
    environment->idle_.notify_all();
  };
  try {
    ThreadPool::shared().submit(work_and_settle);
  } catch (const std::exception& failure) {
    // It will never run: teardown may not wait for it, nor the event loop stay for it, nor its promise and arguments be kept.
    {
      std::lock_guard<std::mutex> lock(mutex_);
      --running_;
    }
    if (--unsettled_ == 0) napi_unref_threadsafe_function(env, to_thread_);
    if (job->settle) job->settle(env);
    napi_resolve_deferred(env, job->deferred, env.Undefined());
    napi_delete_reference(env, job->arguments);
    Napi::Error error = Napi::Error::New(env, std::string("no memory or no thread for a job: ") + failure.what());
    error.Set("status", "out_of_memory");
    throw error;
  }
  job.release();  // The thread's.
  return {env, promise};
}

void Environment::wait() {
  std::unique_lock<std::mutex> lock(mutex_);
  idle_.wait(lock, [this] { return running_ == 0; });
}

// No wrapper that throws is used for what can fail while a worker is being terminated.
void Environment::settle(napi_env env, napi_value, void*, void* data) {
  const std::unique_ptr<Job> job(static_cast<Job*>(data));
  if (env == nullptr) return;
  if (--job->environment->unsettled_ == 0) napi_unref_threadsafe_function(env, job->environment->to_thread_);
  if (job->settle) job->settle(env);
  napi_value value = nullptr;
  bool failed = false;
  try {
    value = job->outcome(Napi::Env(env));
    if (napi_is_error(env, value, &failed) != napi_ok) value = nullptr;
  } catch (const Napi::Error&) {
    value = nullptr;  // The environment runs no JavaScript any more.
  }
  if (value != nullptr) failed ? napi_reject_deferred(env, job->deferred, value) : napi_resolve_deferred(env, job->deferred, value);
  napi_delete_reference(env, job->arguments);
}

}  // namespace terabag
