#pragma once
#include <cstdint>
#include <string>
#include <utility>

namespace terabag {

// What the sockets of an endpoint's connections are known by: a port of TCP, or the path of a Unix socket.
class EndpointAddress {
 public:
  // endpoint: tcp://HOST:PORT or ipc://PATH, as libzmq names what is bound.
  explicit EndpointAddress(const std::string& endpoint);
  EndpointAddress(uint16_t port, std::string path) : port_(port), path_(std::move(path)) {}
  bool operator==(const EndpointAddress& other) const = default;
  bool operator<(const EndpointAddress& other) const { return port_ != other.port_ ? port_ < other.port_ : path_ < other.path_; }
  // Of a connection that was accepted here, and of one that leads here; not of the socket that listens.
  bool accepted(int descriptor) const;
  bool connected(int descriptor) const;

 private:
  uint16_t port_ = 0;
  std::string path_;
};

}  // namespace terabag
