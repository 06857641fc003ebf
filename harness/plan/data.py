"""Whether a point's data can feed it, without reading any of it."""

from pathlib import Path

from harness.config import Data

ID_BYTES = {"uint16": 2, "uint32": 4}


def check_tokens(data: Data, seq_len: int) -> None:
    """Raise ValueError for a token file that is missing, no file, torn, or too short for one sequence.

    A sequence needs seq_len + 1 ids: the inputs, and the targets one further. Only the file's size is read.
    """
    if data.path is None:
        raise ValueError("data.path=null: data.kind=tokens needs the file of token ids")
    path = Path(data.path)
    if not path.exists():
        raise ValueError(f"data.path={path}: no such file")
    if not path.is_file():
        raise ValueError(f"data.path={path}: not a file; it must be one file of token ids")
    size, width = path.stat().st_size, ID_BYTES[data.dtype]
    if size % width:
        raise ValueError(f"data.path={path}: {size} bytes are not a multiple of the {width} bytes of a {data.dtype} id")
    if size // width < seq_len + 1:
        raise ValueError(
            f"data.path={path}: {size // width} ids are fewer than the {seq_len + 1} that seq_len={seq_len} needs"
        )
