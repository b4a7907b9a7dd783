// libFuzzer target: any description of a table in a file of any length, with any key index and any rule of ids. It is refused, or all of
// its rows can be read, and ids that it does not have are let pass or refused.
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "engine/sparse_engine.h"

namespace {

using namespace terabag;

// Numbers of every size: a field's lowest bits say how many of the others count.
struct Fields {
  uint64_t words[16] = {};
  uint64_t number(int field) const { return words[field] >> 6 >> (words[field] & 63); }
  bool flag(int field) const { return (words[field] >> 63) != 0; }
};

TableRule rule_of(const Fields& fields, uint32_t dim) {
  TableRule rule;
  rule.policy = static_cast<UnseenPolicy>(fields.number(8) % 4);
  if (fields.flag(8)) rule.padding_id = static_cast<int64_t>(fields.number(9));
  if (fields.flag(9)) rule.row = fields.number(10);
  if (fields.flag(10)) rule.vector.assign(fields.flag(11) ? dim : fields.number(11) % 4096, 0.5f);
  rule.buckets = fields.number(12);
  return rule;
}

// Pools one bag for each id. Whether it was refused, which is to be for its id.
bool pool(const SparseEngine& engine, uint32_t dim, const std::vector<int64_t>& ids) {
  const uint32_t segment[kSegmentFields] = {0, 0, 1, static_cast<uint32_t>(ids.size()), 0};
  std::vector<uint32_t> offsets;
  while (offsets.size() <= ids.size()) offsets.push_back(static_cast<uint32_t>(offsets.size()));
  std::vector<float> out(ids.size() * dim);
  PoolRequest request{};
  request.segments = reinterpret_cast<const unsigned char*>(segment), request.segments_bytes = sizeof segment;
  request.index_bytes = 8;
  request.indices = reinterpret_cast<const unsigned char*>(ids.data()), request.indices_bytes = ids.size() * 8;
  request.offsets = reinterpret_cast<const unsigned char*>(offsets.data()), request.offsets_bytes = offsets.size() * 4;
  request.out = out.data(), request.out_length = out.size();
  const PoolStatus status = engine.pool(request, 1);
  if (status.status != nullptr && std::strcmp(status.status, "index_out_of_range") != 0) std::abort();
  return status.status == nullptr;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Fields fields;
  if (size > 0) std::memcpy(fields.words, data, size < sizeof fields.words ? size : sizeof fields.words);
  static char path[] = "/tmp/terabag-fuzz-XXXXXX";
  static const int file = mkstemp(path);
  if (file < 0 || ftruncate(file, static_cast<off_t>(fields.number(0) % (1 << 20))) != 0) std::abort();
  TableView view{};
  view.parts = 1;
  view.num_rows = fields.number(1);
  view.dim = static_cast<uint32_t>(fields.number(2) % (1 << 17));
  view.format = static_cast<RowFormat>(fields.number(3) % kNumRowFormats);
  SparseEngine engine(*selected_kernels(), static_cast<Residency>(fields.number(4) % 2));
  const bool keyed = fields.flag(13);
  const KeyIndexFile keys{path, fields.number(13), fields.number(14), fields.flag(14) ? view.num_rows : fields.number(15),
                          fields.words[15]};
  Failure failure;
  const bool added = keyed ? engine.add_keyed(view, path, fields.number(5), keys, &failure)
                           : engine.add(view, path, fields.number(5), fields.number(6), fields.number(7), &failure);
  if (!added) {
    if (failure.message.empty()) std::abort();
    return 0;
  }
  const std::vector<int64_t> ids{0, static_cast<int64_t>(view.num_rows - 1)};
  // Zeros in an index are keys too: those whose places are.
  const auto has = [&](int64_t id) {
    if (!keyed) return static_cast<uint64_t>(id) < view.num_rows;
    return place_of(static_cast<uint64_t>(id), keys.seed, homes_of(keys.num_keys)).remainder == 0;
  };
  if (pool(engine, view.dim, ids) != (has(ids[0]) && has(ids[1]))) std::abort();
  const TableRule rule = rule_of(fields, view.dim);
  if (!engine.set_rules(0, 0, 1, {rule}, &failure)) {
    if (failure.message.empty()) std::abort();
    return 0;
  }
  const int64_t unseen = static_cast<int64_t>(view.num_rows), any = static_cast<int64_t>(fields.words[9]);
  for (const int64_t id : {ids[0], ids[1], unseen, any, int64_t{-1}}) {
    const bool passes = rule.policy != UnseenPolicy::kReject;
    if (pool(engine, view.dim, {id}) != (has(id) || passes || rule.padding_id == id)) std::abort();
  }
  return 0;
}
