// The data plane under load, for the thread sanitizer: servers that pool and clients of many threads, with keys and without, that open, are
// cut off, change keys, do not read, and close in the middle of it all. data_plane_test [SECONDS], 20 by default. libzmq is not
// instrumented: its own accesses are left out, and where it hands memory from thread to thread is told here.
#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/sparse_engine.h"
#include "test/random_bits.h"
#include "test/strangers.h"
#include "test/zeromq_library.h"
#include "wire/pool_message.h"
#include "wire/pool_service.h"
#include "wire/zeromq_socket.h"

extern "C" {
void __tsan_acquire(void* address);
void __tsan_release(void* address);
const char* __tsan_default_suppressions() { return "called_from_lib:addon.node\n"; }
const char* __tsan_default_options() { return "second_deadlock_stack=1"; }
// The sanitizer takes for races what is done to a descriptor while others close it. Those of connections are libzmq's, which may close them
// at any time (see Connection), and whose numbers others get again: it is not told of them, nor of their duplicates, which are made and
// closed by one thread. The linker puts these in the place of the system's.
int __real_close(int descriptor);
static thread_local int duplicate = -1;
int __wrap_fcntl(int descriptor, int command, int least) {
  return duplicate = static_cast<int>(syscall(SYS_fcntl, descriptor, command, least));
}
int __wrap_close(int descriptor) {
  return descriptor == std::exchange(duplicate, -1) ? static_cast<int>(syscall(SYS_close, descriptor)) : __real_close(descriptor);
}
int __wrap_fstat(int descriptor, struct stat* status) { return static_cast<int>(syscall(SYS_fstat, descriptor, status)); }
int __wrap_ioctl(int descriptor, unsigned long request, void* argument) {
  return static_cast<int>(syscall(SYS_ioctl, descriptor, request, argument));
}
}

