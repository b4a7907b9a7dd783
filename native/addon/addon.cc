// Bindings: check, convert, call. The interface is documented in src/engine/native.ts.
#include <napi.h>

#include <cstdio>
#include <new>
#include <string>

#include "addon/arguments.h"
#include "addon/dense_net_object.h"
#include "addon/environment.h"
#include "addon/key_index_object.h"
#include "addon/pack_rows.h"
#include "addon/socket_object.h"
#include "addon/sparse_engine_object.h"
#include "engine/job_clock.h"
#include "engine/kernel_fingerprint.h"
#include "engine/layer.h"
#include "engine/thread_pool.h"
#include "kernels/kernel_table.h"
#include "wire/unix_datagram.h"

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

template <size_t count>
Napi::Array names_array(Napi::Env env, const char* const (&names)[count]) {
  Napi::Array array = Napi::Array::New(env, count);
  for (uint32_t i = 0; i < count; ++i) array.Set(i, names[i]);
  return array;
}

// The tables that src/model has too.
Napi::Object vocabulary(Napi::Env env) {
  Napi::Object tables = Napi::Object::New(env);
  Napi::Array formats = Napi::Array::New(env, kNumRowFormats);
  for (uint32_t i = 0; i < kNumRowFormats; ++i) {
    Napi::Object format = Napi::Object::New(env);
    format.Set("name", kRowFormats[i].name);
    format.Set("valueBits", Napi::Number::New(env, kRowFormats[i].value_bits));
    format.Set("scaleAndBiasBytes", Napi::Number::New(env, static_cast<uint32_t>(kRowFormats[i].scale_and_bias)));
    formats.Set(i, format);
  }
  Napi::Array poolings = Napi::Array::New(env);
  for (const PoolingInfo& info : kPoolings) {
    Napi::Object pooling = Napi::Object::New(env);
    pooling.Set("name", info.name);
    pooling.Set("flag", Napi::Number::New(env, info.flag));
    poolings.Set(poolings.Length(), pooling);
  }
  tables.Set("rowFormats", formats);
  tables.Set("poolings", poolings);
  tables.Set("ops", names_array(env, kOpNames));
  tables.Set("activations", names_array(env, kActivationNames));
  tables.Set("sequencePoolings", names_array(env, kSequencePoolingNames));
  tables.Set("features", names_array(env, kFeatureNames));
  return tables;
}

std::string hexadecimal(uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

Napi::Value fingerprints(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  try {
    Napi::Object hashes = Napi::Object::New(env);
    hashes.Set("pooling", hexadecimal(pooling_fingerprint(kernels(env))));
    hashes.Set("dense", hexadecimal(dense_fingerprint(kernels(env))));
    return hashes;
  } catch (const std::bad_alloc&) {
    throw Napi::Error::New(env, "no memory to try the kernels");
  }
}

Napi::Value send_datagram(const Napi::CallbackInfo& info) {
  if (!info[0].IsString() || !info[1].IsString()) throw argument_error(info.Env(), "address and text have to be strings");
  const std::string address = info[0].As<Napi::String>();
  const std::string text = info[1].As<Napi::String>();
  return Napi::Number::New(info.Env(), send_unix_datagram(address, text));
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  const std::string settings_error = ThreadPool::settings_error();
  if (!settings_error.empty()) throw Napi::Error::New(env, settings_error);
  env.SetInstanceData(new Environment(env));
  exports.Set("isa", kernels(env).name);
  exports.Set("availableKernels", Napi::Function::New(env, list_kernels));
  exports.Set("vocabulary", vocabulary(env));
  exports.Set("fingerprints", Napi::Function::New(env, fingerprints));
  exports.Set("threadCpuUs", Napi::Function::New(env, thread_cpu_us));
  exports.Set("packRows", Napi::Function::New(env, pack_rows_async));
  exports.Set("KeyIndexBuilder", define_key_index_builder(env));
  exports.Set("KeysByRow", define_keys_by_row(env));
  exports.Set("keysOfBuckets", Napi::Function::New(env, keys_of_buckets));
  exports.Set("checkKeyIndex", Napi::Function::New(env, check_key_index_async));
  exports.Set("SparseEngine", define_sparse_engine(env));
  exports.Set("precisions", define_precisions(env));
  exports.Set("DenseNet", define_dense_net(env));
  exports.Set("socketsAvailable", define_sockets_available(env));
  exports.Set("answerChecksum", define_answer_checksum(env));
  exports.Set("Socket", define_socket(env));
  exports.Set("sendDatagram", Napi::Function::New(env, send_datagram));
  return exports;
}

}  // namespace
}  // namespace terabag

static Napi::Object init_terabag(Napi::Env env, Napi::Object exports) { return terabag::init(env, exports); }
NODE_API_MODULE(terabag, init_terabag)
