"""Preference pairs: every form of them, what is no pair, and what is held out."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from training.errors import PairError
from training.pairs.pairs import HELD_OUT_SHARE, read_pairs

FILLER = [{"prompt": f"question {n}", "chosen": "yes", "rejected": "no"} for n in range(40)]


def written(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_every_form_of_a_pair_is_read(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why?"}]
    said = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: why?\n\nAssistant:"
    path = written(
        tmp_path / "pairs.jsonl",
        {"prompt": "why?", "chosen": "because", "rejected": "dunno", "source": "me"},
        {"prompt": chat, "chosen": [{"role": "assistant", "content": "a"}], "rejected": "b"},
        {"chosen": f"{said} because", "rejected": f"{said} dunno"},
        {"prompt": "the same", "chosen": "x", "rejected": "x"},
        *FILLER,
    )
    text, messages, dialogue, *rest = read_pairs(path)
    assert (text.chat, text.chosen, text.rejected) == ((("user", "why?"),), "because", "dunno")
    assert messages.messages == chat and (messages.chosen, messages.rejected) == ("a", "b")
    assert dialogue.chat == (("user", "hi"), ("assistant", "hello"), ("user", "why?"))
    assert (dialogue.chosen, dialogue.rejected) == ("because", "dunno")
    assert len(rest) == len(FILLER), "equal replies say nothing"
    packed = tmp_path / "pairs.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_pairs(packed) == read_pairs(path)


def test_what_is_held_out_follows_from_the_chat_alone(tmp_path: Path) -> None:
    many = [{"prompt": f"p{n}", "chosen": "yes", "rejected": "no"} for n in range(2000)]
    pairs = read_pairs(written(tmp_path / "a.jsonl", *many))
    assert sum(pair.is_held_out for pair in pairs) / len(pairs) == pytest.approx(HELD_OUT_SHARE, abs=0.03)
    turned = [{"prompt": row["prompt"], "chosen": "no", "rejected": "maybe"} for row in reversed(many)]
    again = read_pairs(written(tmp_path / "b.jsonl", *turned))
    assert {p.chat for p in pairs if p.is_held_out} == {p.chat for p in again if p.is_held_out}


def test_a_limit_takes_the_first(tmp_path: Path) -> None:
    assert len(read_pairs(written(tmp_path / "a.jsonl", *FILLER), limit=30)) == 30


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "line 41: no JSON"),
        ("[1]", "line 41: got '.1.', allowed are prompt, chosen and rejected"),
        ({"prompt": "p", "chosen": "x"}, "line 41: got"),
        ({"prompt": "p", "chosen": 3, "rejected": "x"}, "line 41: got"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "line 41: got"),
        ({"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}, "line 41: got"),
        ({"chosen": "a", "rejected": "b"}, "line 41: got"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: x\n\nAssistant: c"}, "dialogues differ"),
        ({"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: a"}, "line 41: got"),
    ],
)
def test_what_is_no_pair_is_named_by_its_line(line: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(PairError, match=message):
        read_pairs(written(tmp_path / "a.jsonl", *FILLER, line))


def test_a_file_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PairError, match="cannot be read"):
        read_pairs(tmp_path / "nowhere.jsonl")
    (tmp_path / "broken.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(PairError, match="cannot be read"):
        read_pairs(tmp_path / "broken.jsonl.gz")
    with pytest.raises(PairError, match="holds 1 pairs"):
        read_pairs(written(tmp_path / "few.jsonl", FILLER[0]))