namespace terabag {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr uint32_t kRows = 4096, kDim = 64;
constexpr size_t kFewIds = 20, kManyIds = 6000;  // those are pooled by several threads
constexpr size_t kLongAnswer = 300'000;          // of a mapping
const unsigned char kStamp[kStampBytes] = {7};
constexpr unsigned char kAskForLong = 'l';
constexpr PeerLimits kLimits{.connections = 40,
                             .silent_connections = 6,
                             .first_message_ms = 400,
                             .silent_bytes = 64 * 1024,
                             .unread_bytes = 1024 * 1024,
                             .unread_process_bytes = 4 * 1024 * 1024,
                             .unsent_bytes = 2 * 1024 * 1024,
                             .unsent_process_bytes = 64 * 1024 * 1024,
                             .stalled_ms = 150};

// What happened, so that a run without load does not pass.
struct Counts {
  std::atomic<uint64_t> pooled{0}, pooled_by_many{0}, echoed{0}, long_answers{0}, cut{0}, strangers{0}, gone{0}, servers{0}, clients{0},
      stood_by{0};
};
Counts counts;

void check(bool sound, const char* what) {
  if (sound) return;
  std::fprintf(stderr, "%s\n", what);
  std::_Exit(1);
}

// Memory of ours that libzmq hands from the thread that sends it to the one that releases it.
struct Lent {
  void (*release)(void*, void*);
  void* hint;
};
const ZeromqApi& untraced() { return loaded_zeromq(); }
void take_back(void* data, void* lent) {
  __tsan_acquire(data);
  const std::unique_ptr<Lent> of(static_cast<Lent*>(lent));
  of->release(data, of->hint);
}
int lend(ZeromqMessage* message, void* data, size_t bytes, void (*release)(void*, void*), void* hint) {
  return untraced().msg_init_data(message, data, bytes, take_back, new Lent{release, hint});
}
int hand_over(ZeromqMessage* message, void* socket, int flags) {
  __tsan_release(untraced().msg_data(message));
  return untraced().msg_send(message, socket, flags);
}
const ZeromqApi& traced() {
  static const ZeromqApi api = [] {
    ZeromqApi with = untraced();
    with.msg_init_data = lend;
    with.msg_send = hand_over;
    return with;
  }();
  return api;
}

// One table, whose row r holds r again and again; ids that it does not have count nothing.
std::shared_ptr<SparseEngine> engine_of(const std::string& path) {
  std::vector<float> rows;
  for (uint32_t row = 0; row < kRows; ++row) rows.insert(rows.end(), kDim, static_cast<float>(row));
  std::FILE* file = std::fopen(path.c_str(), "w");
  check(file != nullptr && std::fwrite(rows.data(), sizeof(float), rows.size(), file) == rows.size(), "no table was written");
  std::fclose(file);
  static const KernelTable kernels{.name = "scalar", .pool_bags = scalar::pool_bags};
  auto engine = std::make_shared<SparseEngine>(kernels, Residency::kMap);
  TableView view{};
  view.parts = 1, view.num_rows = kRows, view.dim = kDim, view.format = RowFormat::kFp32;
  Failure failure;
  check(engine->add(view, path, 0, 0, 1, &failure) && engine->set_rules(0, 0, 1, {{.policy = UnseenPolicy::kSkip}}, &failure),
        "no table was added");
  return engine;
}

class Writer {
 public:
  std::vector<unsigned char> bytes;
  void byte(unsigned value) { bytes.push_back(static_cast<unsigned char>(value)); }
  void raw(const void* data, size_t count) {
    const auto* from = static_cast<const unsigned char*>(data);
    bytes.insert(bytes.end(), from, from + count);
  }
  void binary(const void* data, size_t count) {
    byte(0xc6);
    for (int shift = 24; shift >= 0; shift -= 8) byte(static_cast<unsigned>(count >> shift));
    raw(data, count);
  }
};

struct PoolQuestion {
  std::vector<unsigned char> bytes;
  float sum;  // of each value
};

PoolQuestion pool_question(size_t num_ids) {
  PoolQuestion question{};
  std::vector<int64_t> ids(num_ids);
  for (int64_t& id : ids) {
    id = static_cast<int64_t>(below(kRows + 5));
    if (id < kRows) question.sum += static_cast<float>(id);
  }
  // Bags of equal length, so that there are parts to pool apart; the last one holds what is left.
  const uint32_t bags = num_ids == kManyIds ? 100 : 1;
  std::vector<uint32_t> offsets;
  for (uint32_t bag = 0; bag <= bags; ++bag) offsets.push_back(static_cast<uint32_t>(num_ids * bag / bags));
  const uint32_t segment[kSegmentFields] = {0, 0, 1, bags, 0};
  Writer writer;
  writer.byte(0x9c), writer.byte(kWireVersion), writer.byte(0xa4), writer.raw("pool", 4);
  writer.byte(static_cast<unsigned>(below(100)));  // id
  writer.binary(kStamp, sizeof kStamp);
  writer.byte(0), writer.byte(100);  // when it was sent, and the ms that remained
  writer.byte(sizeof ids[0]);
  writer.binary(segment, sizeof segment);
  writer.binary(ids.data(), ids.size() * sizeof ids[0]);
  writer.binary(offsets.data(), offsets.size() * sizeof offsets[0]);
  writer.byte(0xc0);  // without weights
  writer.byte(0xc2 + static_cast<unsigned>(below(2)));
  question.bytes = std::move(writer.bytes);
  return question;
}

void check_pooled(const PoolQuestion& question, std::span<const unsigned char> answer) {
  PoolMessage asked;
  check(parse_pool_message(question.bytes, &asked), "the question is not sound");
  const uint64_t bags = asked.offsets.size() / sizeof(uint32_t) - 1;
  const PooledMessage pooled(asked, bags * kDim * sizeof(float));
  check(answer.size() == pooled.size(), "an answer has another length");
  std::vector<unsigned char> bytes(answer.begin(), answer.end());
  double sum = 0;
  for (uint64_t bag = 0; bag < bags; ++bag) {
    float value = 0;
    std::memcpy(&value, pooled.vectors(bytes.data()) + bag * kDim * sizeof value, sizeof value);
    sum += value;
  }
  check(sum == question.sum, "an answer has other values");
}

ZeromqSocketOptions options_of(bool router, CurveKeys keys) {
  return {.router = router,
          .backlog = router ? 16 : 0,
          .keys = std::move(keys),
          .limits = kLimits,
          .ipv6 = false,
          .high_water_mark = 100,
          .max_message_bytes = 4 * 1024 * 1024,
          .handshake_ms = 300,
          .tcp_max_retransmit_ms = 500,
          .connect_ms = 300};
}

void wait_for(const ZeromqSocket& socket, int ms) {
  pollfd descriptors[] = {{socket.descriptor(), POLLIN, 0}, {socket.event_descriptor(), POLLIN, 0}};
  poll(descriptors, 2, ms);
}

const KeyPair server_keys = new_key_pair();
const KeyPair client_keys[] = {new_key_pair(), new_key_pair()};

// A server that ends and comes again, and where it is.
class Server {
 public:
  Server(std::string endpoint, bool encrypted) : wanted_(std::move(endpoint)), encrypted_(encrypted) {}
  bool encrypted() const { return encrypted_; }
  std::string endpoint() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return bound_;
  }

