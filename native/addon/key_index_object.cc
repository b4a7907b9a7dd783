#include "addon/key_index_object.h"

#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "addon/arguments.h"
#include "addon/environment.h"
#include "tables/key_index.h"
#include "tables/mapped_file.h"

namespace terabag {
namespace {

constexpr uint64_t kMaxSeed = (1ull << 53) - 1;

Napi::Object status_object(Napi::Env env, const char* status, const std::string& message) {
  Napi::Object error = Napi::Error::New(env, message).Value();
  error.Set("status", status);
  return error;
}

const char* name_of(KeyIndexStatus status) {
  switch (status) {
    case KeyIndexStatus::kOk: break;
    case KeyIndexStatus::kDuplicate: return "duplicate_key";
    case KeyIndexStatus::kWrongCount: return "wrong_count";
    case KeyIndexStatus::kUnplaceable: return "unplaceable";
    case KeyIndexStatus::kSpill: return "spill";
  }
  return "";
}

void describe(Napi::Object error, const KeyIndexBuilder& builder) {
  const auto& [key, row, other_row] = builder.duplicate();
  error.Set("key", std::to_string(static_cast<int64_t>(key)));
  error.Set("row", Napi::Number::New(error.Env(), static_cast<double>(row)));
  error.Set("otherRow", Napi::Number::New(error.Env(), static_cast<double>(other_row)));
}
void describe(Napi::Object, const KeysByRow&) {}

// A step of a KeyIndexBuilder or of KeysByRow on a thread.
struct Step {
  KeyIndexStatus status = KeyIndexStatus::kOk;
  bool out_of_memory = false;

  template <typename Work>
  void run(const Work& work) {
    try {
      status = work();
    } catch (const std::bad_alloc&) {
      out_of_memory = true;
    }
  }
  // Null when all is well.
  template <typename Worker>
  Napi::Value error(Napi::Env env, const Worker& worker) const {
    if (out_of_memory) return status_object(env, "out_of_memory", "no memory for the keys of an index");
    if (status == KeyIndexStatus::kOk) return env.Null();
    Napi::Object error = status_object(env, name_of(status), std::string("key index: ") + name_of(status));
    if (status == KeyIndexStatus::kDuplicate) describe(error, worker);
    if (status == KeyIndexStatus::kSpill) {
      error.Set("message", worker.failure().message);
      error.Set("errno", Napi::Number::New(env, worker.failure().number));
    }
    return error;
  }
};

// What works step by step: none while another is on a thread.
template <typename Worker>
class Steps {
 public:
  // make(directory, range_keys) of the arguments from `first` on.
  template <typename Make>
  Steps(const Napi::CallbackInfo& info, size_t first, const Make& make) {
    if (!info[first].IsString()) throw argument_error(info.Env(), "directory has to be a string");
    const Napi::Value range = info[first + 1];
    const uint64_t range_keys =
        range.IsUndefined() ? KeyIndexBuilder::kRangeKeys : integer(range, "rangeKeys", 1, KeyIndexBuilder::kRangeKeys);
    try {
      worker_ = make(info[first].As<Napi::String>().Utf8Value(), range_keys);
    } catch (const std::bad_alloc&) {
      throw Napi::Error(info.Env(), status_object(info.Env(), "out_of_memory", "no memory for the keys of an index"));
    }
  }

  template <typename Work, typename Outcome>
  Napi::Value run(const Napi::CallbackInfo& info, Work work, Outcome outcome) {
    refuse_busy(info.Env());
    auto step = std::make_shared<Step>();
    *busy_ = true;
    return info.Env().GetInstanceData<Environment>()->run(
        info, [worker = worker_, step, work] { step->run([&] { return work(*worker); }); },
        [worker = worker_, step, outcome](Napi::Env env) -> Napi::Value {
          const Napi::Value error = step->error(env, *worker);
          return error.IsNull() ? outcome(env) : error;
        },
        [busy = busy_](napi_env) { *busy = false; });
  }
  const Worker& idle(Napi::Env env) const {
    refuse_busy(env);
    return *worker_;
  }
  void close() { worker_.reset(); }

 private:
  void refuse_busy(Napi::Env env) const {
    if (worker_ == nullptr) throw Napi::Error(env, status_object(env, "closed", "what sorts keys is closed"));
    if (*busy_) throw Napi::Error(env, status_object(env, "busy", "a step that sorts keys is still running"));
  }

