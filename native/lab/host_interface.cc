#include "lab/host_interface.h"

#include <unistd.h>

#include <utility>

#ifdef __linux__
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <thread>
#endif

namespace terabag {

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(number_, other.number_);
  return *this;
}
Descriptor::~Descriptor() {
  if (number_ >= 0) close(number_);
}

#ifdef __linux__
namespace {

// Frames that may wait for the switch while it has no core: the kernel drops what is beyond, which would be loss that nobody asked for.
constexpr int kQueuedFrames = 16384;

bool failed(const std::string& what, std::string* error) {
  *error = what + ": " + std::strerror(errno);
  return false;
}

ifreq request_for(const std::string& interface_name) {
  ifreq request{};
  std::memcpy(request.ifr_name, interface_name.data(), interface_name.size());
  return request;
}

bool set_address(int socket, unsigned long operation, const std::string& interface_name, const char* address, std::string* error) {
  ifreq request = request_for(interface_name);
  sockaddr_in in{};
  in.sin_family = AF_INET;
  if (inet_pton(AF_INET, address, &in.sin_addr) != 1) {
    *error = std::string("not an IPv4 address: ") + address;
    return false;
  }
  std::memcpy(&request.ifr_addr, &in, sizeof in);
  return ioctl(socket, operation, &request) == 0 || failed("an address cannot be given to " + interface_name, error);
}

bool bring_up(int socket, const std::string& interface_name, std::string* error) {
  ifreq request = request_for(interface_name);
  if (ioctl(socket, SIOCGIFFLAGS, &request) != 0) return failed("there is no interface " + interface_name, error);
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  return ioctl(socket, SIOCSIFFLAGS, &request) == 0 || failed("the interface cannot be brought up: " + interface_name, error);
}

// IPv6 would send frames of its own, which would take losses away from those that are measured. Without it there is nothing to turn off.
void turn_off_ipv6(const std::string& interface_name) {
  const Descriptor setting(open(("/proc/sys/net/ipv6/conf/" + interface_name + "/disable_ipv6").c_str(), O_WRONLY | O_CLOEXEC));
  if (setting.number() >= 0 && write(setting.number(), "1", 1) != 1) return;
}

// In the namespace of the calling thread: a TAP belongs to that of the thread that opened it.
bool open_tap(const HostDescription& description, HostInterface* host, std::string* error) {
  host->frames = Descriptor(open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (host->frames.number() < 0) return failed("/dev/net/tun cannot be opened", error);
  const std::string& name = description.interface_name;
  ifreq request = request_for(name);
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_TUN_EXCL);
  if (ioctl(host->frames.number(), TUNSETIFF, &request) != 0) return failed("a TAP interface cannot be made: " + name, error);
  turn_off_ipv6(name);
  const Descriptor socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (socket.number() < 0) return failed("no socket", error);
  request = request_for(name);
  request.ifr_qlen = kQueuedFrames;
  if (ioctl(socket.number(), SIOCSIFTXQLEN, &request) != 0) return failed("the queue cannot be lengthened of " + name, error);
  return set_address(socket.number(), SIOCSIFADDR, name, description.address.c_str(), error) &&
         set_address(socket.number(), SIOCSIFNETMASK, name, "255.255.255.0", error) && bring_up(socket.number(), name, error) &&
         (!description.own_namespace || bring_up(socket.number(), "lo", error));
}

bool open_in_new_namespace(const HostDescription& description, HostInterface* host, std::string* error) {
  if (unshare(CLONE_NEWNET) != 0) return failed("a network namespace cannot be made", error);
  host->net_namespace = Descriptor(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (host->net_namespace.number() < 0) return failed("the network namespace cannot be opened", error);
  return open_tap(description, host, error);
}

}  // namespace

bool open_host_interface(const HostDescription& description, HostInterface* host, std::string* error) {
  if (description.interface_name.empty() || description.interface_name.size() >= IFNAMSIZ) {
    *error = "an interface has a name of 1 to 15 bytes: " + description.interface_name;
    return false;
  }
  if (!description.own_namespace) return open_tap(description, host, error);
  bool opened = false;
  // A thread of its own enters the namespace, and never has to come back.
  std::thread([&] { opened = open_in_new_namespace(description, host, error); }).join();
  return opened;
}
#else
bool open_host_interface(const HostDescription&, HostInterface*, std::string* error) {
  *error = "network namespaces and TAP interfaces are Linux's";
  return false;
}
#endif

}  // namespace terabag
