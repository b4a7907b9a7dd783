// Bindings: check, convert, call. The interface is documented in src/engine/native.ts.
#include <napi.h>

#include <functional>
#include <memory>

#include "engine/dense_net.h"
#include "engine/sparse_engine.h"
#include "kernels/kernel_table.h"

namespace terabag {
namespace {

constexpr uint32_t kMaxItems = 1u << 24;

Napi::Error argument_error(Napi::Env env, const std::string& what) { return Napi::TypeError::New(env, what); }

Napi::Value member(const Napi::Object& object, const char* name) { return object.Get(name); }

uint64_t integer(const Napi::Object& object, const char* name, uint64_t most) {
  const Napi::Value value = member(object, name);
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 0) || number > static_cast<double>(most) || number != static_cast<double>(static_cast<uint64_t>(number))) {
    throw argument_error(object.Env(), std::string(name) + " has to be an integer between 0 and " + std::to_string(most));
  }
  return static_cast<uint64_t>(number);
}

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
Napi::Uint8Array bytes(const Napi::CallbackInfo& info, size_t at, const char* name) { return typed<Napi::Uint8Array>(info, at, napi_uint8_array, name); }
Napi::Float32Array floats(const Napi::CallbackInfo& info, size_t at, const char* name) { return typed<Napi::Float32Array>(info, at, napi_float32_array, name); }

// Runs a job off the event loop; the arguments stay referenced until it is settled.
class Job : public Napi::AsyncWorker {
 public:
  Job(const Napi::CallbackInfo& info, std::function<void()> work, std::function<Napi::Value(Napi::Env)> failure)
      : Napi::AsyncWorker(info.Env()), deferred_(Napi::Promise::Deferred::New(info.Env())), work_(std::move(work)), failure_(std::move(failure)) {
    Napi::Array kept = Napi::Array::New(info.Env(), info.Length() + 1);
    for (uint32_t i = 0; i < info.Length(); ++i) kept.Set(i, info[i]);
    kept.Set(static_cast<uint32_t>(info.Length()), info.This());
    arguments_ = Napi::Persistent(kept.As<Napi::Object>());
  }
  Napi::Promise promise() const { return deferred_.Promise(); }

 private:
  void Execute() override { work_(); }
  void OnOK() override {
    Napi::Value failure = failure_(Env());
    if (failure.IsUndefined()) {
      deferred_.Resolve(Env().Undefined());
    } else {
      deferred_.Reject(failure);
    }
  }
  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

  Napi::Promise::Deferred deferred_;
  std::function<void()> work_;
  std::function<Napi::Value(Napi::Env)> failure_;
  Napi::ObjectReference arguments_;
};

Napi::Value status_error(Napi::Env env, const PoolStatus& status) {
  if (status.status == nullptr) return env.Undefined();
  Napi::Object error = Napi::Error::New(env, std::string(status.status) + ": segment " + std::to_string(status.segment) + ", value " +
                                                 std::to_string(status.value) + ", limit " + std::to_string(status.limit)).Value();
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
    return DefineClass(env, "SparseEngine", {InstanceMethod<&SparseEngineObject::pool_sync>("poolSync"), InstanceMethod<&SparseEngineObject::pool>("pool"), InstanceMethod<&SparseEngineObject::close>("close")});
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
      if (format != "fp32" && format != "fp16" && format != "bf16") throw argument_error(info.Env(), "format has to be fp32, fp16 or bf16: " + format);
      view.format = format == "fp32" ? RowFormat::kFp32 : format == "fp16" ? RowFormat::kFp16 : RowFormat::kBf16;
      std::string error;
      if (!engine->add(view, text(table, "path"), integer(table, "byteOffset", kSafe), integer(table, "firstRow", kSafe), integer(table, "rowStep", kSafe), &error)) {
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
    PoolRequest request{segments.Data(), segments.ByteLength(), static_cast<uint32_t>(index_bytes), indices.Data(), indices.ByteLength(), offsets.Data(), offsets.ByteLength(), nullptr, 0, out.Data(), out.ElementLength()};
    if (!info[4].IsNull()) {
      Napi::Uint8Array weights = bytes(info, 4, "weights");
      request.weights = weights.Data();
      request.weights_bytes = weights.ByteLength();
    }
    return request;
  }
  void pool_sync(const Napi::CallbackInfo& info) {
    const PoolStatus status = (request(info), engine_->pool(request(info)));
    const Napi::Value error = status_error(info.Env(), status);
    if (!error.IsUndefined()) throw Napi::Error(info.Env(), error);
  }
  Napi::Value pool(const Napi::CallbackInfo& info) {
    auto status = std::make_shared<PoolStatus>();
    auto* job = new Job(info, [engine = engine_, request = request(info), status] { *status = engine->pool(request); }, [status](Napi::Env env) { return status_error(env, *status); });
    const Napi::Promise promise = job->promise();
    job->Queue();
    return promise;
  }
  void close(const Napi::CallbackInfo&) { engine_.reset(); }

  std::shared_ptr<const SparseEngine> engine_;
};

std::vector<float> copy_floats(const Napi::Object& layer, const char* name) {
  const Napi::Value value = member(layer, name);
  if (value.IsNull()) return {};
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float32_array) throw argument_error(layer.Env(), std::string(name) + " has to be a Float32Array or null");
  const auto array = value.As<Napi::Float32Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}

