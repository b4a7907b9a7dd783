#pragma once
#include <napi.h>

namespace terabag {

// The class SparseEngine of the addon.
Napi::Function define_sparse_engine(Napi::Env env);

}  // namespace terabag
