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

struct Address {
  uint16_t port = 0;
  std::string path;
};

Address address_of(const sockaddr_storage& of, socklen_t length) {
  Address address;
  if (of.ss_family == AF_INET) address.port = ntohs(reinterpret_cast<const sockaddr_in&>(of).sin_port);
  if (of.ss_family == AF_INET6) address.port = ntohs(reinterpret_cast<const sockaddr_in6&>(of).sin6_port);
  if (of.ss_family != AF_UNIX || length <= offsetof(sockaddr_un, sun_path)) return address;
  address.path.assign(reinterpret_cast<const sockaddr_un&>(of).sun_path, length - offsetof(sockaddr_un, sun_path));
  // Names without a file begin with a zero, of which an endpoint has an @; paths end with one.
  if (address.path[0] == '\0')
    address.path[0] = '@';
  else
    address.path.resize(std::strlen(address.path.c_str()));
  return address;
}

}  // namespace

bool EndpointAddress::accepted(int descriptor) const {
  sockaddr_storage own{}, peer{};
  socklen_t own_length = sizeof own, peer_length = sizeof peer;
  if (getpeername(descriptor, reinterpret_cast<sockaddr*>(&peer), &peer_length) != 0) return false;
  if (getsockname(descriptor, reinterpret_cast<sockaddr*>(&own), &own_length) != 0) return false;
  const Address address = address_of(own, own_length);
  return address.port == port_ && address.path == path_;
}

bool EndpointAddress::connected(int descriptor) const {
  sockaddr_storage peer{};
  socklen_t length = sizeof peer;
  if (getpeername(descriptor, reinterpret_cast<sockaddr*>(&peer), &length) != 0) return false;
  const Address address = address_of(peer, length);
  return address.port == port_ && address.path == path_;
}
#else
bool EndpointAddress::accepted(int) const { return false; }
bool EndpointAddress::connected(int) const { return false; }
#endif

}  // namespace terabag
