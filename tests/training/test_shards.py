"""Shards: how batches are cut, and one order in which they are added up, whoever computes them."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training import processes, shards
from training.shards import Adder, Shard, views

LENGTH = 20
some = settings(derandomize=True, database=None, deadline=None, max_examples=150,
                suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip


# --- cut ----------------------------------------------------------------------------------------------


@some
@given(st.integers(1, 300), st.integers(0, 300), st.integers(1, 40))
def test_each_row_is_in_one_shard_and_shards_are_alike(rows: int, more: int, count: int) -> None:
    batch_size = rows + more
    parts = shards.cut(rows, batch_size, count)
    assert [row for part in parts for row in range(rows)[part]] == list(range(rows))
    sizes = {len(range(rows)[part]) for part in parts}
    assert min(sizes) > 0
    assert max(sizes) - min(sizes) <= 1
    assert len(parts) <= count
    assert max(sizes) <= -(-batch_size // count)  # not larger than those of a full batch
    assert len(shards.cut(batch_size, batch_size, count)) == min(batch_size, count)
    assert len(parts) == min(rows, -(-rows * count // batch_size))  # and no more of them than that needs


@pytest.mark.parametrize(
    ("rows", "batch_size", "count", "sizes"),
    [(256, 256, 4, [64] * 4), (256, 256, 5, [51, 51, 51, 51, 52]), (1, 256, 4, [1]), (65, 256, 4, [32, 33]),
     (3, 3, 8, [1, 1, 1]), (7, 100, 1, [7]), (10, 10, 4, [2, 3, 2, 3]), (10, 10, 8, [1, 1, 1, 2, 1, 1, 1, 2])],
)  # fmt: skip
def test_sizes_of_shards(rows: int, batch_size: int, count: int, sizes: list[int]) -> None:
    assert [len(range(rows)[part]) for part in shards.cut(rows, batch_size, count)] == sizes


# --- the sum --------------------------------------------------------------------------------------------


def vectors(count: int, seed: int = 0) -> list[torch.Tensor]:
    """(LENGTH,) each, of very different size, so that the order of a sum shows in its last bits."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(count, LENGTH)) * 10.0 ** generator.integers(-4, 4, (count, LENGTH))
    return list(torch.from_numpy(values.astype(np.float32)))


def neighbours_added(values: list[torch.Tensor]) -> torch.Tensor:
    """The first to the second, the third to the fourth, and so on, until one is left."""
    while len(values) > 1:
        values = [sum(values[i + 1 : i + 2], values[i]) for i in range(0, len(values), 2)]
    return values[0]


