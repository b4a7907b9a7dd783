#pragma once
#include <napi.h>

namespace terabag {

// The classes KeyIndexBuilder and KeysByRow of the addon, and its functions keysOfBuckets and checkKeyIndex.
Napi::Function define_key_index_builder(Napi::Env env);
Napi::Function define_keys_by_row(Napi::Env env);
Napi::Value keys_of_buckets(const Napi::CallbackInfo& info);
Napi::Value check_key_index_async(const Napi::CallbackInfo& info);

}  // namespace terabag
