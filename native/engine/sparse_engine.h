#pragma once
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "engine/prefetch_tuning.h"
#include "kernels/kernel_table.h"
#include "tables/failure.h"
#include "tables/huge_pages.h"
#include "tables/mapped_file.h"
#include "tables/residency.h"

namespace terabag {

// Set by a thread that tunes while others pool.
class SharedPrefetch {
 public:
  SharedPrefetch(Prefetch prefetch = {}) { set(prefetch); }
  SharedPrefetch(const SharedPrefetch& other) { set(other.get()); }
  SharedPrefetch& operator=(const SharedPrefetch& other) {
    set(other.get());
    return *this;
  }
  Prefetch get() const {
    const uint64_t packed = packed_.load(std::memory_order_relaxed);
    return {static_cast<uint32_t>(packed >> 1), (packed & 1) != 0};
  }
  void set(Prefetch prefetch) const {
    packed_.store(static_cast<uint64_t>(prefetch.lines) << 1 | (prefetch.to_l2 ? 1 : 0), std::memory_order_relaxed);
  }

 private:
  mutable std::atomic<uint64_t> packed_;
};

// What becomes of a table's ids, as a caller says it.
struct TableRule {
  UnseenPolicy policy = UnseenPolicy::kReject;
  std::optional<int64_t> padding_id;
  // kRow: this row of the table; else the vector, stored in the table's format; else, without one, zeros. kHash: the first of its rows;
  // else the table's first.
  std::optional<uint64_t> row;
  std::vector<float> vector;
  uint64_t buckets = 0;  // kHash
};

struct TableView {
  uint32_t table, part, parts;
  const unsigned char* rows;
  uint64_t num_rows, row_pitch;
  uint64_t fallback_rows;  // behind the others: those that no id has, only rules
  uint32_t dim;
  RowFormat format;
  SharedPrefetch prefetch;
  KeyIndex keys;                                                // without buckets when ids are rows
  std::vector<UnseenRule> rules;                                // by the number that segments name
  std::shared_ptr<const std::vector<unsigned char>> rule_rows;  // those that rules refer to and that are not the table's
  std::shared_ptr<uint64_t> num_unseen;
  std::tuple<uint32_t, uint32_t, uint32_t> key() const { return {table, part, parts}; }
};

struct PoolStatus {
  const char* status = nullptr;  // null when all is well
  uint32_t segment = 0, bag = 0;
  uint64_t position = 0;
  int64_t value = 0;
  uint64_t limit = 0;
};

// How often a table did not have an id, and let it pass.
struct UnseenCount {
  uint32_t table;
  uint64_t count;
};

// Where a table's key index lies, and how many keys it has.
struct KeyIndexFile {
  std::string path;
  uint64_t byte_offset, num_buckets, num_keys, seed;
};

constexpr uint32_t kSegmentFields = 5;
constexpr uint64_t kSegmentBytes = kSegmentFields * sizeof(uint32_t);
// Flags of a segment: with weights, and answered with a divisor behind each bag's values. The others say how it is pooled, and from
// kRuleShift on they are the number of the rule of its ids.
constexpr uint32_t kWeighted = 2, kDivisor = 16, kRuleShift = 16;

// A message of bags; nothing of it is trusted. See NativeSparseEngine in src/engine/native.ts for the layout.
struct PoolRequest {
  const unsigned char* segments;
  uint64_t segments_bytes;
  uint32_t index_bytes;
  const unsigned char* indices;
  uint64_t indices_bytes;
  const unsigned char* offsets;
  uint64_t offsets_bytes;
  const unsigned char* weights;
  uint64_t weights_bytes;
  float* out;
  uint64_t out_length;
};

// What tuning found for all tables whose rows have this length.
struct TunedRows {
  uint64_t row_bytes = 0;
  TunedPrefetch tuned;
};

struct FillStatus {
  const char* status = nullptr;  // null when all is well; else unreadable, does_not_fit or closed
  std::string message;
  int number = 0;  // errno of the system call that failed; 0 when none did
};

// Written by the thread that fills, read by others.
struct FillProgress {
  std::atomic<uint64_t> bytes{0};
  std::atomic<bool> stop{false};  // ends the filling with status closed
};

struct FileResidency {
  std::string path;
  uint64_t bytes = 0;           // of the tables' rows in this file, counted once
  uint64_t resident_bytes = 0;  // of these
  bool resident_known = false;  // whether the kernel tells this process
  std::string smaps;            // see smaps_entries
};

class SparseEngine {
 public:
  SparseEngine(const KernelTable& kernels, Residency residency) : kernels_(kernels), residency_(residency) {}
  // Adds rows first_row, first_row + row_step, ... of a file; false, and the reason, when the file is shorter than that. Takes address
  // space but no memory. The view's one rule is to reject ids that the table does not have.
  bool add(TableView view, const std::string& path, uint64_t byte_offset, uint64_t first_row, uint64_t row_step, Failure* failure);
  // The same of a keyed table, all of whose rows are in the file one after another; the index is mapped or copied as they are.
  bool add_keyed(TableView view, const std::string& path, uint64_t byte_offset, const KeyIndexFile& keys, Failure* failure);
  // Gives a table that was added its rules, at least one; false, and the reason, when one names a row or buckets that the table does not
  // have, fallback rows counted, or a vector of another length than its rows or one that their format cannot hold. Before the first
  // pooling.
  bool set_rules(uint32_t table, uint32_t part, uint32_t parts, const std::vector<TableRule>& rules, Failure* failure);
  // Brings the rows and key indexes of all tables into memory as the residency says, file by file in order; until then tables of kHugePages
  // hold zeros.
  // Takes seconds for large tables. Once, on any thread.
  FillStatus fill(FillProgress* progress) const;
  // Of the tables that let an id pass, in their order; parts of one table each for itself.
  std::vector<UnseenCount> unseen() const;
  // Bytes of the rows and key indexes, and bytes that fill keeps from being given to others: locked or anonymous.
  uint64_t table_bytes() const;
  uint64_t kept_bytes() const;
  // A file each, in the order of their paths. With map_cached, what the page cache already holds is mapped first, so that smaps tells on
  // which pages it lies; nothing is read.
  std::vector<FileResidency> residency(bool map_cached) const;
  // Drops mapped files from the page cache as far as no other mapping uses them.
  FillStatus drop_cached(const std::vector<std::string>& paths) const;
  // Measures which prefetch distance suits the rows of each length, on the largest table that has them, and uses it from then on; what it
  // found. Tables that are too small to tell keep what they have. Rows should be in memory. Empty when memory runs out.
  std::vector<TunedRows> tune_prefetch() const;
  // Floats that pooling gives: bags x dim, summed over the segments; none when there are partial segments, or of tables that are not here,
  // or another number of bags than of offsets. What is reserved for the output so never exceeds what a request can fill.
  std::optional<uint64_t> output_length(const unsigned char* segments, uint64_t segments_bytes, uint64_t offsets_bytes) const;
  // Checks the whole request, then pools all segments in one call of the kernel, so that rows are fetched ahead across tables; one call a
  // thread when the request is worth several. On an error the content of out is unspecified.
  // Unless it is null, *cpu_ns becomes the CPU time that it took on all threads.
  PoolStatus pool(const PoolRequest& request, unsigned num_threads, uint64_t* cpu_ns = nullptr) const;

