#pragma once
#include <cstddef>
#include <cstdint>

namespace terabag {

// libzmq's message, whose size and alignment are part of its ABI.
struct alignas(8) ZeromqMessage {
  unsigned char opaque[64];
};

// What a poll waits for: a socket, or a file descriptor when there is none.
struct ZeromqPollItem {
  void* socket;
  int descriptor;
  short events, happened;
};

// What sockets need of libzmq's C interface (api.zeromq.org), version 4.3.
struct ZeromqApi {
  void* (*ctx_new)();
  int (*ctx_set)(void* context, int option, int value);
  int (*ctx_term)(void* context);
  void* (*socket)(void* context, int type);
  int (*close)(void* socket);
  int (*setsockopt)(void* socket, int option, const void* value, size_t length);
  int (*getsockopt)(void* socket, int option, void* value, size_t* length);
  int (*bind)(void* socket, const char* endpoint);
  int (*unbind)(void* socket, const char* endpoint);
  int (*connect)(void* socket, const char* endpoint);
  int (*disconnect)(void* socket, const char* endpoint);
  int (*socket_monitor)(void* socket, const char* endpoint, int events);
  int (*msg_init)(ZeromqMessage* message);
  int (*msg_init_size)(ZeromqMessage* message, size_t bytes);
  int (*msg_init_data)(ZeromqMessage* message, void* data, size_t bytes, void (*release)(void* data, void* hint), void* hint);
  void* (*msg_data)(ZeromqMessage* message);
  size_t (*msg_size)(const ZeromqMessage* message);
  int (*msg_more)(const ZeromqMessage* message);
  int (*msg_get)(const ZeromqMessage* message, int property);
  const char* (*msg_gets)(const ZeromqMessage* message, const char* property);
  int (*msg_recv)(ZeromqMessage* message, void* socket, int flags);
  int (*msg_send)(ZeromqMessage* message, void* socket, int flags);
  int (*msg_close)(ZeromqMessage* message);
  int (*poll)(ZeromqPollItem* items, int count, long timeout_ms);
  int (*has)(const char* capability);
  int (*error)();
  const char* (*error_text)(int error);
};

// That of a libzmq which this process has loaded already: the addon of zeromq.js exports it, so that there is no second one. nullptr where
// no loaded library has all of it, in a version that is known.
const ZeromqApi* zeromq_api();

}  // namespace terabag
