#pragma once
#include <napi.h>

namespace terabag {

// The class HostNetwork of the addon.
Napi::Function define_host_network(Napi::Env env);

}  // namespace terabag
