#include "addon/pack_rows.h"

#include <memory>
#include <new>

#include "addon/arguments.h"
#include "addon/environment.h"
#include "addon/row_format.h"
#include "tables/quantize.h"

namespace terabag {
namespace {

struct Packing {
  const unsigned char* rows;
  unsigned char* out;
  uint64_t num_rows;
  uint32_t dim;
  RowFormat from, to;
  const char* failure = nullptr;
  PackError error;
  uint64_t bad_row = 0;

  void operator()() {
    try {
      switch (pack_rows(rows, from, num_rows, dim, to, out, &error, &bad_row)) {
        case PackStatus::kOk: break;
        case PackStatus::kNotFinite: failure = "not_finite"; break;
        case PackStatus::kOverflow: failure = "overflow"; break;
      }
    } catch (const std::bad_alloc&) {
      failure = "out_of_memory";
    }
  }

  Napi::Value outcome(Napi::Env env) const {
    if (failure != nullptr) {
      Napi::Object error_object = Napi::Error::New(env, std::string(failure) + ": row " + std::to_string(bad_row)).Value();
      error_object.Set("status", failure);
      error_object.Set("row", Napi::Number::New(env, static_cast<double>(bad_row)));
      return error_object;
    }
    Napi::Object figures = Napi::Object::New(env);
    figures.Set("maxError", Napi::Number::New(env, error.max_error));
    figures.Set("sumSquaredError", Napi::Number::New(env, error.sum_squared_error));
    figures.Set("sumSquares", Napi::Number::New(env, error.sum_squares));
    return figures;
  }
};

}  // namespace

Napi::Value pack_rows_async(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::span<uint8_t> rows = bytes(info, 0, "rows"), out = bytes(info, 4, "out");
  const RowFormat from = row_format(info[1], "from"), to = row_format(info[3], "to");
  const auto dim = static_cast<uint32_t>(integer(info[2], "dim", 1, 1 << 16));
  if (is_quantized(from)) throw argument_error(env, "from has to be a row format without scale and bias");
  const uint64_t num_rows = rows.size() / bytes_per_row(from, dim);
  if (rows.size() % bytes_per_row(from, dim) != 0) throw argument_error(env, "rows has to hold whole rows of dim values");
  if (out.size() != num_rows * bytes_per_row(to, dim)) throw argument_error(env, "out has to be as long as the packed rows");
  auto packing = std::make_shared<Packing>(Packing{rows.data(), out.data(), num_rows, dim, from, to, nullptr, {}, 0});
  return env.GetInstanceData<Environment>()->run(
      info, [packing] { (*packing)(); }, [packing](Napi::Env settling) { return packing->outcome(settling); });
}

}  // namespace terabag
