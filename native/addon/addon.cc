// Bindings: check, convert, call. The interface is documented in src/engine/native.ts.
#include <napi.h>

#include <string>

#include "addon/dense_net_object.h"
#include "addon/environment.h"
#include "addon/pack_rows.h"
#include "addon/socket_object.h"
#include "addon/sparse_engine_object.h"
#include "engine/job_clock.h"
#include "engine/thread_pool.h"
#include "kernels/kernel_table.h"

namespace terabag {
namespace {

Napi::Value list_kernels(const Napi::CallbackInfo& info) {
  Napi::Array names = Napi::Array::New(info.Env());
  for (const char* const* name = available_kernels(); *name != nullptr; ++name) names.Set(names.Length(), *name);
  return names;
}

Napi::Value thread_cpu_us(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(thread_cpu_ns()) / 1000);
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  const std::string settings_error = ThreadPool::settings_error();
  if (!settings_error.empty()) throw Napi::Error::New(env, settings_error);
  env.SetInstanceData(new Environment(env));
  exports.Set("isa", kernels(env).name);
  exports.Set("availableKernels", Napi::Function::New(env, list_kernels));
  exports.Set("threadCpuUs", Napi::Function::New(env, thread_cpu_us));
  exports.Set("packRows", Napi::Function::New(env, pack_rows_async));
  exports.Set("SparseEngine", define_sparse_engine(env));
  exports.Set("precisions", define_precisions(env));
  exports.Set("DenseNet", define_dense_net(env));
  exports.Set("socketsAvailable", define_sockets_available(env));
  exports.Set("Socket", define_socket(env));
  return exports;
}

}  // namespace
}  // namespace terabag

static Napi::Object init_terabag(Napi::Env env, Napi::Object exports) { return terabag::init(env, exports); }
NODE_API_MODULE(terabag, init_terabag)
