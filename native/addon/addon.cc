// Bindings: check, convert, call. The interface is documented in src/engine/native.ts.
#include <napi.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <new>

#include "engine/dense_net.h"
#include "engine/sparse_engine.h"
#include "engine/thread_pool.h"
#include "kernels/kernel_table.h"

namespace terabag {
namespace {

constexpr uint32_t kMaxItems = 1u << 24;
constexpr uint32_t kMaxDim = 1u << 30;

Napi::Error argument_error(Napi::Env env, const std::string& what) { return Napi::TypeError::New(env, what); }

Napi::Value member(const Napi::Object& object, const char* name) { return object.Get(name); }

// A whole number in [least, most], never a truncated one.
uint64_t integer(const Napi::Value& value, const char* name, uint64_t least, uint64_t most) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= static_cast<double>(least)) || number > static_cast<double>(most) ||
      number != static_cast<double>(static_cast<uint64_t>(number))) {
    throw argument_error(value.Env(),
                         std::string(name) + " has to be an integer between " + std::to_string(least) + " and " + std::to_string(most));
  }
  return static_cast<uint64_t>(number);
}
uint64_t integer(const Napi::Object& object, const char* name, uint64_t most) { return integer(member(object, name), name, 0, most); }

std::string text(const Napi::Object& object, const char* name) {
  const Napi::Value value = member(object, name);
  if (!value.IsString()) throw argument_error(object.Env(), std::string(name) + " has to be a string");
  return value.As<Napi::String>();
}

template <typename T>
T typed(const Napi::CallbackInfo& info, size_t at, napi_typedarray_type type, const char* name) {
  if (!info[at].IsTypedArray() || info[at].As<Napi::TypedArray>().TypedArrayType() != type) {
    throw argument_error(info.Env(), std::string(name) + " has to be a typed array of the documented type");
  }
  return info[at].As<T>();
}
Napi::Uint8Array bytes(const Napi::CallbackInfo& info, size_t at, const char* name) {
  return typed<Napi::Uint8Array>(info, at, napi_uint8_array, name);
}
Napi::Float32Array floats(const Napi::CallbackInfo& info, size_t at, const char* name) {
  return typed<Napi::Float32Array>(info, at, napi_float32_array, name);
}

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
    std::function<Napi::Value(Napi::Env)> failure;
  };

  explicit Environment(Napi::Env env) {
    napi_value name = Napi::String::New(env, "terabag");
    napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, nullptr, settle, &to_thread_);
    napi_unref_threadsafe_function(env, to_thread_);
    // Added after the function's own hook, so it runs before it: no thread uses the function, a buffer or this object afterwards.
    napi_add_env_cleanup_hook(env, [](void* self) { static_cast<Environment*>(self)->wait(); }, this);
  }

  Napi::Value run(const Napi::CallbackInfo& info, std::function<void()> work, std::function<Napi::Value(Napi::Env)> failure,
                  std::function<void(napi_env)> settled = nullptr) {
    const Napi::Env env = info.Env();
    Napi::Array kept = Napi::Array::New(env, info.Length() + 1);
    for (uint32_t i = 0; i < info.Length(); ++i) kept.Set(i, info[i]);
    kept.Set(static_cast<uint32_t>(info.Length()), info.This());
    auto job = std::make_unique<Job>(Job{this, std::move(work), std::move(settled), nullptr, nullptr, std::move(failure)});
    napi_value promise;
    if (napi_create_promise(env, &job->deferred, &promise) != napi_ok || napi_create_reference(env, kept, 1, &job->arguments) != napi_ok) {
      throw Napi::Error::New(env, "a job cannot be started");
    }
    if (unsettled_++ == 0) napi_ref_threadsafe_function(env, to_thread_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ++running_;
    }
    ThreadPool::shared().submit([job = job.release()] {
      job->work();
      Environment* environment = job->environment;
      if (napi_call_threadsafe_function(environment->to_thread_, job, napi_tsfn_nonblocking) != napi_ok) delete job;
      // The lock is held while notifying: the waiter may destroy this object as soon as it is free.
      std::lock_guard<std::mutex> lock(environment->mutex_);
      --environment->running_;
      environment->idle_.notify_all();
    });
    return {env, promise};
  }

 private:
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    idle_.wait(lock, [this] { return running_ == 0; });
  }

  // No wrapper that throws is used for what can fail while a worker is being terminated.
  static void settle(napi_env env, napi_value, void*, void* data) {
    const std::unique_ptr<Job> job(static_cast<Job*>(data));
    if (env == nullptr) return;
    if (--job->environment->unsettled_ == 0) napi_unref_threadsafe_function(env, job->environment->to_thread_);
    if (job->settle) job->settle(env);
    napi_value value = nullptr;
    bool failed = false;
    try {
      const Napi::Value failure = job->failure(Napi::Env(env));
      failed = !failure.IsUndefined();
      value = failure;
    } catch (const Napi::Error&) {
      value = nullptr;  // The environment runs no JavaScript any more.
    }
    if (value != nullptr) failed ? napi_reject_deferred(env, job->deferred, value) : napi_resolve_deferred(env, job->deferred, value);
    napi_delete_reference(env, job->arguments);
  }

  napi_threadsafe_function to_thread_ = nullptr;
  uint64_t unsettled_ = 0;  // On the environment's thread only.
  std::mutex mutex_;
  std::condition_variable idle_;
  uint64_t running_ = 0;
};

