"""Pools the same ids from the same tables with FBGEMM, PyTorch or TorchRec, a round at a time: reads "MS" lines, prints ns per lookup."""

import json
import mmap
import sys
import time

import numpy as np
import torch

torch.set_num_threads(1)
task = json.loads(sys.argv[1])
peer, fmt, dim, num_tables, rows = (task[key] for key in ("peer", "format", "dim", "tables", "rows"))
row_bytes, per_table = task["rowBytes"], task["perTable"]


def load_tables() -> list[np.ndarray]:
    """Raw rows of every table, in anonymous memory that asks for huge pages."""
    source = np.memmap(task["file"], dtype=np.uint8, mode="r")
    tables = []
    for t in range(num_tables):
        size = rows * row_bytes
        memory = mmap.mmap(-1, size)
        memory.madvise(mmap.MADV_HUGEPAGE)
        table = np.frombuffer(memory, dtype=np.uint8)
        start = task["byteOffset"] + t * size
        for at in range(0, size, 1 << 26):
            table[at : at + (1 << 26)] = source[start + at : start + min(size, at + (1 << 26))]
        tables.append(table)
    return tables


def load_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [
        (torch.from_numpy(np.fromfile(b["indices"], dtype=np.int64)), torch.from_numpy(np.fromfile(b["offsets"], dtype=np.uint32).astype(np.int64)))
        for b in task["batches"]
    ]


def split(batch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and offsets of each table."""
    indices, offsets = batch
    bags = (len(offsets) - 1) // num_tables
    parts = []
    for t in range(num_tables):
        own = offsets[t * bags : (t + 1) * bags + 1]
        parts.append((indices[own[0] : own[-1]].contiguous(), (own - own[0]).contiguous()))
    return parts


def plain(table: np.ndarray) -> torch.Tensor:
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[fmt]
    return torch.from_numpy(table).view(dtype).view(rows, dim)


def torch_pool(tables, batches):
    inputs = [split(batch) for batch in batches]
    if fmt in ("fp32", "fp16", "bf16"):
        weights = [plain(table) for table in tables]

        def run(turn):
            return [
                torch.nn.functional.embedding_bag(i, w, o, mode="sum", include_last_offset=True)
                for w, (i, o) in zip(weights, inputs[turn])
            ]

        return run, {}
    op = {"int8": "embedding_bag_byte_rowwise_offsets", "int4": "embedding_bag_4bit_rowwise_offsets"}.get(fmt)
    if op is None:
        raise NotImplementedError(f"PyTorch has no embedding bag for {fmt}")
    pool = getattr(torch.ops.quantized, op)
    weights = [torch.from_numpy(table).view(rows, row_bytes) for table in tables]

    def run(turn):
        return [
            pool(w, i, o, False, 0, False, None, None, True)
            for w, (i, o) in zip(weights, inputs[turn])
        ]

    return run, {"operator": op}


def fbgemm_pool(tables, batches):
    import fbgemm_gpu
    from fbgemm_gpu.split_embedding_configs import SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen

    kind = {"fp32": SparseType.FP32, "fp16": SparseType.FP16, "int8": SparseType.INT8, "int8_fp16": SparseType.INT8, "int4": SparseType.INT4}.get(fmt)
    if kind is None:
        raise NotImplementedError(f"FBGEMM's inference tables have no {fmt}")

    def module(first, count):
        tbe = IntNBitTableBatchedEmbeddingBagsCodegen(
            [(str(t), rows, dim, kind, EmbeddingLocation.HOST) for t in range(first, first + count)],
            device="cpu",
            pooling_mode=PoolingMode.SUM,
            output_dtype=SparseType.FP32,
        )
        tbe.initialize_weights()
        for t, (weights, scales) in enumerate(tbe.split_embedding_weights(split_scale_shifts=fmt.startswith("int"))):
            source = tables[first + t].reshape(rows, row_bytes)
            if not fmt.startswith("int"):
                weights.view(torch.uint8).view(rows, row_bytes).numpy()[:] = source
                continue
            values = dim if fmt != "int4" else (dim + 1) // 2
            weights.numpy()[:, :values] = source[:, :values]
            if fmt == "int8":
                scales.numpy()[:] = np.ascontiguousarray(source[:, values:]).view(np.float32).astype(np.float16).view(np.uint8)
            else:
                scales.numpy()[:] = source[:, values:]
        return tbe

    modules = [module(t, 1) for t in range(num_tables)] if per_table else [module(0, num_tables)]
    inputs = [split(batch) if per_table else [batch] for batch in batches]

    def run(turn):
        return [tbe(indices=i, offsets=o) for tbe, (i, o) in zip(modules, inputs[turn])]

    return run, {"version": fbgemm_gpu.__version__}


def torchrec_pool(tables, batches):
    import torchrec
    from torchrec.modules.embedding_configs import EmbeddingBagConfig
    from torchrec.modules.embedding_modules import EmbeddingBagCollection
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    if fmt != "fp32":
        raise NotImplementedError(f"compared on fp32 only, not {fmt}")
    keys = [f"f{t}" for t in range(num_tables)]
    collection = EmbeddingBagCollection(
        tables=[EmbeddingBagConfig(num_embeddings=1, embedding_dim=dim, name=f"t{t}", feature_names=[keys[t]]) for t in range(num_tables)]
    )
    for t, bag in enumerate(collection.embedding_bags.values()):
        bag.weight = torch.nn.Parameter(plain(tables[t]), requires_grad=False)
    inputs = [KeyedJaggedTensor(keys=keys, values=i, offsets=o) for i, o in batches]

    def run(turn):
        return [collection(inputs[turn]).values()]

    return run, {"version": torchrec.__version__}


def main() -> None:
    batches = load_batches()
    pool = {"torch": torch_pool, "fbgemm": fbgemm_pool, "torchrec": torchrec_pool}[peer]
    try:
        run, params = pool(load_tables(), batches)
    except (ImportError, OSError, NotImplementedError) as error:
        print(json.dumps({"absent": f"{type(error).__name__}: {error}"}), flush=True)
        return
    with torch.inference_mode():
        # A table's bags lie side by side with TorchRec and with one TBE call: [bags, tables * dim].
        parts = [part.float().view(-1, part.numel() // dim // ((len(batches[0][1]) - 1) // num_tables), dim) for part in run(0)]
        np.concatenate([part.transpose(0, 1).reshape(-1).numpy() for part in parts]).tofile(task["out"])
        print(json.dumps({"params": {"torch": torch.__version__, **params}}), flush=True)
        turn = 0
        for line in sys.stdin:
            until = time.perf_counter_ns() + int(float(line) * 1e6)
            started = now = time.perf_counter_ns()
            lookups = 0
            while now < until:
                turn = (turn + 1) % len(batches)
                run(turn)
                lookups += len(batches[turn][0])
                now = time.perf_counter_ns()
            print((now - started) / lookups, flush=True)


main()