  void serve(const std::shared_ptr<SparseEngine>& engine, Clock::time_point end) {
    while (Clock::now() < end) {
      const CurveKeys keys = encrypted_ ? CurveKeys{server_keys.public_key, server_keys.secret_key, ""} : CurveKeys{};
      ZeromqSocket socket(ZeromqContext::shared(traced()), options_of(true, keys));
      const std::string endpoint = socket.bind(wanted_);
      tell(endpoint);
      PoolService service(engine, kStamp, 1, 1e9, 1e9);
      const auto closes = std::min(end, Clock::now() + milliseconds(500 + below(1500)));
      while (Clock::now() < closes) {
        wait_for(socket, 10);
        while (socket.next_event() != ZeromqSocket::kNone) {
        }
        for (int turn = 0; turn < 64 && socket.receive(); ++turn)
          if (!service.answer(socket)) answer(socket);
        counts.gone += socket.take_gone().size();
        socket.take_reason();
        if (encrypted_ && below(20) == 0) change_keys(socket);
      }
      counts.cut += socket.peer_counts().cut, counts.strangers += socket.peer_counts().strangers, ++counts.servers;
      if (below(2) == 0) socket.unbind(endpoint);
      socket.close(static_cast<int>(below(3)) * 10);
    }
  }

 private:
  static void answer(ZeromqSocket& socket) {
    const std::unique_ptr<ReceivedMessage> message = socket.give_away();
    const std::string peer = socket.peer();
    const std::span<const unsigned char> bytes = message->bytes();
    if (bytes.empty() || bytes[0] != kAskForLong) {
      socket.send(peer, {&bytes, 1});
      return;
    }
    OutgoingMessage answer(socket, peer, kLongAnswer);
    if (answer.data() == nullptr) return;
    std::memset(answer.data(), kAskForLong, kLongAnswer);
    answer.send();
  }

  // One client always is let in, the other now and then.
  static void change_keys(ZeromqSocket& socket) {
    std::set<std::string> allowed = {client_keys[0].public_key};
    if (below(2) == 0) allowed.insert(client_keys[1].public_key);
    socket.allow(std::move(allowed));
    socket.set_keys({server_keys.public_key, server_keys.secret_key, ""});
  }

  void tell(const std::string& endpoint) {
    const std::lock_guard<std::mutex> lock(mutex_);
    bound_ = endpoint;
  }

  const std::string wanted_;
  const bool encrypted_;
  std::mutex mutex_;
  std::string bound_;
};

class Client {
 public:
  Client(const std::string& endpoint, const CurveKeys& keys)
      : endpoint_(endpoint), socket_(ZeromqContext::shared(traced()), options_of(false, keys)) {
    socket_.connect(endpoint);
    ++counts.clients;
  }

  void run(Clock::time_point end) {
    if (!wait_until(end, [this] { return up_; })) return;
    for (uint64_t left = below(300); left > 0 && up_; --left) {
      const auto until = std::min(end, Clock::now() + milliseconds(300));
      if (!exchange(until)) break;
      if (below(100) == 0) reconnect(end);
    }
    socket_.close(static_cast<int>(below(2)) * 20);
  }

