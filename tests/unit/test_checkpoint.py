import pytest
import torch

from ucdr_ray.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from ucdr_ray.errors import UserError


def test_round_trip_and_only_the_newest_are_kept(tmp_path):
    for step in (1, 5, 12):
        save_checkpoint(tmp_path, step, {"a": torch.full((2,), step), "b": torch.arange(3)}, {"epoch": step}, keep=2)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["000000005", "000000012"]
    tensors, values = load_checkpoint(checkpoints(tmp_path)[-1])
    assert tensors["a"].tolist() == [12, 12] and values["epoch"] == 12 and values["step"] == 12


def test_tensors_that_share_memory_are_kept_apart(tmp_path):
    whole = torch.arange(6.0)
    save_checkpoint(tmp_path, 1, {"a": whole, "b": whole[:3], "c": whole.view(2, 3).T}, {}, keep=1)
    tensors, _ = load_checkpoint(checkpoints(tmp_path)[0])
    assert torch.equal(tensors["b"], whole[:3]) and torch.equal(tensors["c"], whole.view(2, 3).T)


def test_what_a_crash_leaves_behind_is_not_a_checkpoint(tmp_path):
    (tmp_path / ".000000007.abc.tmp").mkdir()
    (tmp_path / "000000008").mkdir()
    assert checkpoints(tmp_path) == []
    assert checkpoints(tmp_path / "nowhere") == []


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_one_clear_line(tmp_path, damage):
    folder = save_checkpoint(tmp_path, 1, {"a": torch.arange(100)}, {}, keep=1)
    file = folder / "state.safetensors"
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[-5] ^= 4
    file.write_bytes(data[:-1] if damage == "truncate" else data)
    if damage == "remove":
        file.unlink()
    with pytest.raises(UserError, match="damaged") as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_foreign_json_is_refused(tmp_path):
    folder = save_checkpoint(tmp_path, 1, {"a": torch.arange(2)}, {}, keep=1)
    (folder / "state.json").write_text("[]")
    with pytest.raises(UserError, match="not a checkpoint"):
        load_checkpoint(folder)
