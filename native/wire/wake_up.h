#pragma once

namespace terabag {

// Wakes whoever polls its descriptor, from any thread.
class WakeUp {
 public:
  WakeUp();  // Without file descriptors it has none (-1).
  ~WakeUp();
  WakeUp(const WakeUp&) = delete;
  int descriptor() const { return descriptor_; }
  void signal() const;
  // Whether somebody has signalled since the last call.
  bool take() const;

 private:
  int descriptor_ = -1;
};

}  // namespace terabag
