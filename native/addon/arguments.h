#pragma once
#include <napi.h>

#include <span>
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

// The elements of a typed array; empty when it was detached. One call of the API: a small request has little time for more.
template <typename T>
std::span<T> typed(const Napi::CallbackInfo& info, size_t at, napi_typedarray_type expected, const char* name) {
  napi_typedarray_type type;
  size_t length = 0;
  void* data = nullptr;
  if (napi_get_typedarray_info(info.Env(), info[at], &type, &length, &data, nullptr, nullptr) != napi_ok || type != expected) {
    throw argument_error(info.Env(), std::string(name) + " has to be a typed array of the documented type");
  }
  return {static_cast<T*>(data), length};
}
inline std::span<uint8_t> bytes(const Napi::CallbackInfo& info, size_t at, const char* name) {
  return typed<uint8_t>(info, at, napi_uint8_array, name);
}
inline std::span<float> floats(const Napi::CallbackInfo& info, size_t at, const char* name) {
  return typed<float>(info, at, napi_float32_array, name);
}

inline std::vector<uint32_t> integers(const Napi::Value& value, const char* name, uint64_t least, uint64_t most) {
  if (!value.IsArray()) throw argument_error(value.Env(), std::string(name) + " has to be an array");
  const auto array = value.As<Napi::Array>();
  std::vector<uint32_t> result;
  for (uint32_t i = 0; i < array.Length(); ++i) result.push_back(static_cast<uint32_t>(integer(array[i], name, least, most)));
  return result;
}

// The value whose name this is in a table of names, as an enumeration.
template <typename Enumeration, size_t count>
Enumeration named(const Napi::Value& value, const char* argument, const char* const (&names)[count]) {
  const std::string given = value.IsString() ? value.As<Napi::String>().Utf8Value() : "no string";
  std::string known;
  for (size_t i = 0; i < count; ++i) {
    if (given == names[i]) return static_cast<Enumeration>(i);
    known += (i == 0 ? "" : ", ") + std::string(names[i]);
  }
  throw argument_error(value.Env(), std::string(argument) + " has to be one of " + known + ": " + given);
}

}  // namespace terabag
