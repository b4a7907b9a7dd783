// The addon of emulated hosts, apart from the one that serves: measuring needs it, and privileges. Its interface is documented in
// src/lab/hosts/native-hosts.ts.
#include <napi.h>

#include <cmath>
#include <exception>
#include <memory>

#include "addon/arguments.h"
#include "lab/host_network.h"

namespace terabag {
namespace {

constexpr uint32_t kMaxHosts = 1024;
constexpr uint64_t kNsPerUs = 1000;
constexpr uint64_t kMaxDelayUs = 60'000'000;

HostDescription host_of(const Napi::Value& value) {
  if (!value.IsObject()) throw argument_error(value.Env(), "a host has to be an object");
  const auto object = value.As<Napi::Object>();
  return {text(object, "interfaceName"), text(object, "address"), member(object, "ownNamespace").ToBoolean()};
}

std::vector<HostDescription> hosts_of(const Napi::Value& value) {
  if (!value.IsArray()) throw argument_error(value.Env(), "hosts has to be an array");
  const auto array = value.As<Napi::Array>();
  if (array.Length() > kMaxHosts) throw argument_error(value.Env(), "hosts has to have at most " + std::to_string(kMaxHosts) + " elements");
  std::vector<HostDescription> hosts;
  for (uint32_t i = 0; i < array.Length(); ++i) hosts.push_back(host_of(array[i]));
  return hosts;
}

PathConditions conditions_of(const Napi::Value& value) {
  if (!value.IsObject()) throw argument_error(value.Env(), "conditions has to be an object");
  const auto object = value.As<Napi::Object>();
  PathConditions conditions;
  const uint64_t delay_us = integer(object, "delayUs", kMaxDelayUs);
  conditions.delay_ns = delay_us * kNsPerUs;
  conditions.jitter_ns = integer(object, "jitterUs", delay_us) * kNsPerUs;
  conditions.loss_ppm = static_cast<uint32_t>(integer(object, "lossPpm", 1'000'000));
  return conditions;
}

uint32_t number_of(const Napi::Value& value, const char* name, uint32_t most) {
  if (!value.IsNumber()) throw argument_error(value.Env(), std::string(name) + " has to be a number");
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!(number >= 0 && number <= most) || number != std::floor(number))
    throw argument_error(value.Env(), std::string(name) + " has to be an integer from 0 to " + std::to_string(most));
  return static_cast<uint32_t>(number);
}

class HostNetworkObject : public Napi::ObjectWrap<HostNetworkObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "HostNetwork",
        {InstanceMethod<&HostNetworkObject::namespaces>("namespaces"), InstanceMethod<&HostNetworkObject::counters>("counters"),
         InstanceMethod<&HostNetworkObject::set_path>("setPath"), InstanceMethod<&HostNetworkObject::close>("close")});
  }

  explicit HostNetworkObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    const std::vector<HostDescription> hosts = hosts_of(info[0]);
    const PathConditions conditions = conditions_of(info[1]);
    const uint32_t seed = number_of(info[2], "seed", UINT32_MAX);
    num_hosts_ = static_cast<uint32_t>(hosts.size());
    std::string reason;
    try {
      network_ = HostNetwork::open(hosts, conditions, seed, &reason);
    } catch (const std::exception& error) {
      reason = error.what();
    }
    if (network_ == nullptr) throw Napi::Error::New(info.Env(), reason);
  }

 private:
  HostNetwork& network(Napi::Env env) const {
    if (network_ == nullptr) throw Napi::Error::New(env, "closed");
    return *network_;
  }

  Napi::Value namespaces(const Napi::CallbackInfo& info) {
    Napi::Array numbers = Napi::Array::New(info.Env());
    for (const int number : network(info.Env()).namespaces()) numbers.Set(numbers.Length(), number);
    return numbers;
  }

  Napi::Value counters(const Napi::CallbackInfo& info) {
    const NetworkCounters counters = network(info.Env()).counters();
    Napi::Object object = Napi::Object::New(info.Env());
    const auto set = [&object](const char* name, uint64_t count) { object.Set(name, static_cast<double>(count)); };
    set("accepted", counters.accepted);
    set("delivered", counters.delivered);
    set("lost", counters.lost);
    set("overflowed", counters.overflowed);
    set("malformed", counters.malformed);
    set("refused", counters.refused);
    return object;
  }

  void set_path(const Napi::CallbackInfo& info) {
    HostNetwork& open = network(info.Env());
    const uint32_t last = num_hosts_ == 0 ? 0 : num_hosts_ - 1;
    open.set_path(number_of(info[0], "from", last), number_of(info[1], "to", last), conditions_of(info[2]));
  }

  void close(const Napi::CallbackInfo&) { network_.reset(); }

  uint32_t num_hosts_ = 0;
  std::unique_ptr<HostNetwork> network_;
};

}  // namespace
}  // namespace terabag

static Napi::Object init_terabag_lab(Napi::Env env, Napi::Object exports) {
  exports.Set("HostNetwork", terabag::HostNetworkObject::define(env));
  return exports;
}
NODE_API_MODULE(terabag_lab, init_terabag_lab)