 private:
  // Makes the jobs of a request's segments; they read the offsets, which are copied here. Indices are checked where they are read: by the
  // kernel.
  PoolStatus check(const PoolRequest& request, std::vector<uint32_t>* offsets, std::vector<BagJob>* jobs) const;
  PoolStatus check_and_pool(const PoolRequest& request, unsigned num_threads, uint64_t* helpers_cpu_ns) const;
  // The table of a segment, or null. Requests mostly name tables in order: *hint is looked at first and then set behind the one found.
  const TableView* find(uint32_t table, uint32_t part, uint32_t parts, size_t* hint) const;

  // Bytes [from, to) of a file.
  struct Extent {
    uint64_t from, to;
  };
  // A mapped file and where the rows lie in it: apart and in order. Rows of others may lie between those of a row-wise part.
  struct TableFile {
    std::shared_ptr<const MappedFile> mapping;
    std::vector<Extent> extents;
  };
  // Rows that are copied from a file, without what lies between them.
  struct TableCopy {
    std::shared_ptr<const HugePages> memory;
    uint64_t byte_offset, num_rows, row_bytes, row_pitch;  // of the file
  };
  // A file whose rows are copied, as it was when they were added.
  struct CopiedFile {
    FileIdentity identity;
    std::vector<TableCopy> copies;
  };

  const unsigned char* add_mapped(const std::string& path, Extent extent, Failure* failure);
  const unsigned char* add_copied(const std::string& path, const TableCopy& copy, uint64_t end, Failure* failure);
  FillStatus fill_mapped(const TableFile& file, FillProgress* progress) const;
  FillStatus fill_copied(const CopiedFile& file, FillProgress* progress) const;
  // What is locked of an extent: to whole huge pages, since a mapping that is locked in part is split where the lock ends.
  static Extent locked(const Extent& extent, uint64_t file_size);

  const KernelTable& kernels_;
  const Residency residency_;
  std::map<std::string, TableFile> files_;
  std::map<std::string, CopiedFile> copied_files_;
  std::vector<TableView> tables_;  // in the order of (table, part, parts)
};

}  // namespace terabag