class Machines:
    """Threads of this process in place of processes: each has a rank, and they exchange tensors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.monkeypatch, self.own = monkeypatch, threading.local()
        monkeypatch.setattr(processes, "rank", lambda: self.own.rank)

    def run(self, count: int, compute: Callable[[int], torch.Tensor]) -> list[torch.Tensor]:
        """The results of `compute(rank)`; `sent` has the tensors that each rank sent."""
        barrier = threading.Barrier(count, timeout=20)
        self.sent: list[list[torch.Tensor]] = [[] for _ in range(count)]

        def all_gather(tensor: torch.Tensor) -> list[torch.Tensor]:
            self.sent[self.own.rank].append(tensor)
            barrier.wait()
            received = [of_rank[-1].clone() for of_rank in self.sent]
            barrier.wait()
            assert len({buffer.shape for buffer in received}) == 1  # which PyTorch's needs
            return received

        def one(rank: int) -> torch.Tensor:
            self.own.rank = rank
            return compute(rank)

        self.monkeypatch.setattr(processes, "count", lambda: count)
        self.monkeypatch.setattr(processes, "all_gather", all_gather)
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(one, range(count)))


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Machines:
    return Machines(monkeypatch)


@some
@given(st.data())
def test_processes_add_up_in_the_order_of_the_tree(machines: Machines, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 20), "processes")
    full = data.draw(st.integers(count, 40), "shards")
    # val batches have another number of shards, and last batches fewer
    number = data.draw(st.integers(1, 3 * full), "shards of the batch")
    values = vectors(number, full)
    computed: list[list[int]] = [[] for _ in range(count)]

    def compute(rank: int) -> torch.Tensor:
        def one(shard: int) -> torch.Tensor:
            computed[rank].append(shard)
            return values[shard].clone()

        return Adder(full, 1, "cpu")(one, number, LENGTH)

    sums = machines.run(count, compute)
    expected = neighbours_added(values)
    for each in sums:
        assert torch.equal(each, expected)
    assert sorted(shard for of_one in computed for shard in of_one) == list(range(number))  # each once
    assert {len(of_rank) for of_rank in machines.sent} == {int(count > 1)}  # collective operations


def test_the_order_of_the_sum_shows_in_its_bits() -> None:
    values = vectors(9)
    assert not torch.equal(neighbours_added(values), neighbours_added(values[::-1]))
    assert not torch.equal(neighbours_added(values), sum(values[1:], values[0]))


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_that_end_in_any_order_change_no_bit(threads: int) -> None:
    values = vectors(8)
    adder = Adder(8, threads, "cpu")
    expected = neighbours_added([value.clone() for value in values])
    seen = set()

    def compute(shard: int) -> torch.Tensor:
        seen.add(threading.get_ident())
        time.sleep(waits[shard])
        return values[shard].clone()

    for seed in range(5):
        waits = np.random.default_rng(seed).permutation(8) / 1000
        assert torch.equal(adder(compute, 8, LENGTH), expected)
    assert len(seen) == threads
    assert (threading.get_ident() in seen) == (threads == 1)


def test_an_error_of_a_thread_is_the_caller_s() -> None:
    def compute(shard: int) -> torch.Tensor:
        raise ValueError(f"of shard {shard}")

    for threads in (1, 3):
        with pytest.raises(ValueError, match="of shard 0"):
            Adder(4, threads, "cpu")(compute, 4, LENGTH)


def test_each_thread_computes_an_operation_alone() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = Adder(4, 4, "cpu")(lambda shard: torch.tensor([float(torch.get_num_threads())]), 4, 1)
    finally:
        torch.set_num_threads(before)
    assert seen.item() == 4


@pytest.mark.parametrize("full", [1, 3, 4, 5, 8, 31])
def test_processes_share_a_batch_as_evenly_as_they_can(monkeypatch: pytest.MonkeyPatch, full: int) -> None:
    for count in range(1, full + 1):
        monkeypatch.setattr(processes, "count", lambda of=count: of)
        owners = [Adder(full, 1, "cpu").owner(shard) for shard in range(full)]
        assert owners == sorted(owners)  # neighbours, so that what they exchange is little
        sizes = np.bincount(owners, minlength=count)
        assert sizes.min() > 0
        assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize(("full", "count", "sums"), [(4, 2, 1), (8, 2, 1), (4, 4, 1), (4, 3, 1), (8, 3, 2)])
def test_processes_send_what_they_have_added_up(machines: Machines, full: int, count: int, sums: int) -> None:
    def compute(rank: int) -> torch.Tensor:
        return Adder(full, 1, "cpu")(lambda shard: torch.ones(LENGTH), full, LENGTH)

    assert all(total.tolist() == [full] * LENGTH for total in machines.run(count, compute))
    assert {tuple(tensor.shape) for ((tensor),) in machines.sent} == {(sums, LENGTH)}


# --- tensors in a vector ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 4, 5, 6),
        torch.randn(6, 5, 3, 3).permute(2, 3, 1, 0),  # a kernel as _conv2d lays it out
        torch.randn(4, 1, 3, 3).contiguous(memory_format=torch.channels_last),
        torch.randn(7, 2).t(),
        torch.randn(5),
        torch.tensor(2.0),
        torch.randn(1, 1, 1),
    ],
    ids=lambda tensor: str(tuple(tensor.shape)),
)
def test_a_vector_has_a_tensor_in_its_order_in_memory(tensor: torch.Tensor) -> None:
    vector = torch.empty(1 + tensor.numel() + 2)
    _, view, rest = views(vector, [torch.empty(1), tensor])
    assert view.shape == tensor.shape
    assert view.stride() == tensor.stride()
    assert rest.shape == (2,)
    view.copy_(tensor)
    assert torch.equal(views(vector, [torch.empty(1), tensor])[1], tensor)
    assert torch.equal(vector[1:-2], torch.as_strided(tensor, (tensor.numel(),), (1,)))  # as they lie in `tensor`


# --- the state of one shard -----------------------------------------------------------------------------


def test_a_shard_takes_what_changes_and_leaves_the_variables_alone() -> None:
    one, two, three = (keras.Variable(torch.zeros(2)) for _ in range(3))
    shard = Shard(torch.Generator(), [(two, torch.ones(2))])
    assert shard.get_current_value(one) is None
    assert shard.get_current_value(two).tolist() == [1, 1]
    with shard:
        assert two.value.tolist() == [1, 1]
        three.assign(three + 5)
    shard.add_update((one, torch.full((2,), 7.0)))
    assert [shard.get_current_value(variable)[0].item() for variable in (one, two, three)] == [7, 1, 5]
    assert [variable.numpy()[0] for variable in (one, two, three)] == [0, 0, 0]
