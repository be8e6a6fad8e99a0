"""The bank's rules against a naive loop, and its parts in a checkpoint."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ucdr_ray.errors import UserError
from ucdr_ray.neighbors.bank import Bank
from ucdr_ray.neighbors.parts import read_parts, span, write_part


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 9),
    pushes=st.lists(st.integers(0, 12), max_size=5),
    momentum=st.sampled_from([0.0, 0.5, 0.99]),
    seed=st.integers(0, 10_000),
)
def test_every_key_arrives_in_its_row_in_its_turn(rows, pushes, momentum, seed):
    random, bank = np.random.default_rng(seed), Bank(rows, 3, momentum)
    expected, filled = np.zeros((rows, 3)), np.zeros(rows, bool)
    for count in pushes:
        slot, key = random.integers(0, rows, count), random.normal(size=(count, 3)).astype(np.float32)
        key /= np.linalg.norm(key, axis=1, keepdims=True)
        bank.push(torch.from_numpy(slot), torch.from_numpy(key))
        for i, z in zip(slot, key.astype(np.float64), strict=True):
            if filled[i] and momentum:
                z = momentum * expected[i] + (1 - momentum) * z
                z /= np.linalg.norm(z)
            expected[i], filled[i] = z, True
    np.testing.assert_allclose(bank.keys, expected, atol=1e-5)
    assert bank.filled.tolist() == filled.tolist()


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    writers=st.integers(1, 9),
    readers=st.integers(1, 9),
)
def test_any_number_of_shards_reads_what_any_number_wrote(tmp_path_factory, sizes, writers, readers):
    folder = tmp_path_factory.mktemp("parts")
    whole = [Bank(rows, 2) for rows in sizes]
    for bank in whole:
        bank.keys.copy_(torch.randn(bank.keys.shape))
        bank.filled.copy_(torch.rand(len(bank.filled)) < 0.5)

    def pieces(shard, shards):
        spans, banks = [span(rows, shard, shards) for rows in sizes], []
        for bank, (first, stop) in zip(whole, spans, strict=True):
            banks.append(Bank(stop - first, 2))
            banks[-1].keys.copy_(bank.keys[first:stop])
            banks[-1].filled.copy_(bank.filled[first:stop])
        return banks, spans

    parts = [write_part(folder, f"{i}.safetensors", *pieces(i, writers)) for i in range(writers)]
    for shard in range(readers):
        expected, spans = pieces(shard, readers)
        found = [Bank(stop - first, 2) for first, stop in spans]
        read_parts(folder, parts, found, spans)
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a.keys, b.keys) and torch.equal(a.filled, b.filled)


def test_a_missing_or_damaged_part_is_refused(tmp_path):
    bank = Bank(6, 2)
    parts = [write_part(tmp_path, f"{i}", [Bank(3, 2)], [(3 * i, 3 * i + 3)]) for i in range(2)]
    with pytest.raises(UserError, match="3 rows of the memory bank are missing"):
        read_parts(tmp_path, parts[:1], [bank], [(0, 6)])
    whole = (tmp_path / "1").read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        (tmp_path / "1").write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged: 1 is missing or its checksum differs"):
            read_parts(tmp_path, parts, [bank], [(0, 6)])
