#pragma once
#include <napi.h>

#include "addon/arguments.h"
#include "kernels/row_format.h"

namespace terabag {

inline RowFormat row_format(const Napi::Value& value, const char* argument) {
#define TERABAG_NAME(format, name, value_bits, scale_and_bias) name,
  static constexpr const char* kNames[] = {TERABAG_ROW_FORMATS(TERABAG_NAME)};
#undef TERABAG_NAME
  return named<RowFormat>(value, argument, kNames);
}

}  // namespace terabag
