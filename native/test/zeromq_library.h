#pragma once
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "wire/zeromq_api.h"

namespace terabag {

// The libzmq of zeromq.js, in a program without Node.js; see use_zeromq in CMakeLists.txt.
inline void* zeromq_library() {
  static void* library = dlopen(TERABAG_ZEROMQ_ADDON, RTLD_LAZY);
  if (library == nullptr) std::fprintf(stderr, "%s\n", dlerror()), std::exit(1);
  return library;
}

inline const ZeromqApi& loaded_zeromq() {
  zeromq_library();
  return *zeromq_api();
}

// Of CURVE, as Z85.
struct KeyPair {
  std::string public_key, secret_key;
};
inline KeyPair new_key_pair() {
  auto* make = reinterpret_cast<int (*)(char*, char*)>(dlsym(zeromq_library(), "zmq_curve_keypair"));
  char public_key[41] = {}, secret_key[41] = {};
  if (make == nullptr || make(public_key, secret_key) != 0) std::fprintf(stderr, "no keys of CURVE\n"), std::exit(1);
  return {public_key, secret_key};
}

}  // namespace terabag
