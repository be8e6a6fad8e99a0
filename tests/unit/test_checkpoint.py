"""A checkpoint is whole or not there, and never trusted when damaged."""

import pytest
import torch

from ucdr_ray.checkpoint import bank_parts, checkpoints, load_checkpoint, save_checkpoint
from ucdr_ray.errors import UserError


def save(root, step=1, keep=2, **values):
    return save_checkpoint(
        root, step, {"a": torch.arange(6.0).view(2, 3), "n": torch.tensor(3)}, values, keep
    )


def test_what_was_saved_comes_back(tmp_path):
    shared = torch.arange(4)
    folder = save_checkpoint(tmp_path, 12, {"x": shared, "y": shared, "t": torch.eye(3).T}, {"epoch": 4}, 2)
    tensors, values = load_checkpoint(folder)
    for name, value in {"x": shared, "y": shared, "t": torch.eye(3)}.items():
        assert torch.equal(tensors[name], value)
    assert (values["epoch"], values["step"]) == (4, 12)


def test_the_newest_stay_in_order_of_steps(tmp_path):
    for step in (5, 50, 500, 1000):
        save(tmp_path, step, keep=2)
    assert [int(path.name) for path in checkpoints(tmp_path)] == [500, 1000]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000500", "000001000"]


def test_unfinished_folders_are_not_seen(tmp_path):
    assert checkpoints(tmp_path / "missing") == []
    whole = save(tmp_path, 1)
    (tmp_path / ".000000002.abc.tmp").mkdir()
    (tmp_path / "000000003").mkdir()
    (tmp_path / "notes").mkdir()
    assert checkpoints(tmp_path) == [whole]


def test_a_crash_while_writing_leaves_nothing(tmp_path):
    first = save(tmp_path, 1)
    with pytest.raises(TypeError):
        save(tmp_path, 2, unserialisable=object())
    assert list(tmp_path.iterdir()) == [first]


@pytest.mark.parametrize("harm", ["flip", "cut", "missing", "foreign", "not json", "list", "edited"])
def test_every_damage_is_one_line(tmp_path, harm):
    folder = save(tmp_path)
    weights, state = folder / "state.safetensors", folder / "state.json"
    content = bytearray(weights.read_bytes())
    if harm == "flip":
        content[-1] ^= 1
        weights.write_bytes(content)
    elif harm == "cut":
        weights.write_bytes(content[:-4])
    elif harm == "missing":
        weights.unlink()
    elif harm == "edited":
        state.write_text(state.read_text().replace('"step": 1', '"step": 2'))
    elif harm == "foreign":
        state.write_text(state.read_text().replace("ucdr-checkpoint", "other"))
    elif harm == "not json":
        state.write_text("{")
    else:
        state.write_text("[]")
    with pytest.raises(UserError) as error:
        load_checkpoint(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["../other/bank.safetensors", "/etc/hostname", "", ".."])
def test_a_bank_part_outside_the_checkpoint_is_refused(file):
    part = {"file": file, "sha256": "0", "spans": [(0, 1)]}
    with pytest.raises(UserError, match="damaged checkpoint: its bank: 0.file"):
        bank_parts({"bank": [part]})
    assert bank_parts({"bank": [part | {"file": "bank-00000-of-00002.safetensors"}]})
