#pragma once
#include "kernels/bag_reads.h"
#include "kernels/mix64.h"

// The one place where an id becomes the address of its row.
namespace terabag {
namespace {

// In place of an address: there is no row, and the job's rule is to refuse that; or the id is left out. One comparison tells both from
// rows.
static inline const unsigned char* no_row() { return nullptr; }
static inline const unsigned char* skipped_row() { return reinterpret_cast<const unsigned char*>(1); }
static inline bool is_row(const unsigned char* row) { return __builtin_expect(reinterpret_cast<uintptr_t>(row) > 1, true); }

// Whether padding may be an id that the table has. One that it does not have is looked for among those alone.
static inline bool pads_rows(const BagJob& job) {
  return job.unseen.pads && (job.keys != nullptr || static_cast<uint64_t>(job.unseen.padding_id) < job.num_rows);
}

// What a job says of its rows, copied: through a reference it would be read anew for each id.
struct TableRows {
  explicit TableRows(const BagJob& job) : rows(job.rows), num_rows(job.num_rows), pitch(job.row_pitch), padding_id(job.unseen.padding_id) {}

  // no_row() of an id that the table does not have, and, with kPads (as pads_rows), of padding: see missed_row.
  template <bool kPads>
  inline __attribute__((always_inline)) const unsigned char* row_of_id(int64_t id) const {
    if (static_cast<uint64_t>(id) >= num_rows || (kPads && id == padding_id)) return no_row();
    return rows + static_cast<uint64_t>(id) * pitch;
  }

  const unsigned char* rows;
  uint64_t num_rows, pitch;
  int64_t padding_id;
};

// What the job's rule gives for an id without a row; *unseen grows when it lets one pass that the table does not have. Inline: a call would
// cost the sums their registers.
static inline __attribute__((always_inline)) const unsigned char* missed_row(const BagJob& job, int64_t id, uint64_t* unseen) {
  const UnseenRule& rule = job.unseen;
  if (rule.pads && id == rule.padding_id) return skipped_row();
  if (rule.policy == UnseenPolicy::kReject) return no_row();
  ++*unseen;
  if (rule.policy == UnseenPolicy::kSkip) return skipped_row();
  if (rule.policy == UnseenPolicy::kRow) return rule.row;
  return rule.row + mix64(static_cast<uint64_t>(id)) % rule.buckets * job.row_pitch;
}

// The same of any job, one id after another.
static inline const unsigned char* row_of_any(const BagJob& job, const TableRows& table, int64_t id) {
  if (job.keys == nullptr) return pads_rows(job) ? table.row_of_id<true>(id) : table.row_of_id<false>(id);
  if (job.unseen.pads && id == job.unseen.padding_id) return no_row();
  const uint64_t row = find_row(*job.keys, static_cast<uint64_t>(id), job.num_rows);
  return row == kNoRow ? no_row() : table.rows + row * table.pitch;
}

static inline void count_unseen(const BagJob& job, uint64_t unseen) {
  if (unseen != 0 && job.num_unseen != nullptr) __atomic_fetch_add(job.num_unseen, unseen, __ATOMIC_RELAXED);
}

}  // namespace
}  // namespace terabag