Napi::Value status_error(Napi::Env env, const PoolStatus& status) {
  if (status.status == nullptr) return env.Undefined();
  Napi::Object error = Napi::Error::New(env, std::string(status.status) + ": segment " + std::to_string(status.segment) + ", value " +
                                                 std::to_string(status.value) + ", limit " + std::to_string(status.limit))
                           .Value();
  error.Set("status", status.status);
  error.Set("segment", Napi::Number::New(env, status.segment));
  error.Set("bag", Napi::Number::New(env, status.bag));
  error.Set("position", Napi::Number::New(env, static_cast<double>(status.position)));
  error.Set("value", std::to_string(status.value));
  error.Set("limit", std::to_string(status.limit));
  return error;
}

const KernelTable& kernels(Napi::Env env) {
  const KernelTable* table = selected_kernels();
  if (table != nullptr) return *table;
  std::string names;
  for (const char* const* name = available_kernels(); *name != nullptr; ++name) names += std::string(names.empty() ? "" : ", ") + *name;
  throw Napi::Error::New(env, "TERABAG_ISA names kernels that do not run here; this build and CPU have: " + names);
}

class SparseEngineObject : public Napi::ObjectWrap<SparseEngineObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "SparseEngine",
                       {InstanceMethod<&SparseEngineObject::pool_sync>("poolSync"), InstanceMethod<&SparseEngineObject::pool>("pool"),
                        InstanceMethod<&SparseEngineObject::populate>("populate"), InstanceMethod<&SparseEngineObject::close>("close")});
  }
  explicit SparseEngineObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<SparseEngineObject>(info) {
    if (!info[0].IsArray()) throw argument_error(info.Env(), "tables have to be an array");
    auto engine = std::make_shared<SparseEngine>(kernels(info.Env()));
    const Napi::Array tables = info[0].As<Napi::Array>();
    for (uint32_t i = 0; i < tables.Length(); ++i) {
      const Napi::Value entry = tables[i];
      if (!entry.IsObject()) throw argument_error(info.Env(), "a table has to be an object");
      const Napi::Object table = entry.As<Napi::Object>();
      constexpr uint64_t kSafe = (1ull << 53) - 1;
      TableView view{};
      view.table = static_cast<uint32_t>(integer(table, "table", UINT32_MAX));
      view.part = static_cast<uint32_t>(integer(table, "part", UINT32_MAX));
      view.parts = static_cast<uint32_t>(integer(table, "parts", UINT32_MAX));
      view.num_rows = integer(table, "rows", kSafe);
      view.dim = static_cast<uint32_t>(integer(table, "dim", 1u << 16));
      const std::string format = text(table, "format");
      if (format != "fp32" && format != "fp16" && format != "bf16")
        throw argument_error(info.Env(), "format has to be fp32, fp16 or bf16: " + format);
      view.format = format == "fp32" ? RowFormat::kFp32 : format == "fp16" ? RowFormat::kFp16 : RowFormat::kBf16;
      std::string error;
      if (!engine->add(view, text(table, "path"), integer(table, "byteOffset", kSafe), integer(table, "firstRow", kSafe),
                       integer(table, "rowStep", kSafe), &error)) {
        throw Napi::Error::New(info.Env(), error);
      }
    }
    engine_ = std::move(engine);
  }

 private:
  PoolRequest request(const Napi::CallbackInfo& info) {
    if (engine_ == nullptr) throw Napi::Error(info.Env(), status_error(info.Env(), {"closed", 0, 0, 0, 0, 0}));
    Napi::Uint8Array segments = bytes(info, 0, "segments"), indices = bytes(info, 2, "indices"), offsets = bytes(info, 3, "offsets");
    const double index_bytes = info[1].IsNumber() ? info[1].As<Napi::Number>().DoubleValue() : 0;
    if (index_bytes != 4 && index_bytes != 8) throw argument_error(info.Env(), "indexBytes has to be 4 or 8");
    Napi::Float32Array out = floats(info, 5, "out");
    PoolRequest request{segments.Data(),
                        segments.ByteLength(),
                        static_cast<uint32_t>(index_bytes),
                        indices.Data(),
                        indices.ByteLength(),
                        offsets.Data(),
                        offsets.ByteLength(),
                        nullptr,
                        0,
                        out.Data(),
                        out.ElementLength()};
    if (!info[4].IsNull()) {
      Napi::Uint8Array weights = bytes(info, 4, "weights");
      request.weights = weights.Data();
      request.weights_bytes = weights.ByteLength();
    }
    return request;
  }
  void pool_sync(const Napi::CallbackInfo& info) {
    const PoolRequest checked = request(info);
    const PoolStatus status = engine_->pool(checked);
    const Napi::Value error = status_error(info.Env(), status);
    if (!error.IsUndefined()) throw Napi::Error(info.Env(), error);
  }
  Napi::Value pool(const Napi::CallbackInfo& info) {
    auto status = std::make_shared<PoolStatus>();
    const PoolRequest checked = request(info);
    return info.Env().GetInstanceData<Environment>()->run(
        info, [engine = engine_, checked, status] { *status = engine->pool(checked); },
        [status](Napi::Env env) { return status_error(env, *status); });
  }
  Napi::Value populate(const Napi::CallbackInfo& info) {
    if (engine_ == nullptr) throw Napi::Error(info.Env(), status_error(info.Env(), {"closed", 0, 0, 0, 0, 0}));
    return info.Env().GetInstanceData<Environment>()->run(
        info, [engine = engine_] { engine->populate(); }, [](Napi::Env env) { return env.Undefined(); });
  }
  void close(const Napi::CallbackInfo&) {
    // Unmapping gigabytes takes milliseconds, which the event loop does not have.
    if (engine_ != nullptr) ThreadPool::shared().submit([engine = std::move(engine_)] {});
    engine_.reset();
  }

  std::shared_ptr<const SparseEngine> engine_;
};

