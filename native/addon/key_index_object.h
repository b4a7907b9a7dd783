#pragma once
#include <napi.h>

namespace terabag {

// The class KeyIndexBuilder of the addon, and its function checkKeyIndex.
Napi::Function define_key_index_builder(Napi::Env env);
Napi::Value check_key_index_async(const Napi::CallbackInfo& info);

}  // namespace terabag
