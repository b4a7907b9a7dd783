// absl::flat_hash_map from 64-bit keys to rows, a map for each table: {"keys", "ids", "out": files, "tables", "rows"}. Keys are fetched ahead of
// their lookup with the map's own prefetch, which is what it has for this.
#include <absl/container/flat_hash_map.h>
#include <sys/mman.h>

#include <fstream>
#include <vector>

#include "rounds.h"

namespace {

// Lookups between the fetch of a key's slot and its lookup: about what a core can wait for at a time.
constexpr size_t kAhead = 16;

std::vector<int64_t> read(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  std::vector<int64_t> values(static_cast<size_t>(file.tellg()) / 8);
  file.seekg(0);
  file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(values.size() * 8));
  return values;
}

}  // namespace

int main(int, char** argv) {
  const std::string task = argv[1];
  const auto tables = static_cast<size_t>(number(task, "tables")), rows = static_cast<size_t>(number(task, "rows"));
  const std::vector<int64_t> keys = read(field(task, "keys")), ids = read(field(task, "ids"));
  std::vector<absl::flat_hash_map<int64_t, int64_t>> maps(tables);
  for (size_t table = 0; table < tables; ++table) {
    maps[table].reserve(rows);
    for (size_t row = 0; row < rows; ++row) maps[table].emplace(keys[table * rows + row], row);
  }
  // Runs of ids of one table, each behind its table and its length.
  std::vector<int64_t> found;
  const auto look_up = [&](size_t at) {
    const auto& map = maps[static_cast<size_t>(ids[at])];
    const auto count = static_cast<size_t>(ids[at + 1]);
    const int64_t* own = ids.data() + at + 2;
    const size_t start = found.size();
    found.resize(start + count);
    for (size_t i = 0; i < count && i < kAhead; ++i) map.prefetch(own[i]);
    for (size_t i = 0; i < count; ++i) {
      if (i + kAhead < count) map.prefetch(own[i + kAhead]);
      found[start + i] = map.find(own[i])->second;
    }
    return at + 2 + count;
  };
  for (size_t at = 0; at < ids.size();) at = look_up(at);
  std::ofstream(field(task, "out"), std::ios::binary)
      .write(reinterpret_cast<const char*>(found.data()), static_cast<std::streamsize>(found.size() * 8));
  found.clear();
  size_t at = 0;
  std::cout << "{\"params\":{\"ahead\":" << kAhead << "}}" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    const double started = now_ns(), until = started + std::atof(line.c_str()) * 1e6;
    double looked = 0, now = started;
    for (; now < until; now = now_ns()) {
      for (int run = 0; run < 64; ++run) {
        looked += static_cast<double>(ids[at + 1]);
        at = look_up(at);
        if (at == ids.size()) at = 0;
        found.clear();
      }
    }
    std::cout << (now - started) / looked << std::endl;
  }
  return 0;
}
