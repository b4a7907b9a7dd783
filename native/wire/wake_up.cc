#include "wire/wake_up.h"

#if defined(__linux__)
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>
#endif

namespace terabag {

#if defined(__linux__)
WakeUp::WakeUp() : descriptor_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
WakeUp::~WakeUp() {
  if (descriptor_ >= 0) close(descriptor_);
}
void WakeUp::signal() const {
  const uint64_t one = 1;
  // Full means that it was signalled.
  static_cast<void>(!write(descriptor_, &one, sizeof one));
}
bool WakeUp::take() const {
  uint64_t count = 0;
  return read(descriptor_, &count, sizeof count) == sizeof count;
}
#else
WakeUp::WakeUp() = default;
WakeUp::~WakeUp() = default;
void WakeUp::signal() const {}
bool WakeUp::take() const { return false; }
#endif

}  // namespace terabag