 private:
  // Takes what has come in the meantime; false when time is up.
  template <typename Done>
  bool wait_until(Clock::time_point until, const Done& done) {
    for (;;) {
      for (ZeromqSocket::Event event; (event = socket_.next_event()) != ZeromqSocket::kNone;) up_ = event == ZeromqSocket::kHandshake;
      if (done()) return true;
      if (Clock::now() >= until) return false;
      wait_for(socket_, 5);
    }
  }

  bool send(const std::vector<unsigned char>& bytes) {
    const std::span<const unsigned char> part = bytes;
    return socket_.send({}, {&part, 1});
  }

  bool answered(Clock::time_point until) {
    return wait_until(until, [this] { return socket_.receive() || !up_; }) && up_;
  }

  bool exchange(Clock::time_point until) {
    const uint64_t kind = below(16);
    if (kind == 0) return stall(until);
    if (kind < 4) return echo(until, below(2) == 0 ? below(900) + 1 : 200'000);
    const size_t num_ids = kind == 4 ? kManyIds : kFewIds;
    const PoolQuestion question = pool_question(num_ids);
    // Not all wait for the answer.
    if (!send(question.bytes) || below(200) == 0 || !answered(until)) return false;
    check_pooled(question, socket_.body());
    ++(num_ids == kManyIds ? counts.pooled_by_many : counts.pooled);
    return true;
  }

  bool echo(Clock::time_point until, size_t bytes) {
    const std::vector<unsigned char> question(bytes, 'e');
    if (!send(question) || !answered(until)) return false;
    const std::unique_ptr<ReceivedMessage> answer = socket_.give_away();
    check(answer->bytes().size() == bytes && answer->bytes().back() == 'e', "an echo is another");
    ++counts.echoed;
    return true;
  }

  // Asks for more than it reads.
  bool stall(Clock::time_point until) {
    const uint64_t questions = below(8) == 0 ? 100 : 3;
    for (uint64_t n = 0; n < questions; ++n) send({kAskForLong});
    if (questions > 3) std::this_thread::sleep_for(milliseconds(below(400)));
    for (uint64_t n = 0; n < questions; ++n) {
      if (!answered(until)) return false;
      check(socket_.body()[below(socket_.body().size())] == kAskForLong, "a long answer is another");
      ++counts.long_answers;
    }
    return true;
  }

  void reconnect(Clock::time_point end) {
    send({kAskForLong});
    socket_.disconnect(endpoint_);
    up_ = false;
    socket_.connect(endpoint_);
    wait_until(end, [this] { return up_; });
  }

  const std::string endpoint_;
  ZeromqSocket socket_;
  bool up_ = false;
};

void ask(Server* server, const KeyPair& keys, Clock::time_point end) {
  while (Clock::now() < end) {
    const std::string endpoint = server->endpoint();
    if (endpoint.empty()) {
      std::this_thread::sleep_for(milliseconds(5));
      continue;
    }
    const CurveKeys of_client{keys.public_key, keys.secret_key, server_keys.public_key};
    Client client(endpoint, server->encrypted() ? of_client : CurveKeys{});
    client.run(std::min(end, Clock::now() + milliseconds(700)));
  }
}

// Connections that keep the protocol in part.
void disturb(Server* server, Clock::time_point end) {
  std::vector<int> open;
  while (Clock::now() < end) {
    std::this_thread::sleep_for(milliseconds(10));
    unsigned port = 0;
    if (std::sscanf(server->endpoint().c_str(), "tcp://127.0.0.1:%u", &port) != 1) continue;
    const int stranger = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in to{};
    to.sin_family = AF_INET, to.sin_port = htons(static_cast<uint16_t>(port)), to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(stranger, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0) {
      const std::string bytes = of_stranger();
      send(stranger, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    open.push_back(stranger);
    if (open.size() < 20) continue;
    for (const int descriptor : open) close(descriptor);
    open.clear();
  }
  for (const int descriptor : open) close(descriptor);
}

// Sockets of this process that are no ZeroMQ's, whose numbers were those of connections a moment ago: nobody else ends them.
void stand_by(Clock::time_point end) {
  while (Clock::now() < end) {
    std::vector<int> listeners, pairs;
    for (int n = 0; n < 8; ++n) {
      const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
      check(listen(listener, 1) == 0, "a socket does not listen");
      listeners.push_back(listener);
      int pair[2];
      check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0, "no pair of sockets");
      pairs.insert(pairs.end(), pair, pair + 2);
      std::this_thread::sleep_for(milliseconds(1));
    }
    std::this_thread::sleep_for(milliseconds(2 * kLimits.first_message_ms));
    char byte;
    for (const int listener : listeners)
      check(accept(listener, nullptr, nullptr) < 0 && errno == EAGAIN, "somebody ended a socket that listens");
    for (const int of_pair : pairs) check(recv(of_pair, &byte, 1, 0) < 0 && errno == EAGAIN, "somebody ended a pair of sockets");
    for (const int listener : listeners) close(listener);
    for (const int of_pair : pairs) close(of_pair);
    ++counts.stood_by;
  }
}

// What other threads of a shard ask of the engine and of the memory of answers.
void look_on(const std::shared_ptr<SparseEngine>& engine, Clock::time_point end) {
  while (Clock::now() < end) {
    engine->unseen();
    engine->tune_prefetch();
    release_idle_memory(bytes_held() % 2 == 0);
    std::this_thread::sleep_for(milliseconds(20));
  }
}

// Its context ends with it.
void run_round(const std::string& directory, const std::shared_ptr<SparseEngine>& engine, Clock::time_point end) {
  Server servers[] = {{"tcp://127.0.0.1:*", false},
                      {"tcp://127.0.0.1:*", true},
                      {"ipc://" + directory + "/plain", false},
                      {"ipc://" + directory + "/keys", true}};
  std::vector<std::thread> threads;
  for (Server& server : servers) {
    threads.emplace_back([&] { server.serve(engine, end); });
    for (const KeyPair& keys : client_keys) threads.emplace_back([&] { ask(&server, keys, end); });
  }
  for (int stranger = 0; stranger < 2; ++stranger) threads.emplace_back([&, stranger] { disturb(&servers[stranger], end); });
  for (int bystander = 0; bystander < 2; ++bystander) threads.emplace_back([&] { stand_by(end); });
  threads.emplace_back([&] { look_on(engine, end); });
  for (std::thread& thread : threads) thread.join();
}

int run(int seconds) {
  char directory[] = "/tmp/terabag-data-plane-XXXXXX";
  check(mkdtemp(directory) != nullptr, "no directory");
  const std::shared_ptr<SparseEngine> engine = engine_of(std::string(directory) + "/table");
  const auto end = Clock::now() + std::chrono::seconds(seconds);
  while (Clock::now() < end) run_round(directory, engine, std::min(end, Clock::now() + milliseconds(100 + below(4000))));
  std::filesystem::remove_all(directory);
  const std::pair<const char*, uint64_t> seen[] = {{"pooled", counts.pooled},   {"pooled by many threads", counts.pooled_by_many},
                                                   {"echoed", counts.echoed},   {"long answers", counts.long_answers},
                                                   {"cut off", counts.cut},     {"strangers", counts.strangers},
                                                   {"gone", counts.gone},       {"servers", counts.servers},
                                                   {"clients", counts.clients}, {"bystanders", counts.stood_by}};
  bool loaded = true;
  for (const auto& [name, count] : seen) {
    std::printf("%s: %llu\n", name, static_cast<unsigned long long>(count));
    loaded = loaded && count > 0;
  }
  check(loaded, "something did not happen");
  return 0;
}

}  // namespace
}  // namespace terabag

int main(int argc, char** argv) {
  // Read when threads are first needed.
  setenv("TERABAG_THREADS", "3", 1);
  return terabag::run(argc > 1 ? std::atoi(argv[1]) : 20);
}