AlignedFloats copy_floats(const Napi::Object& layer, const char* name) {
  const Napi::Value value = member(layer, name);
  if (value.IsNull()) return {};
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float32_array)
    throw argument_error(layer.Env(), std::string(name) + " has to be a Float32Array or null");
  const auto array = value.As<Napi::Float32Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}

std::vector<uint32_t> integers(const Napi::Value& value, const char* name, uint64_t least, uint64_t most) {
  if (!value.IsArray()) throw argument_error(value.Env(), std::string(name) + " has to be an array");
  const auto array = value.As<Napi::Array>();
  std::vector<uint32_t> result;
  for (uint32_t i = 0; i < array.Length(); ++i) result.push_back(static_cast<uint32_t>(integer(array[i], name, least, most)));
  return result;
}

Layer layer_of(const Napi::Object& object) {
  const std::string op = text(object, "op"), activation = text(object, "activation");
  Layer layer{};
  if (op != "fc" && op != "dot_interaction" && op != "concat" && op != "sum") throw argument_error(object.Env(), "unknown op: " + op);
  if (activation != "none" && activation != "relu" && activation != "sigmoid")
    throw argument_error(object.Env(), "unknown activation: " + activation);
  layer.op = op == "fc" ? Op::kFc : op == "dot_interaction" ? Op::kDotInteraction : op == "concat" ? Op::kConcat : Op::kSum;
  layer.activation = activation == "relu" ? Activation::kRelu : activation == "sigmoid" ? Activation::kSigmoid : Activation::kNone;
  layer.inputs = integers(member(object, "inputs"), "inputs", 0, UINT32_MAX);
  layer.dim = static_cast<uint32_t>(integer(object, "dim", kMaxDim));
  layer.stage = static_cast<uint32_t>(integer(object, "stage", 1));
  layer.diagonal = member(object, "diagonal").ToBoolean();
  layer.weight = copy_floats(object, "weight");
  layer.bias = copy_floats(object, "bias");
  return layer;
}

