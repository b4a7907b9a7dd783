#pragma once
#include <napi.h>

#include <memory>

#include "engine/sparse_engine.h"

namespace terabag {

// The class SparseEngine of the addon.
Napi::Function define_sparse_engine(Napi::Env env);
// That of a SparseEngine; a TypeError for any other value, and for one that is closed.
std::shared_ptr<const SparseEngine> sparse_engine_of(const Napi::Value& value);

}  // namespace terabag
