"""The exact settings give the same bits again, also where images pass in chunks."""

import pytest


@pytest.mark.slow
def test_the_exact_settings_give_the_same_bits_again(tmp_path, tiny, same):
    flags = {"compile": False, "precision": 32, "steps": 60, "eval_every": 0, "image_chunk": 5}
    one, other = (tiny.finish(tiny.finetune(tmp_path / name, **flags)) for name in "ab")
    same.run(one, other)
    rows = [row for row in same.metrics(one) if "model_loss" in row]
    assert rows
    assert rows == [row for row in same.metrics(other) if "model_loss" in row]
