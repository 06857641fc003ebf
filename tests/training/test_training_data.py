"""The same global batch at every scale, ids within the vocabulary, and the learning rate's course."""

import numpy as np
import pytest
import torch

from harness.training.data import library_text, source
from harness.training.schedule import cosine

CPU = torch.device("cpu")


def rows(kind, rank=0, ranks=1, local_batch=8, accumulation=1, step=1, seed=3, **how):
    place = {"path": None, "dtype": "uint16", "vocab_size": 256, **how}
    made = source(
        kind,
        device=CPU,
        rank=rank,
        ranks=ranks,
        local_batch=local_batch,
        accumulation=accumulation,
        seq=16,
        seed=seed,
        **place,
    )
    return made.batch(step)


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "ids.bin"
    np.arange(1000, dtype="<u2").tofile(path)
    return str(path)


@pytest.mark.parametrize("kind", ["bytes", "tokens"])
def test_ranks_and_microbatches_share_out_one_global_batch(kind, tokens):
    how = {"path": tokens if kind == "tokens" else None, "vocab_size": 1000}
    ((whole, _),) = rows(kind, **how)
    shared = [x for rank in range(2) for x, _ in rows(kind, rank, 2, local_batch=2, accumulation=2, **how)]
    assert torch.equal(whole, torch.cat(shared))


@pytest.mark.parametrize("kind", ["bytes", "synthetic"])
def test_steps_and_seeds_differ_and_repeat(kind):
    first, again, later, other = rows(kind), rows(kind), rows(kind, step=2), rows(kind, seed=4)
    assert torch.equal(first[0][0], again[0][0])
    assert not torch.equal(first[0][0], later[0][0])
    assert not torch.equal(first[0][0], other[0][0])


def test_targets_are_the_tokens_one_further(tokens):
    ((tokens_in, targets),) = rows("tokens", path=tokens, vocab_size=1000)
    assert torch.equal(targets, tokens_in + 1)


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_files_hold_little_endian_ids(dtype, tmp_path):
    np.arange(300, dtype=np.dtype(dtype).newbyteorder("<")).tofile(tmp_path / "ids.bin")
    ((tokens_in, _),) = rows("tokens", path=str(tmp_path / "ids.bin"), dtype=dtype, vocab_size=300)
    assert (tokens_in[:, 1:] - tokens_in[:, :-1] == 1).all()


def test_an_id_outside_the_vocabulary_is_refused(tokens):
    with pytest.raises(ValueError, match=r"token id \d+, and the model knows 256"):
        rows("tokens", path=tokens)


def test_library_text_is_text():
    text = bytes(library_text())
    assert len(text) > 1_000_000
    assert b"import os" in text


def test_learning_rate_rises_to_its_peak_and_falls_to_its_share():
    rate = cosine(steps=100, peak=1e-3, warmup=10, final=0.1)
    rates = [rate(step) for step in range(1, 101)]
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == rates[9] == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-4)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert cosine(steps=5, peak=1.0, warmup=0, final=0.0)(5) == pytest.approx(0)
