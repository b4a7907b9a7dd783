#include "wire/zeromq_api.h"

#if defined(__linux__)
#include <dlfcn.h>
#include <link.h>

#include <mutex>
#include <optional>
#include <string>
#include <vector>
#endif

namespace terabag {

#if defined(__linux__)
namespace {

int add_name(dl_phdr_info* info, size_t, void* names) {
  if (info->dlpi_name != nullptr && *info->dlpi_name != 0) static_cast<std::vector<std::string>*>(names)->push_back(info->dlpi_name);
  return 0;
}

// Looks symbols up in one library, and remembers whether any was missing.
class Symbols {
 public:
  explicit Symbols(void* library) : library_(library) {}
  template <typename Function>
  void find(const char* name, Function** function) {
    *function = reinterpret_cast<Function*>(dlsym(library_, name));
    complete_ = complete_ && *function != nullptr;
  }
  bool complete() const { return complete_; }

 private:
  void* library_;
  bool complete_ = true;
};

std::optional<ZeromqApi> api_of(void* library) {
  Symbols symbols(library);
  void (*version)(int*, int*, int*) = nullptr;
  symbols.find("zmq_version", &version);
  if (!symbols.complete()) return std::nullopt;
  int major = 0, minor = 0, patch = 0;
  version(&major, &minor, &patch);
  if (major != 4 || minor != 3) return std::nullopt;
  ZeromqApi api{};
  symbols.find("zmq_ctx_new", &api.ctx_new);
  symbols.find("zmq_ctx_set", &api.ctx_set);
  symbols.find("zmq_ctx_term", &api.ctx_term);
  symbols.find("zmq_socket", &api.socket);
  symbols.find("zmq_close", &api.close);
  symbols.find("zmq_setsockopt", &api.setsockopt);
  symbols.find("zmq_getsockopt", &api.getsockopt);
  symbols.find("zmq_bind", &api.bind);
  symbols.find("zmq_unbind", &api.unbind);
  symbols.find("zmq_connect", &api.connect);
  symbols.find("zmq_disconnect", &api.disconnect);
  symbols.find("zmq_socket_monitor", &api.socket_monitor);
  symbols.find("zmq_msg_init", &api.msg_init);
  symbols.find("zmq_msg_init_size", &api.msg_init_size);
  symbols.find("zmq_msg_init_data", &api.msg_init_data);
  symbols.find("zmq_msg_data", &api.msg_data);
  symbols.find("zmq_msg_size", &api.msg_size);
  symbols.find("zmq_msg_more", &api.msg_more);
  symbols.find("zmq_msg_get", &api.msg_get);
  symbols.find("zmq_msg_gets", &api.msg_gets);
  symbols.find("zmq_msg_recv", &api.msg_recv);
  symbols.find("zmq_msg_send", &api.msg_send);
  symbols.find("zmq_msg_close", &api.msg_close);
  symbols.find("zmq_poll", &api.poll);
  symbols.find("zmq_has", &api.has);
  symbols.find("zmq_errno", &api.error);
  symbols.find("zmq_strerror", &api.error_text);
  return symbols.complete() ? std::optional(api) : std::nullopt;
}

// The library stays loaded: the handle is kept.
std::optional<ZeromqApi> find_api() {
  std::vector<std::string> names;
  dl_iterate_phdr(add_name, &names);
  for (const std::string& name : names) {
    void* library = dlopen(name.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr) continue;
    if (const std::optional<ZeromqApi> api = api_of(library)) return api;
    dlclose(library);
  }
  return std::nullopt;
}

}  // namespace

const ZeromqApi* zeromq_api() {
  static std::mutex mutex;
  static std::optional<ZeromqApi> api;
  const std::lock_guard<std::mutex> lock(mutex);
  // Asked again while there is none: it may be loaded later.
  if (!api) api = find_api();
  return api ? &*api : nullptr;
}
#else
const ZeromqApi* zeromq_api() { return nullptr; }
#endif

}  // namespace terabag
