#include "addon/socket_object.h"

#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "addon/arguments.h"
#include "addon/loop_poll.h"
#include "addon/sparse_engine_object.h"
#include "wire/pool_service.h"
#include "wire/zeromq_socket.h"

namespace terabag {
namespace {

constexpr uint64_t kMaxMs = 3'600'000;
constexpr size_t kMaxParts = 16;
constexpr double kNothing = -1, kAnswered = -2;  // of receive

// Keys as Z85, which libzmq checks; null: none.
CurveKeys keys_of(const Napi::Value& value) {
  if (value.IsNull()) return {};
  if (!value.IsObject()) throw argument_error(value.Env(), "keys has to be an object or null");
  const auto object = value.As<Napi::Object>();
  return {text(object, "publicKey"), text(object, "secretKey"), text(object, "serverKey")};
}

PeerLimits limits_of(const Napi::Value& value) {
  if (!value.IsObject()) throw argument_error(value.Env(), "limits has to be an object");
  const auto object = value.As<Napi::Object>();
  const auto limit = [&object](const char* name) { return static_cast<int64_t>(integer(object, name, uint64_t{1} << 50)); };
  return {.connections = static_cast<uint64_t>(limit("connections")),
          .silent_connections = static_cast<uint64_t>(limit("silentConnections")),
          .first_message_ms = limit("firstMessageMs"),
          .silent_bytes = limit("silentBytes"),
          .unread_bytes = limit("unreadBytes"),
          .unread_process_bytes = limit("unreadProcessBytes"),
          .unsent_bytes = static_cast<uint64_t>(limit("unsentBytes")),
          .unsent_process_bytes = static_cast<uint64_t>(limit("unsentProcessBytes")),
          .stalled_ms = limit("stalledMs")};
}

ZeromqSocketOptions options_of(const Napi::Value& value) {
  if (!value.IsObject()) throw argument_error(value.Env(), "options has to be an object");
  const auto object = value.As<Napi::Object>();
  const auto ms = [&object](const char* name) { return static_cast<int>(integer(object, name, kMaxMs)); };
  return {.router = member(object, "router").ToBoolean(),
          .backlog = static_cast<int>(integer(object, "backlog", INT32_MAX)),
          .keys = keys_of(member(object, "keys")),
          .limits = limits_of(member(object, "limits")),
          .ipv6 = member(object, "ipv6").ToBoolean(),
          .high_water_mark = static_cast<int>(integer(object, "highWaterMark", INT32_MAX)),
          .max_message_bytes = static_cast<int64_t>(integer(object, "maxMessageBytes", uint64_t{1} << 40)),
          .handshake_ms = ms("handshakeMs"),
          .tcp_max_retransmit_ms = ms("tcpMaxRetransmitMs"),
          .connect_ms = ms("connectMs")};
}

// Errors of libzmq, and of a socket that is closed.
template <typename Work>
auto told(Napi::Env env, const Work& work) {
  try {
    return work();
  } catch (const ZeromqError& error) {
    Napi::Error told = Napi::Error::New(env, error.what());
    told.Set("errno", Napi::Number::New(env, error.number));
    throw told;
  } catch (const std::logic_error& error) {
    throw Napi::Error::New(env, error.what());
  }
}

class SocketObject : public Napi::ObjectWrap<SocketObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "Socket",
        {InstanceMethod<&SocketObject::connect>("connect"),   InstanceMethod<&SocketObject::disconnect>("disconnect"),
         InstanceMethod<&SocketObject::bind>("bind"),         InstanceMethod<&SocketObject::unbind>("unbind"),
         InstanceMethod<&SocketObject::serve>("serve"),       InstanceMethod<&SocketObject::set_clock_offset>("setClockOffset"),
         InstanceMethod<&SocketObject::served>("served"),     InstanceMethod<&SocketObject::receive>("receive"),
         InstanceMethod<&SocketObject::take>("take"),         InstanceMethod<&SocketObject::lend>("lend"),
         StaticMethod<&SocketObject::give_back>("giveBack"),  InstanceMethod<&SocketObject::peer>("peer"),
         InstanceMethod<&SocketObject::readable>("readable"), InstanceMethod<&SocketObject::send>("send"),
         InstanceMethod<&SocketObject::room>("room"),         InstanceMethod<&SocketObject::watch_peers>("watchPeers"),
         InstanceMethod<&SocketObject::set_keys>("setKeys"),  InstanceMethod<&SocketObject::allow>("allow"),
         InstanceMethod<&SocketObject::failure>("failure"),   InstanceMethod<&SocketObject::close>("close")});
  }

  explicit SocketObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    const Napi::Env env = info.Env();
    const ZeromqSocketOptions options = options_of(info[0]);
    if (!info[1].IsFunction() || !info[2].IsFunction()) throw argument_error(env, "onReadable and onEvent have to be functions");
    const ZeromqApi* api = zeromq_api();
    if (api == nullptr) throw Napi::Error::New(env, "no libzmq is loaded that exports its C interface");
    const auto context = ZeromqContext::shared(*api);
    if (context == nullptr) throw Napi::Error::New(env, "libzmq cannot be started: out of memory or file descriptors");
    told(env, [&] { socket_ = std::make_unique<ZeromqSocket>(context, options); });
    on_readable_ = Napi::Persistent(info[1].As<Napi::Function>());
    on_event_ = Napi::Persistent(info[2].As<Napi::Function>());
    // Both before the loop knows of this object, which goes when one fails.
    const auto [descriptor, events] = told(env, [&] { return std::pair(socket_->descriptor(), socket_->event_descriptor()); });
    // A server waits for clients. Who waits for a server has a timer.
    const auto keeps = options.router ? LoopPoll::Keeps::kLoopAlive : LoopPoll::Keeps::kNothing;
    watch(env, descriptor, keeps, [this] { call(on_readable_, {}); });
    if (events >= 0) watch(env, events, keeps, [this] { tell_events(); });
    // The environment may end before the socket is closed; its loop has to let go of the polls first.
    if (napi_add_async_cleanup_hook(env, end_with_environment, this, &hook_) != napi_ok) {
      stop(0);
      throw Napi::Error::New(env, "the environment is ending");
    }
    Ref();  // Until it is closed: the loop calls it.
  }

 private:
  void watch(Napi::Env env, int descriptor, LoopPoll::Keeps keeps, std::function<void()> readable) {
    LoopPoll* poll = LoopPoll::start(env, descriptor, keeps, std::move(readable));
    if (poll == nullptr) {
      stop(0);
      throw Napi::Error::New(env, "the event loop cannot watch a socket");
    }
    polls_[num_polls_++] = poll;
  }

  // What a callback throws has nobody else to go to.
  void call(const Napi::FunctionReference& function, const std::initializer_list<napi_value>& arguments) {
    const Napi::Env env = Env();
    const Napi::HandleScope scope(env);
    try {
      function.MakeCallback(Value(), arguments);
    } catch (const Napi::Error& error) {
      napi_fatal_exception(env, error.Value());
    }
  }

  void tell_events() {
    const Napi::HandleScope scope(Env());
    while (!socket_->closed()) {
      const ZeromqSocket::Event event = socket_->next_event();
      if (event == ZeromqSocket::kNone) return;
      call(on_event_, {Napi::Boolean::New(Env(), event != ZeromqSocket::kDisconnect)});
    }
  }

  void connect(const Napi::CallbackInfo& info) {
    told(info.Env(), [&] { socket_->connect(endpoint_of(info)); });
  }
  void disconnect(const Napi::CallbackInfo& info) {
    told(info.Env(), [&] { socket_->disconnect(endpoint_of(info)); });
  }
  Napi::Value bind(const Napi::CallbackInfo& info) {
    return Napi::String::New(info.Env(), told(info.Env(), [&] { return socket_->bind(endpoint_of(info)); }));
  }
  void unbind(const Napi::CallbackInfo& info) {
    told(info.Env(), [&] { socket_->unbind(endpoint_of(info)); });
  }
  static std::string endpoint_of(const Napi::CallbackInfo& info) {
    if (!info[0].IsString()) throw argument_error(info.Env(), "endpoint has to be a string");
    return info[0].As<Napi::String>();
  }

  void serve(const Napi::CallbackInfo& info) {
    end_service();
    if (info[0].IsNull()) return;
    const auto number = [&info](size_t at, const char* name) {
      const double value = info[at].IsNumber() ? info[at].As<Napi::Number>().DoubleValue() : -1;
      if (!(value >= 0)) throw argument_error(info.Env(), std::string(name) + " has to be a number, 0 or more");
      return value;
    };
    const std::span<uint8_t> stamp = bytes(info, 1, "stamp");
    service_.emplace(sparse_engine_of(info[0]), stamp, number(2, "nsPerIndex"), number(3, "budgetNs"), number(4, "busyBudgetNs"));
  }
  void set_clock_offset(const Napi::CallbackInfo& info) {
    if (!info[1].IsNumber()) throw argument_error(info.Env(), "offsetMs has to be a number");
    if (service_) service_->set_clock_offset(peer_of(info), info[1].As<Napi::Number>().DoubleValue());
  }
  // Latin-1, so that every byte is one character.
  static std::string peer_of(const Napi::CallbackInfo& info) {
    std::string peer(256, '\0');  // The longest name that libzmq lets a peer have, and a terminator.
    size_t length = 0;
    if (napi_get_value_string_latin1(info.Env(), info[0], peer.data(), peer.size(), &length) != napi_ok)
      throw argument_error(info.Env(), "peer has to be a string");
    peer.resize(length);
    return peer;
  }
  void end_service() {
    if (!service_) return;
    service_->add_counts(&ended_counts_);
    service_.reset();
  }
  Napi::Value served(const Napi::CallbackInfo& info) {
    std::map<std::string, uint64_t> counts = ended_counts_;
    if (service_) service_->add_counts(&counts);
    Napi::Object served = Napi::Object::New(info.Env());
    for (const auto& [name, count] : counts) served.Set(name, static_cast<double>(count));
    return served;
  }

  Napi::Value receive(const Napi::CallbackInfo& info) {
    const double bytes = told(info.Env(), [&] {
      if (!socket_->receive()) return kNothing;
      if (service_ && service_->answer(*socket_)) return kAnswered;
      return static_cast<double>(socket_->body().size());
    });
    return Napi::Number::New(info.Env(), bytes);
  }

  void take(const Napi::CallbackInfo& info) {
    const std::span<uint8_t> into = bytes(info, 0, "into");
    told(info.Env(), [&] {
      const std::span<const unsigned char> body = socket_->body();
      if (into.size() != body.size()) throw std::logic_error("into has to have the bytes of the message: " + std::to_string(body.size()));
      if (!body.empty()) std::memcpy(into.data(), body.data(), body.size());
      socket_->drop();
    });
  }

  static void give_back(const Napi::CallbackInfo& info) {
    if (!info[0].IsArrayBuffer()) throw argument_error(info.Env(), "memory has to be an ArrayBuffer");
    info[0].As<Napi::ArrayBuffer>().Detach();
  }

  Napi::Value lend(const Napi::CallbackInfo& info) {
    return told(info.Env(), [&]() -> Napi::Value {
      std::unique_ptr<ReceivedMessage> message = socket_->give_away();
      const std::span<unsigned char> bytes = message->bytes();
      // The message goes when the memory is detached, or is garbage.
      Napi::Value buffer = Napi::ArrayBuffer::New(
          info.Env(), bytes.data(), bytes.size(), [](Napi::Env, void*, ReceivedMessage* of) { delete of; }, message.get());
      message.release();
      return buffer;
    });
  }

  Napi::Value peer(const Napi::CallbackInfo& info) { return latin1(info.Env(), socket_->peer()); }
  // Every byte is one character.
  static Napi::Value latin1(Napi::Env env, const std::string& bytes) {
    napi_value text;
    if (napi_create_string_latin1(env, bytes.data(), bytes.size(), &text) != napi_ok) throw Napi::Error::New(env, "no memory for a name");
    return {env, text};
  }

  Napi::Value readable(const Napi::CallbackInfo& info) {
    return Napi::Boolean::New(info.Env(), told(info.Env(), [&] { return socket_->readable(); }));
  }

  Napi::Value send(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const std::string peer = peer_of(info);
    const size_t count = info.Length() - 1;
    if (count > kMaxParts) throw argument_error(env, "a message has at most " + std::to_string(kMaxParts) + " parts");
    std::span<const unsigned char> parts[kMaxParts];
    for (size_t part = 0; part < count; ++part) parts[part] = bytes(info, part + 1, "part");
    return Napi::Boolean::New(env, told(env, [&] { return socket_->send(peer, {parts, count}); }));
  }

  Napi::Value room(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(socket_->room(peer_of(info))));
  }

  Napi::Value watch_peers(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Napi::Object peers = Napi::Object::New(env);
    Napi::Array gone = Napi::Array::New(env);
    for (const std::string& peer : told(env, [&] { return socket_->take_gone(); })) {
      if (service_) service_->forget(peer);
      gone.Set(gone.Length(), latin1(env, peer));
    }
    const PeerCounts counts = socket_->peer_counts();
    peers.Set("connections", static_cast<double>(counts.connections));
    peers.Set("strangers", static_cast<double>(counts.strangers));
    peers.Set("cut", static_cast<double>(counts.cut));
    peers.Set("reason", latin1(env, socket_->take_reason()));
    peers.Set("gone", gone);
    return peers;
  }

  void set_keys(const Napi::CallbackInfo& info) {
    const CurveKeys keys = keys_of(info[0]);
    told(info.Env(), [&] { socket_->set_keys(keys); });
  }

  void allow(const Napi::CallbackInfo& info) {
    if (!info[0].IsArray()) throw argument_error(info.Env(), "keys has to be an array");
    const auto array = info[0].As<Napi::Array>();
    std::set<std::string> keys;
    for (uint32_t at = 0; at < array.Length(); ++at) {
      const Napi::Value key = array[at];
      if (!key.IsString()) throw argument_error(info.Env(), "a key has to be a string");
      keys.insert(key.As<Napi::String>());
    }
    socket_->allow(std::move(keys));
  }

  Napi::Value failure(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), socket_->failure()); }

  void close(const Napi::CallbackInfo& info) {
    const auto linger_ms = static_cast<int>(integer(info[0], "lingerMs", 0, kMaxMs));
    if (socket_->closed()) return;
    stop(linger_ms);
    if (hook_ != nullptr) napi_remove_async_cleanup_hook(hook_);
    hook_ = nullptr;
    // They lead back to this object, and the service to tables.
    on_readable_.Reset();
    on_event_.Reset();
    end_service();
    Unref();
  }

  // Polls end before the descriptors that they watch.
  void stop(int linger_ms) {
    for (size_t poll = 0; poll < num_polls_; ++poll) {
      ++*open_polls_;
      polls_[poll]->stop([open = open_polls_, done = when_stopped_] {
        if (--*open == 0 && *done) (*done)();
      });
    }
    num_polls_ = 0;
    socket_->close(linger_ms);
  }

  static void end_with_environment(napi_async_cleanup_hook_handle handle, void* self) {
    auto* socket = static_cast<SocketObject*>(self);
    *socket->when_stopped_ = [handle] { napi_remove_async_cleanup_hook(handle); };
    socket->hook_ = nullptr;
    socket->stop(0);
  }

  std::unique_ptr<ZeromqSocket> socket_;
  std::optional<PoolService> service_;
  std::map<std::string, uint64_t> ended_counts_;  // of services that have ended
  Napi::FunctionReference on_readable_, on_event_;
  LoopPoll* polls_[2] = {};
  size_t num_polls_ = 0;
  // They outlive this object until the loop has closed the polls.
  std::shared_ptr<int> open_polls_ = std::make_shared<int>(0);
  std::shared_ptr<std::function<void()>> when_stopped_ = std::make_shared<std::function<void()>>();
  napi_async_cleanup_hook_handle hook_ = nullptr;
};

Napi::Value checksum_of_answer(const Napi::CallbackInfo& info) {
  if (!info[0].IsNumber()) throw argument_error(info.Env(), "id has to be a number");
  const double id = info[0].As<Napi::Number>().DoubleValue();
  return Napi::Number::New(info.Env(), answer_checksum(id, bytes(info, 1, "stamp"), bytes(info, 2, "vectors")));
}

Napi::Value sockets_available(const Napi::CallbackInfo& info) { return Napi::Boolean::New(info.Env(), zeromq_api() != nullptr); }

}  // namespace

Napi::Function define_socket(Napi::Env env) { return SocketObject::define(env); }
Napi::Function define_answer_checksum(Napi::Env env) { return Napi::Function::New(env, checksum_of_answer); }
Napi::Function define_sockets_available(Napi::Env env) { return Napi::Function::New(env, sockets_available); }

}  // namespace terabag
