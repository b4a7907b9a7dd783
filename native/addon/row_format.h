#pragma once
#include <napi.h>

#include <string>
#include <utility>

#include "addon/arguments.h"
#include "kernels/embedding_bag.h"

namespace terabag {

inline RowFormat row_format(const Napi::Value& value, const char* argument) {
  static constexpr std::pair<const char*, RowFormat> kFormats[] = {{"fp32", RowFormat::kFp32},          {"fp16", RowFormat::kFp16},
                                                                   {"bf16", RowFormat::kBf16},          {"int8", RowFormat::kInt8},
                                                                   {"int8_fp16", RowFormat::kInt8Fp16}, {"int4", RowFormat::kInt4}};
  const std::string name = value.IsString() ? value.As<Napi::String>().Utf8Value() : "no string";
  for (const auto& [known, format] : kFormats) {
    if (name == known) return format;
  }
  throw argument_error(value.Env(), std::string(argument) + " has to be fp32, fp16, bf16, int8, int8_fp16 or int4: " + name);
}

}  // namespace terabag