std::vector<uint32_t> integers(const Napi::Value& value, const char* name) {
  if (!value.IsArray()) throw argument_error(value.Env(), std::string(name) + " has to be an array");
  const auto array = value.As<Napi::Array>();
  std::vector<uint32_t> result;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::Value entry = array[i];
    if (!entry.IsNumber()) throw argument_error(value.Env(), std::string(name) + " has to hold integers");
    result.push_back(entry.As<Napi::Number>().Uint32Value());
  }
  return result;
}

Layer layer_of(const Napi::Object& object) {
  const std::string op = text(object, "op"), activation = text(object, "activation");
  Layer layer{};
  if (op != "fc" && op != "dot_interaction" && op != "concat" && op != "sum") throw argument_error(object.Env(), "unknown op: " + op);
  if (activation != "none" && activation != "relu" && activation != "sigmoid") throw argument_error(object.Env(), "unknown activation: " + activation);
  layer.op = op == "fc" ? Op::kFc : op == "dot_interaction" ? Op::kDotInteraction : op == "concat" ? Op::kConcat : Op::kSum;
  layer.activation = activation == "relu" ? Activation::kRelu : activation == "sigmoid" ? Activation::kSigmoid : Activation::kNone;
  layer.inputs = integers(member(object, "inputs"), "inputs");
  layer.dim = static_cast<uint32_t>(integer(object, "dim", 1u << 30));
  layer.stage = static_cast<uint32_t>(integer(object, "stage", 1));
  layer.diagonal = member(object, "diagonal").ToBoolean();
  layer.weight = copy_floats(object, "weight");
  layer.bias = copy_floats(object, "bias");
  return layer;
}

class DenseNetObject : public Napi::ObjectWrap<DenseNetObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "DenseNet", {InstanceMethod<&DenseNetObject::create_workspace>("createWorkspace"), InstanceMethod<&DenseNetObject::run_sync>("runSync"), InstanceMethod<&DenseNetObject::run>("run")});
  }
  explicit DenseNetObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<DenseNetObject>(info) {
    std::vector<Layer> layers;
    if (!info[2].IsArray() || !info[1].IsNumber() || !info[3].IsNumber()) throw argument_error(info.Env(), "DenseNet takes inputDims, numDense, layers, output");
    const Napi::Array given = info[2].As<Napi::Array>();
    for (uint32_t i = 0; i < given.Length(); ++i) {
      const Napi::Value entry = given[i];
      if (!entry.IsObject()) throw argument_error(info.Env(), "a layer has to be an object");
      layers.push_back(layer_of(entry.As<Napi::Object>()));
    }
    std::string error;
    net_ = std::make_shared<DenseNet>(kernels(info.Env()), integers(info[0], "inputDims"), info[1].As<Napi::Number>().Uint32Value(), std::move(layers), info[3].As<Napi::Number>().Uint32Value(), &error);
    if (!error.empty()) throw Napi::Error::New(info.Env(), error);
  }

 private:
  static constexpr napi_type_tag kWorkspaceTag = {0x7e7ab46d00c0ffeeull, 0x5f3ca11ed0017001ull};

  Napi::Value create_workspace(const Napi::CallbackInfo& info) {
    auto external = Napi::External<Workspace>::New(info.Env(), new Workspace(), [](Napi::Env, Workspace* workspace) { delete workspace; });
    external.TypeTag(&kWorkspaceTag);
    return external;
  }
  std::function<void()> work(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    if (!info[0].IsExternal() || !info[0].As<Napi::External<Workspace>>().CheckTypeTag(&kWorkspaceTag)) throw argument_error(env, "workspace has to come from createWorkspace");
    Workspace* workspace = info[0].As<Napi::External<Workspace>>().Data();
    const uint32_t stage = info[1].IsNumber() ? info[1].As<Napi::Number>().Uint32Value() : 2;
    const uint32_t items = info[2].IsNumber() ? info[2].As<Napi::Number>().Uint32Value() : 0;
    if (stage > 1 || items < 1 || items > kMaxItems) throw argument_error(env, "stage has to be 0 or 1 and items between 1 and 2^24");
    Napi::Uint8Array per_item = bytes(info, 3, "perItem");
    Napi::Float32Array dense = floats(info, 4, "dense");
    if (per_item.ElementLength() != net_->num_inputs()) throw argument_error(env, "perItem has to have one entry per input");
    std::vector<uint8_t> flags(per_item.Data(), per_item.Data() + per_item.ElementLength());
    if (dense.ElementLength() != net_->input_length(0, net_->num_dense(), items, flags.data())) throw argument_error(env, "dense has another length than the features need");
    const float* pooled = nullptr;
    float* scores = nullptr;
    if (stage == 1) {
      Napi::Float32Array pooled_array = floats(info, 5, "pooled"), output = floats(info, 6, "output");
      if (pooled_array.ElementLength() != net_->input_length(net_->num_dense(), net_->num_inputs(), items, flags.data())) throw argument_error(env, "pooled has another length than the bags need");
      if (output.ElementLength() != static_cast<uint64_t>(items) * net_->output_dim()) throw argument_error(env, "output has to be [items, output dim]");
      pooled = pooled_array.Data();
      scores = output.Data();
    }
    return [net = net_, workspace, stage, items, flags = std::move(flags), dense = dense.Data(), pooled, scores] { net->run(*workspace, stage, items, flags.data(), dense, pooled, scores); };
  }
  void run_sync(const Napi::CallbackInfo& info) { work(info)(); }
  Napi::Value run(const Napi::CallbackInfo& info) {
    auto* job = new Job(info, work(info), [](Napi::Env env) { return env.Undefined(); });
    const Napi::Promise promise = job->promise();
    job->Queue();
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
