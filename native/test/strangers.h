#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "test/random_bits.h"

namespace terabag {

inline std::string frame(char flags, const std::string& body) { return std::string{flags, static_cast<char>(body.size())} + body; }

// The greeting of ZMTP 3.1 and, of NULL, the command that ends the handshake (rfc.zeromq.org/spec/37).
inline std::string handshake(const std::string& mechanism) {
  using namespace std::string_literals;
  std::string bytes = "\xff\0\0\0\0\0\0\0\0\x7f\x03\x01"s + mechanism;
  bytes.resize(64);
  return mechanism == "NULL" ? bytes + frame(4, "\5READY\x0bSocket-Type\0\0\0\6DEALER"s) : bytes;
}

// What strangers send: nothing, bytes that are no ZMTP, a handshake that ends somewhere, and commands and messages after it, sound or not.
inline std::string of_stranger() {
  using namespace std::string_literals;
  if (below(2) == 0) return std::string(std::vector<size_t>{0, 10, 64, 100'000}[below(4)], static_cast<char>(below(256)));
  std::string bytes = handshake(below(4) == 0 ? "CURVE" : "NULL");
  if (below(4) == 0) return bytes.substr(0, below(bytes.size()));
  const std::string commands[] = {"\4PING\0\0 context"s,           "\4PONG", "\5ERROR\003400", "\x09SUBSCRIBE", "\6CANCEL", "\5READY",
                                  "\5HELLO"s + std::string(200, 0)};
  for (uint64_t left = below(5); left > 0; --left) {
    const bool command = below(2) == 0;
    bytes +=
        frame(static_cast<char>(command ? 4 : below(8)), command ? commands[below(std::size(commands))] : std::string(below(120), 'x'));
  }
  return bytes;
}

}  // namespace terabag
