from pathlib import Path

import pytest

from harness.config import Data
from harness.plan.data import check_tokens


def tokens(path: Path | None, dtype: str = "uint16") -> Data:
    return Data("tokens", "tokens", str(path) if path else None, dtype)


def test_a_file_of_just_one_sequence_and_its_last_target_is_enough(tmp_path: Path) -> None:
    (tmp_path / "ids").write_bytes(bytes(2 * 9))
    check_tokens(tokens(tmp_path / "ids"), seq_len=8)


@pytest.mark.parametrize(
    ("size", "dtype", "message"),
    [
        (2 * 8, "uint16", "8 ids are fewer than the 9 that seq_len=8 needs"),
        (2 * 9, "uint32", "18 bytes are not a multiple of the 4 bytes"),
        (19, "uint16", "19 bytes are not a multiple of the 2 bytes"),
        (0, "uint16", "0 ids are fewer"),
    ],
)
def test_a_short_or_torn_file_is_refused(tmp_path: Path, size: int, dtype: str, message: str) -> None:
    (tmp_path / "ids").write_bytes(bytes(size))
    with pytest.raises(ValueError, match=rf"data.path=.*ids: {message}"):
        check_tokens(tokens(tmp_path / "ids", dtype), seq_len=8)


def test_a_missing_file_a_folder_and_no_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data.path=.*absent: no such file"):
        check_tokens(tokens(tmp_path / "absent"), seq_len=8)
    with pytest.raises(ValueError, match="not a file"):
        check_tokens(tokens(tmp_path), seq_len=8)
    with pytest.raises(ValueError, match=r"data.path=null"):
        check_tokens(tokens(None), seq_len=8)
