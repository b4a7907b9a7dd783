#include "addon/loop_poll.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

// From libuv's stable ABI 1.x, which Node.js exports; its header does not come with Node-API's.
extern "C" {
struct uv_handle_s;
size_t uv_handle_size(int type);
const char* uv_handle_type_name(int type);
void* uv_handle_get_data(const uv_handle_s* handle);
void uv_handle_set_data(uv_handle_s* handle, void* data);
void uv_unref(uv_handle_s* handle);
void uv_close(uv_handle_s* handle, void (*closed)(uv_handle_s*));
int uv_poll_init(uv_loop_s* loop, uv_poll_s* handle, int descriptor);
int uv_poll_start(uv_poll_s* handle, int events, void (*ready)(uv_poll_s*, int status, int events));
}

namespace terabag {
namespace {

constexpr int kPollHandle = 8;
constexpr int kReadable = 1;

uv_handle_s* base(uv_poll_s* handle) { return reinterpret_cast<uv_handle_s*>(handle); }

}  // namespace

LoopPoll* LoopPoll::start(napi_env env, int descriptor, Keeps keeps, std::function<void()> readable) {
  uv_loop_s* loop = nullptr;
  const char* type = uv_handle_type_name(kPollHandle);
  if (type == nullptr || std::strcmp(type, "poll") != 0 || napi_get_uv_event_loop(env, &loop) != napi_ok) return nullptr;
  auto* handle = static_cast<uv_poll_s*>(std::malloc(uv_handle_size(kPollHandle)));
  if (handle == nullptr || uv_poll_init(loop, handle, descriptor) != 0) {
    std::free(handle);
    return nullptr;
  }
  auto* poll = new LoopPoll();
  poll->handle_ = handle;
  poll->readable_ = std::move(readable);
  uv_handle_set_data(base(handle), poll);
  const auto ready = [](uv_poll_s* of, int, int) { static_cast<LoopPoll*>(uv_handle_get_data(base(of)))->readable_(); };
  if (uv_poll_start(handle, kReadable, ready) != 0) {
    poll->stop([] {});
    return nullptr;
  }
  if (keeps == Keeps::kNothing) uv_unref(base(handle));
  return poll;
}

void LoopPoll::stop(std::function<void()> closed) {
  closed_ = std::move(closed);
  uv_close(base(handle_), [](uv_handle_s* of) {
    const std::unique_ptr<LoopPoll> poll(static_cast<LoopPoll*>(uv_handle_get_data(of)));
    std::free(of);
    poll->closed_();
  });
}

}  // namespace terabag
