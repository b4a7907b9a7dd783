#pragma once
#include <napi.h>

#include <string>
#include <vector>

// What JavaScript gives, checked; a TypeError names the argument that is wrong.
namespace terabag {

inline Napi::Error argument_error(Napi::Env env, const std::string& what) { return Napi::TypeError::New(env, what); }

inline Napi::Value member(const Napi::Object& object, const char* name) { return object.Get(name); }

// A whole number in [least, most], never a truncated one.
inline uint64_t integer(const Napi::Value& value, const char* name, uint64_t least, uint64_t most) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= static_cast<double>(least)) || number > static_cast<double>(most) ||
      number != static_cast<double>(static_cast<uint64_t>(number))) {
    throw argument_error(value.Env(),
                         std::string(name) + " has to be an integer between " + std::to_string(least) + " and " + std::to_string(most));
  }
  return static_cast<uint64_t>(number);
}
inline uint64_t integer(const Napi::Object& object, const char* name, uint64_t most) {
  return integer(member(object, name), name, 0, most);
}

inline std::string text(const Napi::Object& object, const char* name) {
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
inline Napi::Uint8Array bytes(const Napi::CallbackInfo& info, size_t at, const char* name) {
  return typed<Napi::Uint8Array>(info, at, napi_uint8_array, name);
}
inline Napi::Float32Array floats(const Napi::CallbackInfo& info, size_t at, const char* name) {
  return typed<Napi::Float32Array>(info, at, napi_float32_array, name);
}

inline std::vector<uint32_t> integers(const Napi::Value& value, const char* name, uint64_t least, uint64_t most) {
  if (!value.IsArray()) throw argument_error(value.Env(), std::string(name) + " has to be an array");
  const auto array = value.As<Napi::Array>();
  std::vector<uint32_t> result;
  for (uint32_t i = 0; i < array.Length(); ++i) result.push_back(static_cast<uint32_t>(integer(array[i], name, least, most)));
  return result;
}

}  // namespace terabag