  std::shared_ptr<Worker> worker_;
  // On the environment's thread only; shared with steps that outlive this object.
  std::shared_ptr<bool> busy_ = std::make_shared<bool>(false);
};

class KeyIndexBuilderObject : public Napi::ObjectWrap<KeyIndexBuilderObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "KeyIndexBuilder",
        {InstanceMethod<&KeyIndexBuilderObject::add>("add"), InstanceMethod<&KeyIndexBuilderObject::count_range>("countRange"),
         InstanceMethod<&KeyIndexBuilderObject::place>("place"), InstanceMethod<&KeyIndexBuilderObject::shape>("shape"),
         InstanceMethod<&KeyIndexBuilderObject::close>("close")});
  }
  explicit KeyIndexBuilderObject(const Napi::CallbackInfo& info)
      : Napi::ObjectWrap<KeyIndexBuilderObject>(info), steps_(info, 1, [&info](std::string directory, uint64_t range_keys) {
          return std::make_shared<KeyIndexBuilder>(integer(info[0], "numKeys", 1, kMaxKeys), std::move(directory), range_keys);
        }) {}

 private:
  Napi::Value add(const Napi::CallbackInfo& info) {
    const std::span<uint8_t> keys = bytes(info, 0, "keys");
    if (keys.size() % 8 != 0) throw argument_error(info.Env(), "keys have 8 bytes each");
    return steps_.run(
        info, [keys](KeyIndexBuilder& builder) { return builder.add(keys.data(), keys.size() / 8); },
        [](Napi::Env env) { return env.Undefined(); });
  }
  Napi::Value count_range(const Napi::CallbackInfo& info) {
    auto done = std::make_shared<bool>(false);
    return steps_.run(
        info, [done](KeyIndexBuilder& builder) { return builder.count_range(done.get()); },
        [done](Napi::Env env) { return Napi::Boolean::New(env, *done); });
  }
  Napi::Value place(const Napi::CallbackInfo& info) {
    const std::span<uint8_t> out = bytes(info, 0, "out");
    auto written = std::make_shared<uint64_t>(0);
    return steps_.run(
        info, [out, written](KeyIndexBuilder& builder) { return builder.place(out.data(), out.size() / kBucketBytes, written.get()); },
        [written](Napi::Env env) { return Napi::Number::New(env, static_cast<double>(*written * kBucketBytes)); });
  }
  Napi::Value shape(const Napi::CallbackInfo& info) {
    const KeyIndexBuilder& builder = steps_.idle(info.Env());
    Napi::Object shape = Napi::Object::New(info.Env());
    shape.Set("buckets", Napi::Number::New(info.Env(), static_cast<double>(builder.num_buckets())));
    shape.Set("seed", Napi::Number::New(info.Env(), static_cast<double>(builder.seed())));
    shape.Set("ranges", Napi::Number::New(info.Env(), static_cast<double>(builder.num_ranges())));
    return shape;
  }
  void close(const Napi::CallbackInfo&) { steps_.close(); }

  Steps<KeyIndexBuilder> steps_;
};

class KeysByRowObject : public Napi::ObjectWrap<KeysByRowObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "KeysByRow",
                       {InstanceMethod<&KeysByRowObject::add>("add"), InstanceMethod<&KeysByRowObject::next>("next"),
                        InstanceMethod<&KeysByRowObject::close>("close")});
  }
  explicit KeysByRowObject(const Napi::CallbackInfo& info)
      : Napi::ObjectWrap<KeysByRowObject>(info), steps_(info, 2, [&info](std::string directory, uint64_t range_keys) {
          const uint64_t num_keys = integer(info[0], "numKeys", 1, kMaxKeys), seed = integer(info[1], "seed", 0, kMaxSeed);
          return std::make_shared<KeysByRow>(num_keys, seed, std::move(directory), range_keys);
        }) {}

 private:
  Napi::Value add(const Napi::CallbackInfo& info) {
    const std::span<uint8_t> buckets = bytes(info, 0, "buckets");
    if (buckets.size() % kBucketBytes != 0) throw argument_error(info.Env(), "buckets have 64 bytes each");
    return steps_.run(
        info, [buckets](KeysByRow& keys) { return keys.add(buckets.data(), buckets.size() / kBucketBytes); },
        [](Napi::Env env) { return env.Undefined(); });
  }
  Napi::Value next(const Napi::CallbackInfo& info) {
    const std::span<uint8_t> out = bytes(info, 0, "out");
    auto written = std::make_shared<uint64_t>(0);
    return steps_.run(
        info, [out, written](KeysByRow& keys) { return keys.next(out.data(), out.size() / 8, written.get()); },
        [written](Napi::Env env) { return Napi::Number::New(env, static_cast<double>(*written * 8)); });
  }
  void close(const Napi::CallbackInfo&) { steps_.close(); }

  Steps<KeysByRow> steps_;
};

