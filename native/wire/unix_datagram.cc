#include "wire/unix_datagram.h"

#include <cerrno>
#if defined(__linux__)
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#endif

namespace terabag {

#if defined(__linux__)
int send_unix_datagram(std::string_view address, std::string_view bytes) {
  sockaddr_un to{};
  // A path ends with a 0 that has to fit; the kernel reads an abstract name by its length.
  if (address.size() < 2 || address.size() >= sizeof to.sun_path || address.find('\0') != address.npos) return EINVAL;
  if (address[0] != '/' && address[0] != '@') return EINVAL;
  to.sun_family = AF_UNIX;
  address.copy(to.sun_path, address.size());
  size_t length = offsetof(sockaddr_un, sun_path) + address.size();
  if (address[0] == '@')
    to.sun_path[0] = '\0';
  else
    ++length;
  const int descriptor = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return errno;
  const ssize_t sent = sendto(descriptor, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&to),
                              static_cast<socklen_t>(length));
  const int error = sent < 0 ? errno : 0;
  close(descriptor);
  return error;
}
#else
int send_unix_datagram(std::string_view, std::string_view) { return ENOTSUP; }
#endif

}  // namespace terabag
