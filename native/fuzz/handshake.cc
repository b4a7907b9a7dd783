// libFuzzer target: any bytes as what a stranger sends to a bound socket, with keys or without, over TCP or a Unix socket: greetings,
// commands, frames and raw bytes, cut off anywhere. After each, a sound client of that socket is still connected and answered, and neither
// memory nor descriptors pile up. libzmq itself is not instrumented; what it answers guides the fuzzer instead.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sanitizer/allocator_interface.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "kernels/mix64.h"
#include "test/zeromq_library.h"
#include "wire/zeromq_socket.h"

namespace {

using namespace terabag;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// What was seen from outside, counted as if it were code that was reached.
__attribute__((section("__libfuzzer_extra_counters"))) uint8_t seen[4096];
void note(uint64_t what, uint64_t detail) { seen[mix64(what * 1000003 + detail) % sizeof seen] = 1; }
uint64_t hash(const std::string& text) {
  uint64_t value = 0;
  for (const char each : text) value = mix64(value ^ static_cast<unsigned char>(each));
  return value;
}

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

constexpr size_t kGreetingBytes = 64, kHelloBytes = 202;
constexpr size_t kMostBytes = 256 * 1024;  // that one stranger sends
constexpr int64_t kMaxMessageBytes = 1024 * 1024;
constexpr size_t kStrangers = 16;  // that stay
constexpr size_t kMostHeap = size_t{256} * 1024 * 1024;
constexpr int kMostDescriptors = 120;  // twice what there are
constexpr auto kServedWithin = milliseconds(10'000);
constexpr auto kAnswersWithin = milliseconds(20);
constexpr auto kTakenWithin = milliseconds(500);

constexpr PeerLimits kLimits{.connections = 64,
                             .silent_connections = 24,
                             .first_message_ms = 500,
                             .silent_bytes = 64 * 1024,
                             .unread_bytes = kMaxMessageBytes,
                             .unread_process_bytes = 8 * kMaxMessageBytes,
                             .unsent_bytes = 4 * kMaxMessageBytes,
                             .unsent_process_bytes = 64 * kMaxMessageBytes,
                             .stalled_ms = 500};

ZeromqSocketOptions options_of(bool router, CurveKeys keys) {
  return {.router = router,
          .backlog = router ? 64 : 0,
          .keys = std::move(keys),
          .limits = kLimits,
          .ipv6 = false,
          .high_water_mark = 4096,
          .max_message_bytes = kMaxMessageBytes,
          .handshake_ms = 500,
          .tcp_max_retransmit_ms = 1000,
          .connect_ms = 1000};
}

void send_all(int descriptor, const std::string& bytes) {
  if (send(descriptor, bytes.data(), bytes.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(bytes.size())) fail("nothing was sent");
}
std::string receive_all(int descriptor, size_t count) {
  std::string bytes(count, '\0');
  if (recv(descriptor, bytes.data(), count, MSG_WAITALL) != static_cast<ssize_t>(count)) fail("nothing was received");
  return bytes;
}

// Of ZMTP 3.1 (rfc.zeromq.org/spec/37).
std::string greeting_of(const std::string& mechanism, bool as_server = false) {
  std::string bytes(kGreetingBytes, '\0');
  bytes[0] = '\xff', bytes[8] = 1, bytes[9] = 0x7f, bytes[10] = 3, bytes[11] = 1;
  bytes.replace(12, mechanism.size(), mechanism);
  bytes[32] = as_server ? 1 : 0;
  return bytes;
}

int new_socket(int family) {
  const int made = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (made < 0) fail("no socket");
  // Pieces go out as they come.
  const int yes = 1;
  if (family == AF_INET) setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  return made;
}
sockaddr_in loopback(uint32_t host, unsigned port) {
  sockaddr_in address{};
  address.sin_family = AF_INET, address.sin_port = htons(static_cast<uint16_t>(port)), address.sin_addr.s_addr = htonl(host);
  return address;
}

const KeyPair& server_keys() {
  static const KeyPair keys = new_key_pair();
  return keys;
}
const KeyPair& client_keys() {
  static const KeyPair keys = new_key_pair();
  return keys;
}
CurveKeys keys_of_client() { return {client_keys().public_key, client_keys().secret_key, server_keys().public_key}; }

// What libzmq's own clients of servers with keys say.
class Overheard {
 public:
  explicit Overheard(std::shared_ptr<ZeromqContext> context) : context_(std::move(context)) {
    sockaddr_in address = loopback(INADDR_LOOPBACK, 0);
    socklen_t length = sizeof address;
    if (bind(listener_, reinterpret_cast<sockaddr*>(&address), length) != 0 || listen(listener_, 1) != 0 ||
        getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length) != 0)
      fail("nobody listens");
    endpoint_ = "tcp://127.0.0.1:" + std::to_string(ntohs(address.sin_port));
    ZeromqSocket client(context_, options_of(false, keys_of_client()));
    const int accepted = connect(&client);
    send_all(accepted, greeting_of("CURVE", true));
    hello_ = receive_all(accepted, kGreetingBytes + kHelloBytes).substr(kGreetingBytes);
    close(accepted);
  }

  // Which a server takes however often it comes: who has it gets as far as INITIATE.
  const std::string& hello() const { return hello_; }

  // Makes a stranger one whose handshake is done, by passing on what a client and its server say. What the client would say next, an
  // encrypted message, is kept.
  template <typename Turn>
  std::string let_in(int stranger, const Turn& turn) {
    ZeromqSocket client(context_, options_of(false, keys_of_client()));
    const int accepted = connect(&client);
    bool in = false;
    for (const auto until = Clock::now() + kServedWithin; !in;) {
      in = client.next_event() == ZeromqSocket::kHandshake;
      pass_on(accepted, stranger);
      pass_on(stranger, accepted);
      turn();
      if (Clock::now() > until) fail("a client with keys is not let in");
    }
    const std::span<const unsigned char> part(reinterpret_cast<const unsigned char*>("message"), 7);
    client.send({}, {&part, 1});
    std::string said(256, '\0');
    const ssize_t count = recv(accepted, said.data(), said.size(), 0);
    close(accepted);
    return said.substr(0, count < 0 ? 0 : static_cast<size_t>(count));
  }

 private:
  int connect(ZeromqSocket* client) const {
    client->connect(endpoint_);
    return accept(listener_, nullptr, nullptr);
  }
  static void pass_on(int from, int to) {
    char bytes[1024];
    const ssize_t count = recv(from, bytes, sizeof bytes, MSG_DONTWAIT);
    if (count > 0) send_all(to, std::string(bytes, static_cast<size_t>(count)));
  }

  const std::shared_ptr<ZeromqContext> context_;
  const int listener_ = new_socket(AF_INET);
  std::string endpoint_, hello_;
};

// A server and its sound client.
class Served {
 public:
  Served(const std::shared_ptr<ZeromqContext>& context, const std::string& endpoint, bool encrypted)
      : encrypted_(encrypted),
        server_(context, options_of(true, encrypted ? CurveKeys{server_keys().public_key, server_keys().secret_key, ""} : CurveKeys{})),
        client_(context, options_of(false, encrypted ? keys_of_client() : CurveKeys{})) {
    if (encrypted) server_.allow({client_keys().public_key});
    endpoint_ = server_.bind(endpoint);
    client_.connect(endpoint_);
    wait_until(kServedWithin, [this] { return client_.next_event() == ZeromqSocket::kHandshake; }, "no client was let in");
    ask();
  }

  bool encrypted() const { return encrypted_; }

  int connect_stranger() const {
    unsigned port = 0;
    int stranger = -1, status = -1;
    if (std::sscanf(endpoint_.c_str(), "tcp://127.0.0.1:%u", &port) == 1) {
      stranger = new_socket(AF_INET);
      // From many addresses: ports of ended connections are free again only after a minute.
      static uint32_t host = 0;
      host = (host + 1) % 60'000;
      const sockaddr_in from = loopback((127u << 24) + (1u << 16) + 1 + host, 0), to = loopback(INADDR_LOOPBACK, port);
      if (bind(stranger, reinterpret_cast<const sockaddr*>(&from), sizeof from) == 0)
        status = connect(stranger, reinterpret_cast<const sockaddr*>(&to), sizeof to);
    } else {
      stranger = new_socket(AF_UNIX);
      sockaddr_un to{};
      to.sun_family = AF_UNIX;
      endpoint_.substr(std::strlen("ipc://")).copy(to.sun_path, sizeof to.sun_path - 1);
      status = connect(stranger, reinterpret_cast<sockaddr*>(&to), sizeof to);
    }
    if (status != 0) fail("a server does not accept");
    return stranger;
  }

  // Does what an event loop does with a server.
  void turn() {
    while (server_.next_event() != ZeromqSocket::kNone) {
    }
    for (int count = 0; count < 256 && server_.receive(); ++count) {
      const std::span<const unsigned char> bytes = server_.body();
      const std::string peer = server_.peer();
      note(1, std::bit_width(bytes.size()));
      server_.send(peer, {&bytes, 1});
    }
    const std::string reason = server_.take_reason();
    if (!reason.empty()) note(2, hash(reason.substr(0, 20)));
  }

  template <typename Done>
  void wait_until(milliseconds within, const Done& done, const char* otherwise, int stranger = -1) {
    for (const auto until = Clock::now() + within;;) {
      turn();
      if (done()) return;
      if (Clock::now() > until) {
        if (otherwise != nullptr) fail(otherwise);
        return;
      }
      pollfd descriptors[] = {{server_.descriptor(), POLLIN, 0}, {client_.descriptor(), POLLIN, 0}, {stranger, POLLIN, 0}};
      poll(descriptors, 3, 1);
    }
  }

  void ask() {
    ++question_;
    const std::span<const unsigned char> part(reinterpret_cast<const unsigned char*>(&question_), sizeof question_);
    if (!client_.send({}, {&part, 1})) fail("a sound client cannot send");
    const auto answered = [this, part] {
      if (client_.next_event() != ZeromqSocket::kNone) fail("a sound client was cut off");
      if (!client_.receive()) return false;
      if (!std::ranges::equal(client_.body(), part)) fail("a sound client got what is not its own");
      return true;
    };
    wait_until(kServedWithin, answered, "a sound client is not answered");
    server_.take_gone();
  }

 private:
  const bool encrypted_;
  ZeromqSocket server_, client_;
  std::string endpoint_;
  uint64_t question_ = 0;
};

struct Servers {
  std::shared_ptr<ZeromqContext> context = ZeromqContext::shared(loaded_zeromq());
  Overheard overheard{context};
  std::vector<std::unique_ptr<Served>> all;
  std::deque<int> strangers;

  Servers() {
    char directory[] = "/tmp/terabag-fuzz-XXXXXX";
    if (mkdtemp(directory) == nullptr) fail("no directory");
    for (const bool encrypted : {false, true}) {
      all.push_back(std::make_unique<Served>(context, "tcp://127.0.0.1:*", encrypted));
      all.push_back(std::make_unique<Served>(context, std::string("ipc://") + directory + (encrypted ? "/keys" : "/plain"), encrypted));
    }
  }
};

// Takes pieces off the input; zeros when it ends.
struct Input {
  const uint8_t* data;
  size_t left;
  uint8_t byte() {
    if (left == 0) return 0;
    --left;
    return *data++;
  }
  std::string bytes(size_t count) {
    count = std::min(count, left);
    const std::string taken(reinterpret_cast<const char*>(data), count);
    data += count, left -= count;
    return taken;
  }
};

enum FrameFlag : uint8_t { kMore = 1, kLong = 2, kCommand = 4 };

std::string frame_of(uint8_t flags, uint64_t length, const std::string& body) {
  std::string bytes(1, static_cast<char>(flags));
  for (int shift = (flags & kLong) != 0 ? 56 : 0; shift >= 0; shift -= 8) bytes += static_cast<char>(length >> shift);
  return bytes + body;
}
std::string sound_frame(uint8_t flags, const std::string& body) {
  return frame_of(body.size() > 255 ? flags | kLong : flags & ~kLong, body.size(), body);
}

const char* const kCommands[] = {"READY", "HELLO", "INITIATE",  "WELCOME", "MESSAGE", "ERROR",
                                 "PING",  "PONG",  "SUBSCRIBE", "CANCEL",  "JOIN",    ""};
// Lengths of bodies that CURVE checks, and what a PING and a MESSAGE have at least.
const size_t kLengths[] = {0, 1, 6, 15, 24, 30, 33, 128, 168, 200, 255, 256, 257, 259, 300, 511, 512, 1024, 8192};
const char* const kSocketTypes[] = {"DEALER", "ROUTER", "REQ", "PUB", "PAIR", "", "DEALERS", "REP"};

std::string property(const std::string& name, uint32_t length, const std::string& value) {
  std::string bytes(1, static_cast<char>(name.size()));
  bytes += name;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(length >> shift);
  return bytes + value;
}

std::string command(const std::string& name, const std::string& body) {
  return sound_frame(kCommand, std::string(1, static_cast<char>(name.size())) + name + body);
}

std::string changed(std::string bytes, Input* input) {
  for (int changes = input->byte() % 4; changes > 0; --changes) {
    const size_t at = input->byte() % bytes.size();
    bytes[at] = static_cast<char>(input->byte());
  }
  return bytes;
}

// A piece of what a stranger says. told: what a client would say next.
std::string piece_of(int kind, bool encrypted, const std::string& told, Input* input) {
  const uint8_t choice = input->byte();
  switch (kind) {
    case 0: return greeting_of(encrypted ? "CURVE" : "NULL");
    case 1: {
      static const char* const mechanisms[] = {"NULL", "PLAIN", "CURVE", "GSSAPI", "", "CURVECURVECURVECURVE"};
      return changed(greeting_of(mechanisms[choice % std::size(mechanisms)], (choice & 128) != 0), input);
    }
    case 2: {
      const std::string type = kSocketTypes[choice % 4 == 0 ? choice / 4 % std::size(kSocketTypes) : 0];
      std::string properties = property("Socket-Type", static_cast<uint32_t>(type.size()), type);
      if ((choice & 64) != 0) {
        const std::string name = input->bytes(input->byte() % 20);
        properties += property("Identity", static_cast<uint32_t>(name.size()), name);
      }
      return (choice & 128) != 0 ? changed(command("READY", properties), input) : command("READY", properties);
    }
    case 3: return command(kCommands[choice % std::size(kCommands)], input->bytes(input->byte()));
    case 4: return (choice & 1) != 0 ? changed(told, input) : told;
    case 5: {
      // The name and its length byte count.
      const size_t length = kLengths[input->byte() % std::size(kLengths)] + input->byte() % 3;
      std::string whole = command(kCommands[choice % 5], std::string(length, static_cast<char>(input->byte())));
      return (choice & 128) != 0 ? changed(whole, input) : whole;
    }
    case 6: {
      // A length of any size, and fewer bytes or more.
      const uint64_t length = (uint64_t{input->byte()} << (input->byte() & 63)) - (choice & 1);
      return frame_of(input->byte(), length, input->bytes(input->byte()));
    }
    case 7: {
      const std::string body(input->byte() % 64 == 0 ? 40'000 : input->byte() % 4, 'f');
      const std::string frame = sound_frame((choice & 1) != 0 ? kMore : 0, body);
      std::string frames;
      for (size_t left = size_t{1} << (choice >> 4); left > 0 && frames.size() < kMostBytes; --left) frames += frame;
      return frames;
    }
    case 8: return input->bytes(choice);
    case 9: {
      // Earlier versions of ZMTP.
      const std::string version2("\xff\0\0\0\0\0\0\0\1\x7f\1\5\0\0", 14), version1("\1\0", 2);
      return changed((choice & 1) != 0 ? version1 : version2, input);
    }
    case 10: return sound_frame(choice & kMore, input->bytes(input->byte()));
    default: return {};
  }
}
constexpr int kWait = 11, kKinds = 12;
// Of those who go on as they should: messages for the most part.
constexpr int kSoundKinds[] = {10, 10, 10, 10, 7, 6, 3, kWait};

// A connection to a server.
class Stranger {
 public:
  explicit Stranger(Served* served) : served_(*served), descriptor_(served->connect_stranger()) {}
  int descriptor() const { return descriptor_; }
  bool may_say() const { return there_ && sent_ < kMostBytes; }

  void say(std::string bytes) {
    bytes.resize(std::min(bytes.size(), kMostBytes - sent_));
    sent_ += bytes.size();
    const auto done = [&] {
      const ssize_t count = bytes.empty() ? 0 : send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      there_ = (count >= 0 || errno == EAGAIN) && hear();
      if (count > 0) bytes.erase(0, static_cast<size_t>(count));
      return bytes.empty() || !there_;
    };
    served_.wait_until(kTakenWithin, done, nullptr, descriptor_);
  }

  // Until the server has said so many bytes in all.
  void listen(size_t bytes, milliseconds within) {
    served_.wait_until(within, [&] { return !hear() || heard_ >= bytes; }, nullptr, descriptor_);
  }
  size_t heard() const { return heard_; }

  // Until the server has read everything, or as long as most do that will: libzmq does not read while it waits for somebody else.
  void end() {
    shutdown(descriptor_, SHUT_WR);
    served_.wait_until(kAnswersWithin, [&] { return !hear(); }, nullptr, descriptor_);
    close(descriptor_);
  }

 private:
  // False at the end.
  bool hear() {
    char bytes[4096];
    while (there_) {
      const ssize_t count = recv(descriptor_, bytes, sizeof bytes, MSG_DONTWAIT);
      if (count < 0) {
        there_ = errno == EAGAIN || errno == EINTR;
        break;
      }
      there_ = count > 0;
      note(3 + std::min<size_t>(heard_, 2 * kGreetingBytes), hash(std::string(bytes, std::min<size_t>(static_cast<size_t>(count), 10))));
      heard_ += static_cast<size_t>(count);
    }
    return there_;
  }

  Served& served_;
  const int descriptor_;
  size_t sent_ = 0;
  size_t heard_ = 0;
  bool there_ = true;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Servers& servers = *new Servers();
  Input input{data, size};
  const uint8_t shape = input.byte() & ~16;
  Served& served = *servers.all[shape % servers.all.size()];
  Stranger stranger(&served);
  std::string told = servers.overheard.hello();
  // How far its handshake goes as it should.
  const int stage = shape >> 2 & 3;
  if (stage == 3 && served.encrypted()) {
    told = servers.overheard.let_in(stranger.descriptor(), [&] { served.turn(); });
  } else if (stage > 0) {
    stranger.say(greeting_of(served.encrypted() ? "CURVE" : "NULL"));
    stranger.listen(kGreetingBytes, kAnswersWithin);
    if (stage > 1) {
      stranger.say(served.encrypted() ? told : command("READY", property("Socket-Type", 6, "DEALER")));
      stranger.listen(kGreetingBytes + 1, kAnswersWithin);
    }
  }
  while (input.left > 0 && stranger.may_say()) {
    const uint8_t choice = input.byte();
    const int kind = (shape & 32) != 0 ? kSoundKinds[choice % std::size(kSoundKinds)] : choice % kKinds;
    if (kind == kWait)
      stranger.listen(stranger.heard() + 1, milliseconds(2));
    else
      stranger.say(piece_of(kind, served.encrypted(), told, &input));
  }
  if ((shape & 16) == 0) {
    stranger.end();
  } else {
    servers.strangers.push_back(stranger.descriptor());
    if (servers.strangers.size() > kStrangers) {
      close(servers.strangers.front());
      servers.strangers.pop_front();
    }
  }
  served.ask();
  if (__sanitizer_get_current_allocated_bytes() > kMostHeap) fail("memory piles up");
  const int descriptor = dup(0);
  auto count = [&] {
    int n = 0;
    for (int fd = 3; fd < 1000; ++fd) {
      pollfd pf{fd, POLLIN | POLLRDHUP, 0};
      poll(&pf, 1, 0);
      n += (pf.revents & POLLHUP) && !(pf.revents & POLLNVAL);
    }
    return n;
  };
  static int last = 0;
  if (int now = count(); now > last) {
    served.wait_until(milliseconds(300), [] { return false; }, nullptr);
    now = count();
    if (now > last) {
      last = now;
      std::fprintf(stderr, "leak server %d stage %d: ", shape % 4, stage);
      for (size_t i = 0; i < size && i < 40; ++i) std::fprintf(stderr, "%02x", data[i]);
      std::fprintf(stderr, "\n");
    }
  }
  if (descriptor > kMostDescriptors) fail("descriptors pile up");
  close(descriptor);
  return 0;
}
