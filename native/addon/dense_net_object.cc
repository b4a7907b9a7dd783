#include "addon/dense_net_object.h"

#include <algorithm>
#include <array>
#include <memory>
#include <new>
#include <utility>

#include "addon/arguments.h"
#include "addon/call_times.h"
#include "addon/environment.h"
#include "engine/dense_net.h"
#include "engine/thread_pool.h"

namespace terabag {
namespace {

constexpr uint32_t kMaxItems = 1u << 24;
constexpr uint32_t kMaxDim = 1u << 30;
constexpr uint32_t kMaxStage = 1u << 16;
constexpr uint32_t kMaxPositions = 1u << 17;

std::vector<AlignedFloats> copy_tensors(const Napi::Object& layer) {
  const Napi::Value given = member(layer, "tensors");
  if (!given.IsArray()) throw argument_error(layer.Env(), "tensors have to be an array");
  std::vector<AlignedFloats> tensors;
  for (uint32_t i = 0; i < given.As<Napi::Array>().Length(); ++i) {
    const Napi::Value value = given.As<Napi::Array>()[i];
    tensors.emplace_back();
    if (value.IsNull()) continue;
    if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float32_array)
      throw argument_error(layer.Env(), "tensors have to be Float32Arrays or null");
    const auto array = value.As<Napi::Float32Array>();
    tensors.back().assign(array.Data(), array.Data() + array.ElementLength());
  }
  return tensors;
}

std::vector<Feature> features_of(const Napi::Value& value) {
  if (!value.IsArray()) throw argument_error(value.Env(), "features has to be an array");
  const auto array = value.As<Napi::Array>();
  std::vector<Feature> features;
  for (uint32_t i = 0; i < array.Length(); ++i) features.push_back(named<Feature>(array[i], "features", kFeatureNames));
  return features;
}

Layer layer_of(const Napi::Object& object) {
  Layer layer{};
  layer.op = named<Op>(member(object, "op"), "op", kOpNames);
  layer.activation = named<Activation>(member(object, "activation"), "activation", kActivationNames);
  layer.inputs = integers(member(object, "inputs"), "inputs", 0, UINT32_MAX);
  layer.dim = static_cast<uint32_t>(integer(object, "dim", kMaxDim));
  layer.stage = static_cast<uint32_t>(integer(object, "stage", kMaxStage));
  layer.positions = static_cast<uint32_t>(integer(object, "positions", kMaxPositions));
  layer.pooling = named<SequencePooling>(member(object, "pooling"), "pooling", kSequencePoolingNames);
  layer.features = features_of(member(object, "features"));
  layer.heads = static_cast<uint32_t>(integer(object, "heads", kMaxDim));
  layer.causal = member(object, "causal").ToBoolean();
  layer.normalizer = member(object, "normalizer").IsNumber() ? member(object, "normalizer").As<Napi::Number>().FloatValue() : 0.0f;
  layer.diagonal = member(object, "diagonal").ToBoolean();
  layer.epsilon = member(object, "epsilon").IsNumber() ? member(object, "epsilon").As<Napi::Number>().FloatValue() : 0.0f;
  layer.tensors = copy_tensors(object);
  return layer;
}

// positions: one for each dim, or nothing when all are vectors.
std::vector<DenseNet::Input> inputs_of(const Napi::Value& dims, const Napi::Value& positions) {
  const std::vector<uint32_t> given = integers(dims, "inputDims", 1, kMaxDim);
  const std::vector<uint32_t> lengths =
      positions.IsUndefined() ? std::vector<uint32_t>(given.size()) : integers(positions, "inputPositions", 0, kMaxPositions);
  if (lengths.size() != given.size()) throw argument_error(dims.Env(), "inputPositions has to have one entry per input");
  std::vector<DenseNet::Input> inputs;
  for (size_t i = 0; i < given.size(); ++i) inputs.push_back({given[i], lengths[i]});
  return inputs;
}

struct NamedPrecision {
  const char* name;
  Precision precision;
  bool runs_here;
};

std::array<NamedPrecision, 3> precisions(const KernelTable& table) {
  return {{{"fp32", Precision::kFp32, true},
           {"bf16", Precision::kBf16, table.fully_connected_bf16 != nullptr},
           {"int8", Precision::kInt8, table.fully_connected_int8 != nullptr}}};
}

Napi::Value list_precisions(const Napi::CallbackInfo& info) {
  Napi::Array names = Napi::Array::New(info.Env());
  for (const auto& [name, precision, runs_here] : precisions(kernels(info.Env()))) {
    if (runs_here) names.Set(names.Length(), name);
  }
  return names;
}

Precision precision_of(Napi::Env env, const Napi::Value& value) {
  if (value.IsUndefined()) return Precision::kFp32;
  const std::string name = value.IsString() ? value.As<Napi::String>() : std::string();
  for (const auto& [known, precision, runs_here] : precisions(kernels(env))) {
    if (runs_here && name == known) return precision;
  }
  throw argument_error(env, "precision has to be one of precisions(): " + name);
}

// Every input has one row, one per item or one per group; groups have an item each, and all items.
void check_groups(Napi::Env env, uint32_t items, std::span<const uint8_t> rows, std::span<const uint32_t> groups) {
  for (const uint8_t kind : rows) {
    if (kind > static_cast<uint8_t>(Rows::kPerGroup)) throw argument_error(env, "rows has to be 0, 1 or 2 for each input");
    if (kind == static_cast<uint8_t>(Rows::kPerGroup) && groups.empty()) throw argument_error(env, "rows per group need groups");
  }
  uint64_t sum = 0;
  bool empty = false;
  for (const uint32_t count : groups) {
    sum += count;
    empty = empty || count == 0;
  }
  if (!groups.empty() && (empty || sum != items)) throw argument_error(env, "groups have to have an item each, and all items");
}

Napi::Error lengths_error(Napi::Env env, const std::string& what) {
  Napi::Error error = Napi::Error::New(env, what);
  error.Set("status", "bad_lengths");
  return error;
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
    net_ = std::make_shared<DenseNet>(kernels(info.Env()), precision_of(info.Env(), info[4]), inputs_of(info[0], info[5]),
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
    CallTimes times;
    void operator()() const {
      times.measure([this] {
        if (!times.asked()) return net.run(workspace, stage, dense, pooled, scores);
        LayerTimes layers{.reads_cpu = times.reads_cpu()};
        net.run(workspace, stage, dense, pooled, scores, &layers);
        times.set(CallTimes::kCpu, layers.cpu_ns);
        times.set(CallTimes::kInteraction, layers.interaction_ns);
        times.set(CallTimes::kLayers, layers.layers_ns);
      });
    }
  };
  // On this many threads of the pool; 0: on the calling one.
  Run checked_run(const Napi::CallbackInfo& info, unsigned num_threads) {
    const Napi::Env env = info.Env();
    if (!info[0].IsExternal() || !info[0].As<Napi::External<Workspace>>().CheckTypeTag(&kWorkspaceTag))
      throw argument_error(env, "workspace has to come from createWorkspace");
    Workspace& workspace = *info[0].As<Napi::External<Workspace>>().Data();
    const auto stage = static_cast<uint32_t>(integer(info[1], "stage", 0, net_->last_stage()));
    const auto items = static_cast<uint32_t>(integer(info[2], "items", 1, kMaxItems));
    const std::span<uint8_t> rows = bytes(info, 3, "rows");
    const std::span<float> dense = floats(info, 4, "dense");
    if (rows.size() != net_->num_inputs()) throw argument_error(env, "rows has to have one entry per input");
    std::span<uint32_t> groups;
    if (info.Length() > 10 && !info[10].IsUndefined() && !info[10].IsNull())
      groups = typed<uint32_t>(info, 10, napi_uint32_array, "groups");
    check_groups(env, items, rows, groups);
    const RunShape shape{items, rows.data(), groups};
    if (dense.size() != net_->input_length(0, net_->num_dense(), shape))
      throw argument_error(env, "dense has another length than the features need");
    const float* pooled = nullptr;
    float* scores = nullptr;
    std::span<uint32_t> lengths;
    if (stage > 0) {
      const std::span<float> pooled_array = floats(info, 5, "pooled");
      if (pooled_array.size() != net_->input_length(net_->num_dense(), net_->num_inputs(), shape))
        throw argument_error(env, "pooled has another length than the bags need");
      pooled = pooled_array.data();
      const uint64_t num_lengths = net_->num_lengths(shape);
      if (num_lengths > 0) lengths = typed<uint32_t>(info, 6, napi_uint32_array, "lengths");
      if (lengths.size() != num_lengths) throw argument_error(env, "lengths has to have one entry per row of each sequence");
    }
    if (stage == net_->last_stage()) {
      const std::span<float> output = floats(info, 7, "output");
      if (output.size() != static_cast<uint64_t>(items) * net_->output_dim())
        throw argument_error(env, "output has to be [items, output dim]");
      scores = output.data();
    }
    const CallTimes times(info, 8, 5, num_threads > 0);
    // A stage reads what those before it left in the workspace, and only that of the same net, items, features and lengths.
    if (workspace.busy) throw argument_error(env, "workspace is in use by another run");
    if (!net_->staged(workspace, stage, shape, lengths))
      throw argument_error(env, "a stage needs those before it on the same workspace with the same items, rows, groups and lengths");
    try {
      net_->set_groups(workspace, shape);
      const std::string error = net_->set_lengths(workspace, stage, shape, lengths);
      if (!error.empty()) throw lengths_error(env, error);
      net_->prepare(workspace, stage, shape, std::max(1u, num_threads));
    } catch (const std::bad_alloc&) {
      throw Napi::Error::New(env, "no memory for a run of this many items: " + std::to_string(items));
    }
    return {*net_, workspace, stage, dense.data(), pooled, scores, times};
  }
  void run_sync(const Napi::CallbackInfo& info) { checked_run(info, 0)(); }
  Napi::Value run(const Napi::CallbackInfo& info) {
    const Run run = checked_run(info, ThreadPool::shared().num_threads());
    const Napi::Value promise = info.Env().GetInstanceData<Environment>()->run(
        info, [net = net_, run] { run(); }, [](Napi::Env env) { return env.Undefined(); },
        [&workspace = run.workspace](napi_env) { workspace.busy = false; });
    run.workspace.busy = true;
    return promise;
  }

  std::shared_ptr<const DenseNet> net_;
};

}  // namespace

Napi::Function define_dense_net(Napi::Env env) { return DenseNetObject::define(env); }
Napi::Function define_precisions(Napi::Env env) { return Napi::Function::New(env, list_precisions); }

}  // namespace terabag
