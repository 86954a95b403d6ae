"""The exact settings give the same bits again."""

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"image_chunk": 5, "beta_vae": True}], ids=str)
def test_the_exact_settings_give_the_same_bits_again(tmp_path, tiny, same, changes):
    flags = {"compile": False, "precision": 32, "steps": 80, "eval_every": 40, **changes}
    one, other = (tiny.finish(tiny.finetune(tmp_path / name, **flags)) for name in "ab")
    same.run(one, other)
    rows = [row for row in same.metrics(one) if "model_loss" in row]
    assert rows
    assert rows == [row for row in same.metrics(other) if "model_loss" in row]
    third = tiny.finish(tiny.finetune(tmp_path / "c", **flags | {"seed": 1}))
    assert rows != [row for row in same.metrics(third) if "model_loss" in row]
