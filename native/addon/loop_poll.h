#pragma once
#include <node_api.h>

#include <functional>

struct uv_poll_s;

namespace terabag {

// Calls back on the environment's thread while a file descriptor is readable.
class LoopPoll {
 public:
  enum class Keeps { kLoopAlive, kNothing };
  // nullptr when the loop cannot watch the descriptor. readable may stop the poll.
  static LoopPoll* start(napi_env env, int descriptor, Keeps keeps, std::function<void()> readable);
  // No call of readable begins after it. The poll is gone when closed is called, on a later turn of the loop.
  void stop(std::function<void()> closed);

 private:
  LoopPoll() = default;

  uv_poll_s* handle_ = nullptr;
  std::function<void()> readable_, closed_;
};

}  // namespace terabag
