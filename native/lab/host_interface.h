#pragma once
#include <string>

namespace terabag {

// Closes what it holds.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(other.number_) { other.number_ = -1; }
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();
  int number() const { return number_; }

 private:
  int number_;
};

struct HostDescription {
  std::string interface_name;  // At most 15 bytes.
  std::string address;         // IPv4, in a network of 24 bits.
  bool own_namespace;          // Else the interface is one of the namespace that the process is in.
};

// A TAP interface with an address, and the network namespace that it is in. Both end with their descriptors, so that a process that dies
// leaves none behind; a namespace lives on while a process runs in it. The namespace has no other interface than loopback.
struct HostInterface {
  Descriptor frames;         // Reads and writes a frame a call; non-blocking.
  Descriptor net_namespace;  // Of a host with a namespace of its own; else none.
};

// Makes a host's interface, and brings it up. False, and the reason in *error, when the system or missing privileges do not allow that.
// Needs CAP_NET_ADMIN, and CAP_SYS_ADMIN for a namespace. Linux only.
bool open_host_interface(const HostDescription& description, HostInterface* host, std::string* error);

}  // namespace terabag
