#pragma once
#include <napi.h>

namespace terabag {

// The class Socket of the addon, the function that says whether it can be used, and the checksum of answers.
Napi::Function define_socket(Napi::Env env);
Napi::Function define_sockets_available(Napi::Env env);
Napi::Function define_answer_checksum(Napi::Env env);

}  // namespace terabag