class DenseNetObject : public Napi::ObjectWrap<DenseNetObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "DenseNet",
                       {InstanceMethod<&DenseNetObject::create_workspace>("createWorkspace"),
                        InstanceMethod<&DenseNetObject::run_sync>("runSync"), InstanceMethod<&DenseNetObject::run>("run")});
  }
  explicit DenseNetObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<DenseNetObject>(info) {
    std::vector<Layer> layers;
    if (!info[2].IsArray()) throw argument_error(info.Env(), "layers have to be an array");
    const Napi::Array given = info[2].As<Napi::Array>();
    for (uint32_t i = 0; i < given.Length(); ++i) {
      const Napi::Value entry = given[i];
      if (!entry.IsObject()) throw argument_error(info.Env(), "a layer has to be an object");
      layers.push_back(layer_of(entry.As<Napi::Object>()));
    }
    std::string error;
    net_ = std::make_shared<DenseNet>(kernels(info.Env()), integers(info[0], "inputDims", 1, kMaxDim),
                                      static_cast<uint32_t>(integer(info[1], "numDense", 0, UINT32_MAX)), std::move(layers),
                                      static_cast<uint32_t>(integer(info[3], "output", 0, UINT32_MAX)), &error);
    if (!error.empty()) throw Napi::Error::New(info.Env(), error);
  }

 private:
  static constexpr napi_type_tag kWorkspaceTag = {0x7e7ab46d00c0ffeeull, 0x5f3ca11ed0017001ull};

  Napi::Value create_workspace(const Napi::CallbackInfo& info) {
    auto external = Napi::External<Workspace>::New(info.Env(), new Workspace(), [](Napi::Env, Workspace* workspace) { delete workspace; });
    external.TypeTag(&kWorkspaceTag);
    return external;
  }
  // A checked run. All of it that allocates was done before.
  struct Run {
    const DenseNet& net;
    Workspace& workspace;
    uint32_t stage;
    const float* dense;
    const float* pooled;
    float* scores;
    void operator()() const { net.run(workspace, stage, dense, pooled, scores); }
  };
  Run checked_run(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    if (!info[0].IsExternal() || !info[0].As<Napi::External<Workspace>>().CheckTypeTag(&kWorkspaceTag))
      throw argument_error(env, "workspace has to come from createWorkspace");
    Workspace& workspace = *info[0].As<Napi::External<Workspace>>().Data();
    const auto stage = static_cast<uint32_t>(integer(info[1], "stage", 0, 1));
    const auto items = static_cast<uint32_t>(integer(info[2], "items", 1, kMaxItems));
    Napi::Uint8Array per_item = bytes(info, 3, "perItem");
    Napi::Float32Array dense = floats(info, 4, "dense");
    if (per_item.ElementLength() != net_->num_inputs()) throw argument_error(env, "perItem has to have one entry per input");
    const uint8_t* flags = per_item.Data();
    if (dense.ElementLength() != net_->input_length(0, net_->num_dense(), items, flags))
      throw argument_error(env, "dense has another length than the features need");
    const float* pooled = nullptr;
    float* scores = nullptr;
    if (stage == 1) {
      Napi::Float32Array pooled_array = floats(info, 5, "pooled"), output = floats(info, 6, "output");
      if (pooled_array.ElementLength() != net_->input_length(net_->num_dense(), net_->num_inputs(), items, flags))
        throw argument_error(env, "pooled has another length than the bags need");
      if (output.ElementLength() != static_cast<uint64_t>(items) * net_->output_dim())
        throw argument_error(env, "output has to be [items, output dim]");
      pooled = pooled_array.Data();
      scores = output.Data();
    }
    // Stage 1 reads what stage 0 left in the workspace, and only that of the same net, items and features.
    if (workspace.busy) throw argument_error(env, "workspace is in use by another run");
    if (stage == 1 && !net_->staged(workspace, items, flags))
      throw argument_error(env, "stage 1 needs stage 0 on the same workspace with the same items and perItem");
    try {
      net_->prepare(workspace, stage, items, flags);
    } catch (const std::bad_alloc&) {
      throw Napi::Error::New(env, "no memory for a run of this many items: " + std::to_string(items));
    }
    return {*net_, workspace, stage, dense.Data(), pooled, scores};
  }
  void run_sync(const Napi::CallbackInfo& info) { checked_run(info)(); }
  Napi::Value run(const Napi::CallbackInfo& info) {
    const Run run = checked_run(info);
    const Napi::Value promise = info.Env().GetInstanceData<Environment>()->run(
        info, [net = net_, run] { run(); }, [](Napi::Env env) { return env.Undefined(); },
        [&workspace = run.workspace](napi_env) { workspace.busy = false; });
    run.workspace.busy = true;
    return promise;
  }

  std::shared_ptr<const DenseNet> net_;
};

Napi::Value list_kernels(const Napi::CallbackInfo& info) {
  Napi::Array names = Napi::Array::New(info.Env());
  for (const char* const* name = available_kernels(); *name != nullptr; ++name) names.Set(names.Length(), *name);
  return names;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Environment(env));
  exports.Set("isa", kernels(env).name);
  exports.Set("availableKernels", Napi::Function::New(env, list_kernels));
  exports.Set("SparseEngine", SparseEngineObject::define(env));
  exports.Set("DenseNet", DenseNetObject::define(env));
  return exports;
}

}  // namespace
}  // namespace terabag

static Napi::Object init_terabag(Napi::Env env, Napi::Object exports) { return terabag::init(env, exports); }
NODE_API_MODULE(terabag, init_terabag)
