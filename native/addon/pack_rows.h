#pragma once
#include <napi.h>

namespace terabag {

// The function packRows of the addon.
Napi::Value pack_rows_async(const Napi::CallbackInfo& info);

}  // namespace terabag
