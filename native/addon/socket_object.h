#pragma once
#include <napi.h>

namespace terabag {

// The class Socket of the addon, and the function that says whether it can be used.
Napi::Function define_socket(Napi::Env env);
Napi::Function define_sockets_available(Napi::Env env);

}  // namespace terabag
