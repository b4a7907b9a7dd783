#include "wire/endpoint_address.h"

#if defined(__unix__) || defined(__APPLE__)
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#define TERABAG_POSIX 1
#endif
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <optional>

namespace terabag {
namespace {

constexpr char kIpc[] = "ipc://";
constexpr size_t kIpcLength = sizeof kIpc - 1;

}  // namespace

EndpointAddress::EndpointAddress(const std::string& endpoint) {
  if (endpoint.compare(0, kIpcLength, kIpc) == 0) {
    path_ = endpoint.substr(kIpcLength);
    return;
  }
  // libzmq refuses what has none.
  const size_t colon = endpoint.rfind(':');
  if (colon != std::string::npos) port_ = static_cast<uint16_t>(std::strtoul(endpoint.c_str() + colon + 1, nullptr, 10));
}

#if TERABAG_POSIX
namespace {

std::string path_of(const sockaddr_un& of, size_t length) {
  std::string path(of.sun_path, length);
  // Names without a file begin with a zero, of which an endpoint has an @; paths end with one.
  if (!path.empty() && path[0] == '\0')
    path[0] = '@';
  else
    path.resize(std::strlen(path.c_str()));
  return path;
}

// name: getsockname or getpeername.
std::optional<EndpointAddress> address_of(int descriptor, decltype(&getpeername) name) {
  sockaddr_storage of{};
  socklen_t length = sizeof of;
  if (name(descriptor, reinterpret_cast<sockaddr*>(&of), &length) != 0) return std::nullopt;
  switch (of.ss_family) {
    case AF_INET: return EndpointAddress(ntohs(reinterpret_cast<const sockaddr_in&>(of).sin_port), {});
    case AF_INET6: return EndpointAddress(ntohs(reinterpret_cast<const sockaddr_in6&>(of).sin6_port), {});
    case AF_UNIX: {
      const size_t header = offsetof(sockaddr_un, sun_path);
      return EndpointAddress(0, path_of(reinterpret_cast<const sockaddr_un&>(of), length > header ? length - header : 0));
    }
    default: return std::nullopt;
  }
}

}  // namespace

bool EndpointAddress::accepted(int descriptor) const {
  return address_of(descriptor, getpeername).has_value() && address_of(descriptor, getsockname) == *this;
}

bool EndpointAddress::connected(int descriptor) const { return address_of(descriptor, getpeername) == *this; }
#else
bool EndpointAddress::accepted(int) const { return false; }
bool EndpointAddress::connected(int) const { return false; }
#endif

}  // namespace terabag
