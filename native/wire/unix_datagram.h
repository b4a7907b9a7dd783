#pragma once
#include <string_view>

namespace terabag {

// Sends one datagram to a Unix socket, named by its path or, after an @, in the abstract namespace of Linux. Never waits. Returns 0 or the
// errno: EAGAIN while the receiver's queue is full, EINVAL for an address that is no such name, ENOTSUP on other systems than Linux.
int send_unix_datagram(std::string_view address, std::string_view bytes);

}  // namespace terabag