const char* name_of(KeyIndexFault fault) {
  switch (fault) {
    case KeyIndexFault::kNone: return "none";
    case KeyIndexFault::kSlots: return "slots";
    case KeyIndexFault::kRow: return "row";
    case KeyIndexFault::kRowTwice: return "row_twice";
    case KeyIndexFault::kPlace: return "place";
    case KeyIndexFault::kCount: return "count";
  }
  return "";
}

}  // namespace

Napi::Function define_key_index_builder(Napi::Env env) { return KeyIndexBuilderObject::define(env); }

Napi::Function define_keys_by_row(Napi::Env env) { return KeysByRowObject::define(env); }

Napi::Value keys_of_buckets(const Napi::CallbackInfo& info) {
  const std::span<uint8_t> buckets = bytes(info, 0, "buckets"), out = bytes(info, 4, "out");
  const uint64_t first = integer(info[1], "firstBucket", 0, kMaxKeys), num_keys = integer(info[2], "numKeys", 1, kMaxKeys);
  const uint64_t count = buckets.size() / kBucketBytes;
  if (buckets.size() % kBucketBytes != 0) throw argument_error(info.Env(), "buckets have 64 bytes each");
  if (out.size() / 8 < count * kBucketKeys) throw argument_error(info.Env(), "out has no room for all keys of the buckets");
  const KeyIndex index{nullptr, 0, homes_of(num_keys), integer(info[3], "seed", 0, kMaxSeed)};
  unsigned char* to = out.data();
  for (uint64_t b = 0; b < count; ++b) {
    const BucketKeys keys = keys_of_bucket(index, buckets.data() + b * kBucketBytes, first + b);
    for (uint32_t k = 0; k < keys.count; ++k, to += 8) std::memcpy(to, &keys.held[k].key, 8);
  }
  return Napi::Number::New(info.Env(), static_cast<double>(to - out.data()));
}

Napi::Value check_key_index_async(const Napi::CallbackInfo& info) {
  constexpr uint64_t kSafe = (1ull << 53) - 1;
  if (!info[0].IsString()) throw argument_error(info.Env(), "path has to be a string");
  const std::string path = info[0].As<Napi::String>();
  const uint64_t byte_offset = integer(info[1], "byteOffset", 0, kSafe), num_buckets = integer(info[2], "buckets", 1, kMaxKeys);
  const uint64_t num_keys = integer(info[3], "numKeys", 1, kMaxKeys), seed = integer(info[4], "seed", 0, kMaxSeed);
  if (!sound_key_index(num_keys, num_buckets)) throw argument_error(info.Env(), "buckets do not fit the number of keys");
  struct Outcome {
    KeyIndexReport report;
    Failure failure;
    const char* status = nullptr;
  };
  auto outcome = std::make_shared<Outcome>();
  const auto work = [=] {
    try {
      const auto file = MappedFile::open(path, &outcome->failure);
      if (file == nullptr || byte_offset > file->size() || num_buckets * kBucketBytes > file->size() - byte_offset) {
        outcome->status = "unreadable";
        if (file != nullptr) outcome->failure.message = "key index does not lie in its file: " + path;
        return;
      }
      outcome->report = check_key_index({file->data() + byte_offset, num_buckets, homes_of(num_keys), seed}, num_keys);
    } catch (const std::bad_alloc&) {
      outcome->status = "out_of_memory";
      outcome->failure.message = "no memory to check a key index: " + path;
    }
  };
  return info.Env().GetInstanceData<Environment>()->run(info, work, [outcome](Napi::Env env) -> Napi::Value {
    if (outcome->status != nullptr) return status_object(env, outcome->status, outcome->failure.message);
    Napi::Object report = Napi::Object::New(env);
    report.Set("fault", name_of(outcome->report.fault));
    report.Set("bucket", Napi::Number::New(env, static_cast<double>(outcome->report.bucket)));
    return report;
  });
}

}  // namespace terabag
