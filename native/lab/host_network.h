#pragma once
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "lab/frame_switch.h"
#include "lab/host_interface.h"

namespace terabag {

struct NetworkCounters : SwitchCounters {
  uint64_t refused = 0;  // Frames that an interface did not take, because it was down or out of memory.
};

// Hosts of one machine on a switch of their own, which a thread runs: it sleeps until a frame comes or is due.
class HostNetwork {
 public:
  // Null, and the reason in *error, when a host cannot be made; nothing of it remains then. May throw std::bad_alloc or std::system_error.
  static std::unique_ptr<HostNetwork> open(const std::vector<HostDescription>& hosts, const PathConditions& conditions, uint64_t seed,
                                           std::string* error);
  // Ends the thread, then the interfaces.
  ~HostNetwork();
  HostNetwork(const HostNetwork&) = delete;
  HostNetwork& operator=(const HostNetwork&) = delete;

  // One per host: the descriptor of its namespace in this process, or -1.
  std::vector<int> namespaces() const;
  NetworkCounters counters() const;
  // As FrameSwitch::set_path; ports are the hosts' numbers.
  void set_path(uint32_t from, uint32_t to, const PathConditions& conditions);

 private:
  HostNetwork(std::vector<HostInterface> hosts, Descriptor stop, const PathConditions& conditions, uint64_t seed);
  void run();
  void read_frames(uint32_t port);
  void deliver();

  std::vector<HostInterface> hosts_;
  Descriptor stop_;
  mutable std::mutex mutex_;  // Of the switch and its counter; the thread holds it while it moves frames, and not while it waits.
  FrameSwitch frames_;
  uint64_t refused_ = 0;
  std::thread thread_;
};

}  // namespace terabag
