#pragma once
#include <napi.h>

namespace terabag {

// The class DenseNet of the addon.
Napi::Function define_dense_net(Napi::Env env);
// The function precisions of the addon.
Napi::Function define_precisions(Napi::Env env);

}  // namespace terabag
