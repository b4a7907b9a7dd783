#include "addon/sparse_engine_object.h"

#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "addon/arguments.h"
#include "addon/call_times.h"
#include "addon/environment.h"
#include "addon/row_format.h"
#include "engine/sparse_engine.h"
#include "engine/thread_pool.h"
#include "tables/key_index.h"

namespace terabag {
namespace {

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

Residency residency_of(const Napi::Value& value) {
  static constexpr const char* kNames[] = {"map", "populate", "lock", "hugepages"};
  return value.IsUndefined() ? Residency::kPopulate : named<Residency>(value, "residency", kNames);
}

// An error with a status and, when a system call failed, its errno.
Napi::Value system_error(Napi::Env env, const char* status, const Failure& failure) {
  Napi::Object error = Napi::Error::New(env, failure.message).Value();
  error.Set("status", status);
  if (failure.number != 0) error.Set("errno", Napi::Number::New(env, failure.number));
  return error;
}

// What a fill on a thread came to: nothing, or an error with a status.
Napi::Value fill_outcome(Napi::Env env, const FillStatus& status) {
  if (status.status == nullptr) return env.Undefined();
  return system_error(env, status.status, {status.message, status.number});
}

Napi::Value residency_array(Napi::Env env, const std::vector<FileResidency>& files) {
  Napi::Array array = Napi::Array::New(env, files.size());
  for (uint32_t f = 0; f < files.size(); ++f) {
    Napi::Object file = Napi::Object::New(env);
    file.Set("path", files[f].path);
    file.Set("bytes", Napi::Number::New(env, static_cast<double>(files[f].bytes)));
    file.Set("residentBytes", files[f].resident_known ? Napi::Number::New(env, static_cast<double>(files[f].resident_bytes)) : env.Null());
    file.Set("smaps", files[f].smaps);
    array.Set(f, file);
  }
  return array;
}

constexpr uint32_t kMaxPrefetchLines = 1 << 16;

Prefetch prefetch_of(const Napi::Object& object) {
  return {static_cast<uint32_t>(integer(object, "lines", kMaxPrefetchLines)), member(object, "toL2").ToBoolean()};
}

Napi::Value tuned_array(Napi::Env env, const std::vector<TunedRows>& all) {
  Napi::Array array = Napi::Array::New(env, all.size());
  for (uint32_t i = 0; i < all.size(); ++i) {
    const auto& [prefetch, ns_per_lookup] = all[i].tuned;
    Napi::Object rows = Napi::Object::New(env);
    rows.Set("rowBytes", Napi::Number::New(env, static_cast<double>(all[i].row_bytes)));
    rows.Set("lines", Napi::Number::New(env, prefetch.lines));
    rows.Set("toL2", Napi::Boolean::New(env, prefetch.to_l2));
    rows.Set("nsPerLookup", Napi::Number::New(env, ns_per_lookup));
    array.Set(i, rows);
  }
  return array;
}

constexpr uint64_t kSafe = (1ull << 53) - 1;

KeyIndexFile key_index_file(const Napi::Object& keys) {
  return {text(keys, "path"), integer(keys, "byteOffset", kSafe), integer(keys, "buckets", kMaxKeys), integer(keys, "keys", kMaxKeys),
          integer(keys, "seed", kSafe)};
}

// 64 bits of either sign; null is none.
std::optional<int64_t> padding_id_of(const Napi::Object& rule) {
  const Napi::Value value = member(rule, "paddingId");
  if (value.IsNull()) return std::nullopt;
  bool lossless = false;
  const int64_t id = value.IsBigInt() ? value.As<Napi::BigInt>().Int64Value(&lossless) : 0;
  if (!lossless) throw argument_error(rule.Env(), "paddingId has to be null or a bigint of 64 bits with a sign");
  return id;
}

TableRule rule_of(const Napi::Value& value) {
  if (!value.IsObject()) throw argument_error(value.Env(), "a rule has to be an object");
  enum Policy { kReject, kZero, kDefault, kHash, kSkip };
  static constexpr const char* kNames[] = {"reject", "zero", "default", "hash", "skip"};
  static constexpr UnseenPolicy kPolicies[] = {UnseenPolicy::kReject, UnseenPolicy::kRow, UnseenPolicy::kRow, UnseenPolicy::kHash,
                                               UnseenPolicy::kSkip};
  const Napi::Object given = value.As<Napi::Object>();
  const Policy policy = named<Policy>(member(given, "policy"), "policy", kNames);
  TableRule rule;
  rule.policy = kPolicies[policy];
  rule.padding_id = padding_id_of(given);
  if (policy == kHash) rule.buckets = integer(given, "buckets", kSafe);
  const bool names_row = policy == kHash || policy == kDefault;
  if (names_row && !member(given, "row").IsNull()) rule.row = integer(given, "row", kSafe);
  if (policy != kDefault || rule.row.has_value()) return rule;
  const Napi::Value vector = member(given, "vector");
  if (vector.IsNull()) {
    rule.row = integer(given, "row", kSafe);
    return rule;
  }
  if (!vector.IsTypedArray() || vector.As<Napi::TypedArray>().TypedArrayType() != napi_float32_array)
    throw argument_error(value.Env(), "vector has to be null or a Float32Array");
  const auto values = vector.As<Napi::Float32Array>();
  if (values.ElementLength() == 0) throw argument_error(value.Env(), "vector has to have values");
  rule.vector.assign(values.Data(), values.Data() + values.ElementLength());
  return rule;
}

std::vector<TableRule> rules_of(const Napi::Value& value) {
  if (!value.IsArray()) throw argument_error(value.Env(), "rules have to be an array");
  const Napi::Array array = value.As<Napi::Array>();
  std::vector<TableRule> rules;
  for (uint32_t r = 0; r < array.Length(); ++r) rules.push_back(rule_of(array[r]));
  return rules;
}

constexpr napi_type_tag kTypeTag = {0x6f0a4c1d2b9e4f63, 0xa1d7c5508e3b9472};

class SparseEngineObject : public Napi::ObjectWrap<SparseEngineObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "SparseEngine",
        {InstanceMethod<&SparseEngineObject::pool_sync>("poolSync"), InstanceMethod<&SparseEngineObject::pool>("pool"),
         InstanceMethod<&SparseEngineObject::fill>("fill"), InstanceMethod<&SparseEngineObject::filled_bytes>("filledBytes"),
         InstanceMethod<&SparseEngineObject::unseen>("unseen"), InstanceMethod<&SparseEngineObject::table_bytes>("tableBytes"),
         InstanceMethod<&SparseEngineObject::kept_bytes>("keptBytes"), InstanceMethod<&SparseEngineObject::tune_prefetch>("tunePrefetch"),
         InstanceMethod<&SparseEngineObject::residency>("residency"), InstanceMethod<&SparseEngineObject::drop_cached>("dropCached"),
         InstanceMethod<&SparseEngineObject::close>("close")});
  }
  explicit SparseEngineObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<SparseEngineObject>(info) {
    if (!info[0].IsArray()) throw argument_error(info.Env(), "tables have to be an array");
    auto engine = std::make_shared<SparseEngine>(kernels(info.Env()), residency_of(info[1]));
    const Napi::Array tables = info[0].As<Napi::Array>();
    for (uint32_t i = 0; i < tables.Length(); ++i) {
      const Napi::Value entry = tables[i];
      if (!entry.IsObject()) throw argument_error(info.Env(), "a table has to be an object");
      const Napi::Object table = entry.As<Napi::Object>();
      TableView view{};
      view.table = static_cast<uint32_t>(integer(table, "table", UINT32_MAX));
      view.part = static_cast<uint32_t>(integer(table, "part", UINT32_MAX));
      view.parts = static_cast<uint32_t>(integer(table, "parts", UINT32_MAX));
      view.num_rows = integer(table, "rows", kSafe);
      if (!member(table, "fallbackRows").IsUndefined()) view.fallback_rows = integer(table, "fallbackRows", kSafe);
      view.dim = static_cast<uint32_t>(integer(table, "dim", 1u << 16));
      view.format = row_format(member(table, "format"), "format");
      if (info[2].IsObject()) view.prefetch = prefetch_of(info[2].As<Napi::Object>());
      Failure failure;
      const std::string path = text(table, "path");
      const uint64_t byte_offset = integer(table, "byteOffset", kSafe), first_row = integer(table, "firstRow", kSafe),
                     row_step = integer(table, "rowStep", kSafe);
      const Napi::Value keys = member(table, "keys");
      if (!(keys.IsObject() ? engine->add_keyed(view, path, byte_offset, key_index_file(keys.As<Napi::Object>()), &failure)
                            : engine->add(view, path, byte_offset, first_row, row_step, &failure))) {
        throw Napi::Error(info.Env(), system_error(info.Env(), "unreadable", failure));
      }
      const Napi::Value rules = member(table, "rules");
      if (!rules.IsUndefined() && !engine->set_rules(view.table, view.part, view.parts, rules_of(rules), &failure)) {
        throw Napi::Error(info.Env(), system_error(info.Env(), "bad_rule", failure));
      }
    }
    engine_ = std::move(engine);
    info.This().As<Napi::Object>().TypeTag(&kTypeTag);
  }

  const std::shared_ptr<const SparseEngine>& engine() const { return engine_; }

 private:
  PoolRequest request(const Napi::CallbackInfo& info) {
    if (engine_ == nullptr) throw Napi::Error(info.Env(), status_error(info.Env(), {"closed", 0, 0, 0, 0, 0}));
    const std::span<uint8_t> segments = bytes(info, 0, "segments"), indices = bytes(info, 2, "indices"),
                             offsets = bytes(info, 3, "offsets");
    const double index_bytes = info[1].IsNumber() ? info[1].As<Napi::Number>().DoubleValue() : 0;
    if (index_bytes != 4 && index_bytes != 8) throw argument_error(info.Env(), "indexBytes has to be 4 or 8");
    const std::span<uint8_t> weights = info[4].IsNull() ? std::span<uint8_t>() : bytes(info, 4, "weights");
    const std::span<float> out = floats(info, 5, "out");
    return {segments.data(), segments.size(), static_cast<uint32_t>(index_bytes),
            indices.data(),  indices.size(),  offsets.data(),
            offsets.size(),  weights.data(),  weights.size(),
            out.data(),      out.size()};
  }
  static PoolStatus timed_pool(const SparseEngine& engine, const PoolRequest& request, unsigned num_threads, const CallTimes& times) {
    PoolStatus status;
    times.measure([&] {
      uint64_t cpu_ns = 0;
      status = engine.pool(request, num_threads, times.reads_cpu() ? &cpu_ns : nullptr);
      if (times.reads_cpu()) times.set(CallTimes::kCpu, cpu_ns);
    });
    return status;
  }
  void pool_sync(const Napi::CallbackInfo& info) {
    const PoolRequest checked = request(info);
    const PoolStatus status = engine_->pool(checked, 1, nullptr);
    const Napi::Value error = status_error(info.Env(), status);
    if (!error.IsUndefined()) throw Napi::Error(info.Env(), error);
  }
  Napi::Value pool(const Napi::CallbackInfo& info) {
    auto status = std::make_shared<PoolStatus>();
    const PoolRequest checked = request(info);
    return info.Env().GetInstanceData<Environment>()->run(
        info,
        [engine = engine_, checked, status, times = CallTimes(info, 6, 3, true)] {
          *status = timed_pool(*engine, checked, ThreadPool::shared().num_threads(), times);
        },
        [status](Napi::Env env) { return status_error(env, *status); });
  }
  const SparseEngine& open_engine(const Napi::CallbackInfo& info) const {
    if (engine_ == nullptr) throw Napi::Error(info.Env(), status_error(info.Env(), {"closed", 0, 0, 0, 0, 0}));
    return *engine_;
  }
  Napi::Value fill(const Napi::CallbackInfo& info) {
    open_engine(info);
    const napi_env env = info.Env();
    // An environment that ends waits for its jobs, and a table can take minutes. Hooks run in reverse order: this one before that wait.
    auto* const stop = new std::shared_ptr<FillProgress>(progress_);
    constexpr auto stop_filling = [](void* data) {
      const std::unique_ptr<std::shared_ptr<FillProgress>> progress(static_cast<std::shared_ptr<FillProgress>*>(data));
      (*progress)->stop = true;
    };
    napi_add_env_cleanup_hook(env, stop_filling, stop);
    auto status = std::make_shared<FillStatus>();
    return info.Env().GetInstanceData<Environment>()->run(
        info, [engine = engine_, progress = progress_, status] { *status = engine->fill(progress.get()); },
        [status](Napi::Env settling) { return fill_outcome(settling, *status); },
        [stop, stop_filling](napi_env settling) {
          napi_remove_env_cleanup_hook(settling, stop_filling, stop);
          delete stop;
        });
  }
  Napi::Value tune_prefetch(const Napi::CallbackInfo& info) {
    open_engine(info);
    auto tuned = std::make_shared<std::vector<TunedRows>>();
    const auto work = [engine = engine_, tuned] {
      try {
        *tuned = engine->tune_prefetch();
      } catch (const std::bad_alloc&) {
        tuned->clear();
      }
    };
    return info.Env().GetInstanceData<Environment>()->run(info, work, [tuned](Napi::Env env) { return tuned_array(env, *tuned); });
  }
  Napi::Value filled_bytes(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(progress_->bytes.load()));
  }
  Napi::Value unseen(const Napi::CallbackInfo& info) {
    const std::vector<UnseenCount> counts = open_engine(info).unseen();
    Napi::Array array = Napi::Array::New(info.Env(), counts.size());
    for (uint32_t i = 0; i < counts.size(); ++i) {
      Napi::Object entry = Napi::Object::New(info.Env());
      entry.Set("table", Napi::Number::New(info.Env(), counts[i].table));
      entry.Set("count", Napi::Number::New(info.Env(), static_cast<double>(counts[i].count)));
      array.Set(i, entry);
    }
    return array;
  }
  Napi::Value table_bytes(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(open_engine(info).table_bytes()));
  }
  Napi::Value kept_bytes(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(open_engine(info).kept_bytes()));
  }
  Napi::Value residency(const Napi::CallbackInfo& info) {
    open_engine(info);
    if (!info[0].IsBoolean()) throw argument_error(info.Env(), "mapCached has to be a boolean");
    auto files = std::make_shared<std::vector<FileResidency>>();
    return info.Env().GetInstanceData<Environment>()->run(
        info,
        [engine = engine_, map_cached = info[0].As<Napi::Boolean>().Value(), files] {
          try {
            *files = engine->residency(map_cached);
          } catch (const std::bad_alloc&) {
            // On an addon thread nobody would catch it; no figures are the figures then.
          }
        },
        [files](Napi::Env env) { return residency_array(env, *files); });
  }
  Napi::Value drop_cached(const Napi::CallbackInfo& info) {
    open_engine(info);
    if (!info[0].IsArray()) throw argument_error(info.Env(), "paths have to be an array");
    const Napi::Array array = info[0].As<Napi::Array>();
    std::vector<std::string> paths;
    for (uint32_t p = 0; p < array.Length(); ++p) {
      const Napi::Value path = array[p];
      if (!path.IsString()) throw argument_error(info.Env(), "a path has to be a string");
      paths.push_back(path.As<Napi::String>());
    }
    auto status = std::make_shared<FillStatus>();
    return info.Env().GetInstanceData<Environment>()->run(
        info, [engine = engine_, status, paths = std::move(paths)] { *status = engine->drop_cached(paths); },
        [status](Napi::Env env) { return fill_outcome(env, *status); });
  }
  void close(const Napi::CallbackInfo&) {
    progress_->stop = true;
    // Unmapping gigabytes takes milliseconds, which the event loop does not have.
    try {
      if (engine_ != nullptr) ThreadPool::shared().submit([engine = engine_] {});
    } catch (const std::exception&) {
      // It is unmapped here then.
    }
    engine_.reset();
  }

  std::shared_ptr<const SparseEngine> engine_;
  std::shared_ptr<FillProgress> progress_ = std::make_shared<FillProgress>();
};

}  // namespace

std::shared_ptr<const SparseEngine> sparse_engine_of(const Napi::Value& value) {
  const bool tagged = value.IsObject() && value.As<Napi::Object>().CheckTypeTag(&kTypeTag);
  const auto engine = tagged ? SparseEngineObject::Unwrap(value.As<Napi::Object>())->engine() : nullptr;
  if (engine == nullptr) throw argument_error(value.Env(), "engine has to be a SparseEngine that is open");
  return engine;
}

Napi::Function define_sparse_engine(Napi::Env env) { return SparseEngineObject::define(env); }

}  // namespace terabag
