#pragma once
#include <string>

namespace terabag {

// Why something cannot be done: in words, and the errno of the system call that failed, or 0 when none did.
struct Failure {
  std::string message;
  int number = 0;
};

}  // namespace terabag
